"""Whether a model can be served: derived, loaded, and the same pictures in pieces as whole, bit for bit.

In pieces, each stage runs on a worker object of its own, which is dropped behind it, and what passes between
two of them goes through bytes, as between processes. The weights are held at most once at a time.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import torch
from PIL import Image

from kernels.switch import Switch
from pipelines.catalogue import Model
from pipelines.errors import PipelineError
from pipelines.families import check_fields
from wire.generation import Adapter, Generation
from wire.handle import Handle
from worker.checkpoint import Checkpoint
from worker.components import Components
from worker.errors import WorkerError
from worker.loop_tap import Capture
from worker.packing import Payload, pack, unpack
from worker.resident import ResidentModel
from worker.stages import StageRun
from worker.task_pipeline import run_whole

Say = Callable[[str, str | None, str], None]
"""Takes a step, why it failed or None, and what else there is to know of it."""

_STEPS = 4
_STRENGTH = 0.75
# a picture to start from is handed over beside the request here, so nothing reads this
_SOURCE = Handle(node="", name="", n_bytes=0)


@dataclass(frozen=True)
class _Whole:
    """One request, its stages, and the pixels of the whole pipeline, on the CPU."""

    generation: Generation
    stages: tuple[str, ...]
    pixels: torch.Tensor


class _Left(BaseException):
    """Leaves a loop with its checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint


def check_model(
    name: str, model: Model, device: torch.device, say: Say, switch: Switch | None = None
) -> bool:
    """Tells each step to `say`. `switch`: of the kernels that it is made with, torch's own where None.
    Returns whether all went well. No fault of the model is raised."""
    failures: list[str] = []

    def tell(step: str, failure: str | None, note: str) -> None:
        if failure is not None:
            failures.append(failure)
        say(step, failure, note)

    def resident() -> ResidentModel:
        return ResidentModel(name, model, device, Components(device, switch=switch))

    wholes = _run_whole(model, resident, tell)
    if not failures:
        _run_in_pieces(device, resident, wholes, tell)
    return not failures


