"""The command ``python -m models.recipe``: runs every stage again, from fetched art to scored weights."""

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch

from models.recipe import art, autoencoder, captions, denoiser, export, score, tokenizer
from models.recipe.training import Lanes

MODELS = Path(__file__).parent.parent
Result = TypeVar("Result")


def timed(name: str, work: Path, stage: Callable[[], Result]) -> Result:
    """Runs a stage and adds its seconds to ``seconds.json`` of the work folder, over all resumptions."""
    path = work / "seconds.json"
    began = time.perf_counter()
    result = stage()
    seconds = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - began, 1)
    path.write_text(json.dumps(seconds, indent=2) + "\n", encoding="utf-8")
    return result


def described(device: torch.device, lanes: Lanes) -> str:
    """The device in words: the GPU's name, or the processor's architecture and the threads that train."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {platform.machine()}, {lanes.count} threads"


def commit() -> str:
    """The commit of the checkout that holds this recipe, or ``unknown`` outside of one."""
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=MODELS, capture_output=True, text=True)
    return asked.stdout.strip() or "unknown"


def run(work: Path, out: Path, device: torch.device, lanes: Lanes) -> None:
    """All stages; each finds what an earlier run left in ``work`` and goes on from there."""
    work.mkdir(parents=True, exist_ok=True)
    folder = out / "triptych-emoji"

    things, pictures = timed("art", work, lambda: art.prepare(work))
    names = [thing.name for thing in things if thing.name is not None]
    texts = captions.all_captions(things)
    words = tokenizer.build([text for of_thing in texts for text in of_thing])

    vae = timed("autoencoder", work, lambda: autoencoder.train(pictures, len(names), work, device, lanes))
    taught = autoencoder.to_model_range(pictures[: len(names)])
    latents = autoencoder.encode(vae, taught)
    autoencoder.set_latent_statistics(vae, latents)
    rebuilt = autoencoder.decode(vae, latents)
    psnr_db = autoencoder.psnr_db(float((rebuilt - taught).square().mean()))

    scaled = (latents - vae.config["shift_factor"]) * vae.config["scaling_factor"]
    lessons = denoiser.lessons_of(scaled, texts, words)
    model = timed("denoiser", work, lambda: denoiser.train(lessons, work, device, lanes))

    export.export(model.cpu(), vae.cpu(), words, folder)
    (folder / "names.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    score.thumbnails(pictures[: len(names)]).save(folder / "references.png", optimize=True)

    about: dict[str, object] = {
        "commit": commit(),
        "device": described(device, lanes),
        "seconds": json.loads((work / "seconds.json").read_text(encoding="utf-8")),
        "autoencoder_psnr_db": round(psnr_db, 2),
    }
    share = score.score(folder, pictures[: len(names)], names, out, about)
    print(f"autoencoder {psnr_db:.2f} dB, nearest reference right for {share:.1%} of {len(names)} names")


def main() -> None:
    """Reads the command line and runs the recipe."""
    parser = argparse.ArgumentParser(prog="python -m models.recipe", description=__doc__)
    parser.add_argument(
        "--work",
        type=Path,
        default=MODELS.parent / ".recipe",
        help="folder of the checkpoints and the fetched art",
    )
    parser.add_argument(
        "--out", type=Path, default=MODELS, help="folder that gets triptych-emoji, sheet.png and results"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads to use")
    options = parser.parse_args()
    torch.set_num_threads(1)  # lanes take the other cores
    device = torch.device(options.device)
    run(options.work, options.out, device, Lanes(options.threads if device.type == "cpu" else 1))


if __name__ == "__main__":
    main()
