"""The plain loop that serving is compared with: the whole pipeline, PNG and base64, one after the other.

Imports torch, so thread counts have to be in the environment before this module is imported.
"""

from __future__ import annotations

import base64
import time
from dataclasses import dataclass

import torch

from kernels.switch import Switch
from pipelines.catalogue import Model
from wire.generation import Generation
from worker.components import Components
from worker.pictures import encode_picture
from worker.resident import ResidentModel
from worker.task_pipeline import run_whole


@dataclass(frozen=True, kw_only=True)
class LoopResult:
    """One picture. `parts_ms` as in `bench.overhead_parts.LOOP_PARTS`, which are all of `seconds`."""

    seconds: float
    parts_ms: dict[str, float]
    picture: bytes


class PlainLoop:
    """The resident pipeline of one process. Not safe for use from several threads."""

    def __init__(self, name: str, model: Model, device: str, threads: int) -> None:
        """Loads every stage. Raises what `ResidentModel` raises."""
        torch.set_num_threads(threads)
        chosen = torch.device(device)
        # as the server's workers are told by default
        components = Components(chosen, switch=Switch("auto", chosen))
        self._resident = ResidentModel(name, model, chosen, components)
        self._resident.load(self._resident.stage_names)
        self.device_name = torch.cuda.get_device_name(device) if device.startswith("cuda") else "CPU"

    def run(self, generation: Generation) -> LoopResult:
        """One picture, from the parameters to base64."""
        started_s = time.monotonic()
        with torch.no_grad():
            pixels = run_whole(self._resident, generation).get(self._resident.graphs["text"].output).cpu()
        made_s = time.monotonic()
        picture = encode_picture(pixels)
        packed_s = time.monotonic()
        base64.b64encode(picture).decode("ascii")
        ended_s = time.monotonic()
        return LoopResult(
            seconds=ended_s - started_s,
            parts_ms={
                "pipeline": 1000 * (made_s - started_s),
                "PNG": 1000 * (packed_s - made_s),
                "base64": 1000 * (ended_s - packed_s),
            },
            picture=picture,
        )

    def run_all(self, generations: list[Generation]) -> list[LoopResult]:
        """One after the other."""
        return [self.run(generation) for generation in generations]
