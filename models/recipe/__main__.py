"""The command ``python -m models.recipe``: runs every stage again, from fetched art to scored weights."""

import argparse
import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKL

from models.recipe import art, autoencoder, denoiser, export, latents, plan, score, teacher, text, tokenizer
from models.recipe.captions import Captioner
from models.recipe.scenes import NONE, SQUARE, WHITE, Painter
from models.recipe.training import Lanes

MODELS = Path(__file__).parent.parent
Result = TypeVar("Result")


def timed(name: str, work: Path, stage: Callable[[], Result]) -> Result:
    """Runs a stage and adds its seconds to those of earlier runs that finished it, in ``seconds.json``."""
    began = time.perf_counter()
    result = stage()
    spent(name, work, time.perf_counter() - began)
    return result


def spent(name: str, work: Path, more_s: float) -> dict[str, float]:
    """Adds seconds to a stage's in ``seconds.json`` of the work folder; returns those of all stages."""
    path = work / "seconds.json"
    seconds: dict[str, float] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    seconds[name] = round(seconds.get(name, 0.0) + more_s, 1)
    path.write_text(json.dumps(seconds, indent=2) + "\n", encoding="utf-8")
    return seconds


def described(device: torch.device, lanes: Lanes) -> str:
    """The device in words: the GPU's name, or the processor's architecture and the threads that train."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {platform.machine()}, {lanes.count} threads"


def commit() -> str:
    """The commit of the checkout that holds this recipe, or ``unknown`` outside of one or without git."""
    if shutil.which("git") is None:
        return "unknown"
    asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=MODELS, capture_output=True, text=True)
    return asked.stdout.strip() or "unknown"


def autoencoder_of(
    painter: Painter,
    concepts: int,
    chosen: plan.Plan,
    start: Path | None,
    work: Path,
    device: torch.device,
    lanes: Lanes,
) -> AutoencoderKL:
    """The trained autoencoder with the statistics of its latents, kept in ``vae`` of the work folder."""
    folder = work / "vae"
    if not folder.exists():
        vae = autoencoder.train(painter, concepts, chosen.autoencoder, start, work, device, lanes)
        rows = autoencoder.training_scenes(concepts, 256, np.random.default_rng(0))
        pictures = autoencoder.to_model_range(painter.paint_all(rows, SQUARE))
        autoencoder.set_latent_statistics(vae, autoencoder.encode(vae, pictures))
        vae.save_pretrained(folder)
    return AutoencoderKL.from_pretrained(folder, dtype=torch.float32).eval().to(device)


def run(work: Path, out: Path, start: Path | None, device: torch.device, lanes: Lanes, until: str) -> None:
    """All stages up to ``until``; each finds what an earlier run left in ``work`` and goes on from there."""
    work.mkdir(parents=True, exist_ok=True)
    chosen = plan.GPU if device.type == "cuda" else plan.CPU
    every = timed("art", work, lambda: art.prepare(work))
    words = timed("teacher", work, lambda: teacher.prepare(every, work))
    concrete = sum(concept.concrete for concept in every.concepts)
    taught = every.limited(concrete) if chosen.concrete_only else every
    concepts = len(taught.concepts)
    if until == "art":
        return
    painter, captioner = Painter(taught), Captioner(taught.concepts)

    vae = timed(
        "autoencoder",
        work,
        lambda: autoencoder_of(painter, concepts, chosen, start, work, device, lanes),
    )
    print("unseen art, dB:", autoencoder.unseen_psnr_db(vae, painter, concepts), flush=True)
    if until == "autoencoder":
        return

    vocabulary = tokenizer.build(tokenizer.corpus(captioner, concepts, words.phrases))
    book = text.phrasebook(words, vocabulary, device)
    texts = timed("text", work, lambda: text.train(book, chosen.text, work, device, lanes))
    if until == "text":
        return

    pools = latents.Pools(vae, painter, captioner, vocabulary, concepts, chosen, work, device)

    def finished(stage: plan.Stage, model: denoiser.TextToLatent, seconds: float) -> None:
        """Publishes and scores a stage; the last one goes to ``out``."""
        place = out if stage is chosen.stages[-1] else work / "stages" / stage.name.replace(" ", "-")
        folder = place / "triptych-emoji"
        export.export(model, vae, vocabulary, folder)
        names = "\n".join(concept.name for concept in taught.concepts) + "\n"
        (folder / "names.txt").write_text(names, encoding="utf-8")
        rows = np.stack([np.array([concept, NONE, 0, WHITE, 0]) for concept in range(concepts)])
        score.thumbnails(painter.paint_all(rows, SQUARE)).save(folder / "references.png", optimize=True)
        about: dict[str, object] = {
            "stage": stage.name,
            "commit": commit(),
            "device": described(device, lanes),
            "seconds": spent(stage.name, work, seconds),
        }
        part = 1.0 if place is out else chosen.scored_part
        torch.set_num_threads(lanes.count)
        print(stage.name, score.score(folder, taught, place, device, about, part), flush=True)
        torch.set_num_threads(1)

    wanted = [stage.name for stage in chosen.stages]
    stages = chosen.stages[: wanted.index(until) + 1] if until in wanted else chosen.stages
    model = denoiser.TextToLatent(texts)
    empty = latents.tokenize(vocabulary, [""])[0].to(device)
    denoiser.train(stages, model, chosen.average_decay, pools, book, empty, work, device, lanes, finished)


def main() -> None:
    """Reads the command line and runs the recipe."""
    parser = argparse.ArgumentParser(prog="python -m models.recipe", description=__doc__)
    parser.add_argument(
        "--work",
        type=Path,
        default=MODELS.parent / ".recipe",
        help="folder of the checkpoints and of the prepared data: art.npz, teacher.npz",
    )
    parser.add_argument(
        "--out", type=Path, default=MODELS, help="folder that gets triptych-emoji, sheets and results"
    )
    parser.add_argument("--autoencoder", type=Path, help="weights that the autoencoder starts from")
    stages = ["art", "autoencoder", "text", *(stage.name for stage in plan.CPU.stages)]
    parser.add_argument("--until", choices=stages, default=stages[-1], help="the last stage to run")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads to use")
    options = parser.parse_args()
    torch.set_num_threads(1)  # lanes take the other cores
    device = torch.device(options.device)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    lanes = Lanes(options.threads if device.type == "cpu" else 1)
    run(options.work, options.out, options.autoencoder, device, lanes, options.until)


if __name__ == "__main__":
    main()