def requests(model: Model) -> dict[str, Generation]:
    """What is run, by its label: each workflow at the smallest size, each adapter, a tiled decode.

    Raises `FieldRefused` if the model's own defaults are refused by its family.
    """
    family = model.family_table
    side_px = -(-model.min_size_px // model.size_multiple_px) * model.size_multiple_px
    is_video = family.output == "videos"
    plain = Generation(
        prompt="a red apple",
        width_px=side_px,
        height_px=side_px,
        num_inference_steps=min(max(_STEPS, family.min_steps), model.max_steps),
        guidance_scale=model.default_guidance,
        seed=7,
        num_frames=min(model.default_frames, 1 + family.frame_stride) if is_video else 1,
    )
    made: dict[str, Generation] = {}
    for workflow, chosen in family.workflows.items():
        source = None if workflow == "text" else _SOURCE
        strength = _STRENGTH if chosen.takes_strength else None
        check_fields(
            family,
            guidance_scale=plain.guidance_scale,
            negative_prompt=None,
            workflow=workflow,
            strength=strength,
            num_inference_steps=plain.num_inference_steps,
            num_frames=plain.num_frames if is_video else None,
        )
        made[workflow] = msgspec.structs.replace(plain, image=source, strength=strength)
    first, generation = next(iter(made.items()))
    for adapter, source_file in model.adapters.items():
        check_fields(family, guidance_scale=plain.guidance_scale, negative_prompt=None, lora=adapter)
        put_on = Adapter(name=adapter, source=source_file)
        made[f"{first}, lora {adapter}"] = msgspec.structs.replace(generation, adapter=put_on)
    if family.tiles_decode:
        made[f"{first}, tiled"] = msgspec.structs.replace(generation, tiled_decode=True)
    return made


def one_line(error: BaseException) -> str:
    """The error's text without line breaks; its class in front unless it is one of our own."""
    text = " ".join(str(error).split())
    return text if isinstance(error, PipelineError | WorkerError) else f"{type(error).__name__}: {text}"


class _Route:
    """One request's way through the stages, on one worker object after another.

    With `leaves`, its loop is left half way and continued on the next object that holds the stage.
    """

    def __init__(self, label: str, whole: _Whole, *, leaves: bool) -> None:
        self.step = f"{label}, {'resumed' if leaves else 'split'}"
        self.pending = list(whole.stages)
        self._whole = whole
        self._failure: str | None = None
        self._pixels = torch.empty(0)
        self._leaves = leaves
        self._payload: Payload | None = None
        self._checkpoint: Checkpoint | None = None

    def advance(self, resident: ResidentModel, stage: str) -> None:
        """Run `stage` if it is the next one. A failure ends the route."""
        if self.pending[:1] != [stage]:
            return
        try:
            generation = self._whole.generation
            run = StageRun(resident, generation, self._payload, _source_picture(generation))
            run.run(stage, self._boundary, self._checkpoint)
            self.pending.pop(0)
            self._checkpoint = None
            if self.pending:
                self._payload = unpack(pack(run.payload(stage))[0])
            else:
                self._pixels = run.output()
        except _Left as left:
            self._checkpoint = Checkpoint.of(unpack(pack(left.checkpoint.payload())[0]).to(resident.device))
        except Exception as error:  # a family's own code may raise anything; the report says so
            self.pending.clear()
            self._failure = f"stage {stage}: {one_line(error)}"

    def verdict(self) -> str | None:
        """Why it failed, or in what its picture is another one than the whole pipeline's."""
        ours, expected = self._pixels, self._whole.pixels
        if self._failure is not None or torch.equal(ours, expected):
            return self._failure
        if ours.shape != expected.shape:
            return f"the picture is {list(ours.shape)}, and {list(expected.shape)} whole"
        apart = (ours - expected).abs()
        return f"{int(apart.count_nonzero())} of {apart.numel()} values differ, by {apart.max():.2g} at most"

    def _boundary(self, steps_done: int, steps: int, capture: Capture) -> None:
        if self._leaves and self._checkpoint is None and steps_done == steps // 2:
            raise _Left(capture())


def _run_whole(model: Model, make: Callable[[], ResidentModel], say: Say) -> dict[str, _Whole]:
    """Each request by its label, as far as they go well."""
    wholes: dict[str, _Whole] = {}
    step, place, started_s = "derive", "", time.monotonic()
    try:
        resident = make()
        for workflow, graph in resident.graphs.items():
            say(step, None, f"{workflow}: {' > '.join(graph.names)}")
        step, started_s = "load", time.monotonic()
        resident.load(resident.stage_names)
        say(step, None, f"{resident.resident_bytes / 1e6:.1f} MB, {time.monotonic() - started_s:.1f} s")
        step = "defaults"
        for label, generation in requests(model).items():
            step, started_s = f"{label}, whole", time.monotonic()
            place = (
                f" at {generation.width_px}x{generation.height_px}, {generation.num_inference_steps} steps"
            )
            state = run_whole(resident, generation, _source_picture(generation))
            pixels: torch.Tensor = state.get(model.family_table.output).detach().cpu()
            broken = None if pixels.isfinite().all() else f"the picture is not all numbers{place}"
            say(step, broken, f"{place.strip()}, {time.monotonic() - started_s:.1f} s")
            stages = resident.graphs[generation.workflow].names
            wholes[label] = _Whole(generation, stages, pixels)
    except Exception as error:  # a family's own code may raise anything; the report says so
        say(step, one_line(error) + place, "")
    return wholes


def _run_in_pieces(
    device: torch.device, make: Callable[[], ResidentModel], wholes: dict[str, _Whole], say: Say
) -> None:
    routes = [
        _Route(label, whole, leaves=leaves) for label, whole in wholes.items() for leaves in (False, True)
    ]
    # the longest has the stages of all, in order, so that routes wait for one another and share loads
    order = max((whole.stages for whole in wholes.values()), key=len)
    while waiting := [route.pending[0] for route in routes if route.pending]:
        stage = min(waiting, key=order.index)
        _drop_weights(device)
        try:
            resident = make()
            resident.load((stage,))
        except (PipelineError, WorkerError, torch.OutOfMemoryError) as error:
            say(f"load {stage}", one_line(error), "")
            return
        for route in routes:
            route.advance(resident, stage)
        del resident
    for route in routes:
        say(route.step, route.verdict(), "")


def _source_picture(generation: Generation) -> Image.Image | None:
    """What a request starts from: seeded noise in large blocks."""
    if generation.image is None:
        return None
    blocks = np.random.default_rng(3).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((generation.width_px, generation.height_px))


def _drop_weights(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
