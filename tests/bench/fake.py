"""A scripted images API with a journal, in place of a gateway."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from bench.demo import RunningNode
from bench.node import NodeConfig, OnWait
from gateway.profiles import Key, ProfileFolder
from planner.measurements import Measurement, Measurements
from planner.types import Shape

SIDES_PX = (64, 256)
STAGES = {"text_encoder": "encode", "denoise": "diffuse", "decode": "decode"}
TIMING = (
    "queue;dur=3.0, encode;dur=1.0, wait_diffuse;dur=0.5, diffuse;dur=20.0,"
    " wait_decode;dur=0.5, decode;dur=4.0, finish;dur=1.0, total;dur=30.0"
)


def png(text: str) -> bytes:
    """A small picture that depends on `text` only."""
    colour = tuple(hashlib.sha256(text.encode()).digest()[:3])
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(buffer, format="PNG")
    return buffer.getvalue()


def measurements(*, peaks: dict[str, tuple[int, int]], model: str = "triptych-emoji") -> Measurements:
    """A second for everything; `peaks`: stage -> bytes beside the weights, of each of SIDES_PX."""
    return Measurements(
        model=model,
        device="cpu",
        measured=tuple(
            _measurement(stage, side, peaks.get(stage, (0, 0))[index])
            for stage in STAGES
            for index, side in enumerate(SIDES_PX)
        ),
        weight_bytes={"text_encoder": 4, "denoise": 8, "decode": 4},
    )


def _measurement(stage: str, side_px: int, peak_bytes: int) -> Measurement:
    return Measurement(stage=stage, shape=Shape(side_px, side_px), seconds=1.0, peak_bytes=peak_bytes)


def keep_profile(folder: Path) -> None:
    """As a node leaves it that measured the model."""
    key = Key(
        model="triptych-emoji", device="cpu", versions={}, entry={}, files=(), generations=(), kernels="auto"
    )
    assert ProfileFolder(folder).write(key, measurements(peaks={"decode": (10, 40)})) is not None


@dataclass
class FakeNode:
    """Answers every request at once and writes the journal that a gateway would have written.

    `split_at` and `join_at`: after how many requests the stages move apart and together, None for never.
    """

    journal: Path
    workers: tuple[str, ...] = ("cpu-0", "cpu-1")
    salt: str = ""
    split_at: int | None = None
    join_at: int | None = None
    fail_at: int | None = None
    on_request: Callable[[int], None] = lambda n: None
    n_requests: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    base_url: str = ""

    def started(self) -> None:
        for worker in self.workers:
            self.write(event="worker", worker=worker, state="up", at_s=time.monotonic())
            self._effect("load", worker, tuple(STAGES), "initial_placement", "first")
            for stage, kind in STAGES.items():
                self._stage(worker, stage, kind, None, time.monotonic(), 0.001, 2)

    def write(self, **event: Any) -> None:
        with self.journal.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")

    async def generate(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        self.n_requests += 1
        self.on_request(self.n_requests)
        if self.n_requests == self.fail_at:
            return web.json_response({"error": {"message": "denoise failed"}}, status=500)
        if self.n_requests == self.split_at:
            self._effect("evict", "cpu-0", ("denoise",), "mix_shifted", "denoise took 55 %")
            self._effect("evict", "cpu-1", ("text_encoder", "decode"), "mix_shifted", "denoise took 55 %")
        if self.n_requests == self.join_at:
            self._effect("load", "cpu-0", ("denoise",), "mix_shifted", "denoise took 93 %")
            self._effect("load", "cpu-1", ("text_encoder", "decode"), "mix_shifted", "denoise took 93 %")
        request_id = f"req-{self.n_requests}"
        steps, at_s = body["num_inference_steps"], time.monotonic()
        for index in range(body["n"]):
            for stage, kind in STAGES.items():
                seconds = 0.001 * (steps if kind == "diffuse" else 2)
                self._stage("cpu-0", stage, kind, f"{request_id}-{index}", at_s, seconds, steps)
                at_s += seconds
        self.write(
            event="request",
            request=request_id,
            outcome="done",
            times_s={"total": 0.03},
            deadline_s=1.0,
            deadline_met=True,
            at_s=time.monotonic(),
        )
        names = [f"{self.salt}{body['prompt']}{body['seed'] + i}{steps}" for i in range(body["n"])]
        data = [{"b64_json": base64.b64encode(png(name)).decode()} for name in names]
        return web.json_response(
            {"data": data}, headers={"Server-Timing": TIMING, "X-Request-Id": request_id}
        )

    def _effect(self, effect: str, worker: str, stages: tuple[str, ...], reason: str, detail: str) -> None:
        self.write(
            event="effect",
            effect=effect,
            worker=worker,
            stages=stages,
            reason=reason,
            detail=detail,
            at_s=time.monotonic(),
        )

    def _stage(
        self, worker: str, stage: str, kind: str, job: str | None, at_s: float, seconds: float, steps: int
    ) -> None:
        self.write(
            event="stage",
            worker=worker,
            job=job,
            request=job and job.rpartition("-")[0],
            model="tiny",
            stage=stage,
            kind=kind,
            started_at_s=at_s,
            ended_at_s=at_s + seconds,
            overhead_s=0.0,
            steps=steps if kind == "diffuse" else 1,
        )


@dataclass
class FakeFleet:
    """What the demo starts instead of gateways: `settings` by the phase's name. Counts starts and stops."""

    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    configs: list[NodeConfig] = field(default_factory=list)
    n_stopped: int = 0

    @contextlib.asynccontextmanager
    async def start(self, config: NodeConfig, on_wait: OnWait) -> AsyncIterator[RunningNode]:
        self.configs.append(config)
        name = config.name.removeprefix("gateway-")
        node = FakeNode(config.folder / f"{config.name}.jsonl", **self.settings.get(name, {}))
        node.journal.unlink(missing_ok=True)
        keep_profile(Path(config.flags[config.flags.index("--profiles") + 1]))
        node.started()
        app = web.Application()
        app.router.add_post("/v1/images/generations", node.generate)
        server = TestServer(app)
        await server.start_server()
        node.base_url = str(server.make_url("/"))
        on_wait("not yet")
        try:
            yield node
        finally:
            await server.close()
            self.n_stopped += 1
