"""What `/metrics` tells, read while workers are held at known points, and what docs/metrics.md says of it."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

import pytest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from gateway.fleet_view import fleet_report
from gateway.loop_lag import sample_lag
from gateway.metrics import Metrics
from gateway.version import VERSION
from tests.gateway.conftest import OTHER, Bench, Start, until
from tests.gateway.toy import NODE
from wire.to_gateway import Heartbeat, KernelCalls, Phase, StagesLoaded

TABLE = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"
SPLIT = {"cpu-0": ("text_encoder", "decode"), "cpu-1": ("denoise",)}


class Read:
    """One answer of `/metrics`."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self._samples = [sample for family in self.families for sample in family.samples]

    def value(self, name: str, **labels: str) -> float:
        """Of the one sample with exactly these labels."""
        (found,) = [s.value for s in self._samples if s.name == name and s.labels == labels]
        return found

    def by_stage(self, name: str) -> dict[str, float]:
        return {s.labels["stage"]: s.value for s in self._samples if s.name == name}

    def has(self, name: str, **labels: str) -> bool:
        return any(s.name == name and labels.items() <= s.labels.items() for s in self._samples)


async def read(bench: Bench) -> Read:
    response = await bench.client.get("/metrics")
    assert response.content_type == "text/plain"
    return Read(await response.text())


def rows() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Of the table: type and labels by name."""
    row = re.compile(r"^\| `(triptych_\w+)` \| (\w+) \|([\w, ]*)\|", re.MULTILINE)
    return {
        name: (kind, tuple(part.strip() for part in labels.split(",") if part.strip()))
        for name, kind, labels in row.findall(TABLE.read_text())
    }


def full_name(name: str, kind: str) -> str:
    return f"{name}_total" if kind == "counter" else name


async def test_the_table_and_the_registry_agree(start: Start) -> None:
    bench = await start()
    documented = rows()
    families = [f for f in (await read(bench)).families if f.name.startswith("triptych_")]
    assert {full_name(f.name, f.type): f.type for f in families} == {
        name: kind for name, (kind, _) in documented.items()
    }
    shown = {
        full_name(family.name, family.type): set(sample.labels) - {"le"}
        for family in families
        for sample in family.samples
    }
    # a counter shows its labels only once it has counted
    pushed = {
        full_name(metric._name, str(metric._type)): set(metric._labelnames)
        for metric in vars(bench.engine.metrics).values()
        if isinstance(metric, MetricWrapperBase)
    }
    for name, labels in (shown | pushed).items():
        assert labels == set(documented[name][1]), name


async def test_names_follow_the_conventions(start: Start) -> None:
    bench = await start()
    for family in (await read(bench)).families:
        assert family.documentation
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_jobs"))
        if family.name.endswith(("_ms", "_millis", "_kb", "_mb")):
            pytest.fail(f"{family.name} is not in base units")


async def test_gauges_are_right_while_requests_wait(start: Start) -> None:
    """Two workers, split: one picture is denoised, two wait for that, one is encoded, three wait for it."""
    bench = await start(placement=SPLIT)
    idle = await read(bench)
    assert set(idle.by_stage("triptych_queue_jobs").values()) == {0.0}
    bench.fleet.fates.add("denoise", "hold")
    posted = [bench.posted(seed=1, n=3, slo_ms=10_000)]
    await until(lambda: sorted(job.state for job in bench.engine.book) == ["diffusing", "ready", "ready"])
    bench.fleet.fates.add("text_encoder", "hold")
    posted.append(bench.posted(seed=5, n=4, slo_ms=20_000))
    await until(lambda: sum(job.state == "encoding" for job in bench.engine.book) == 1)
    seen = await read(bench)
    assert seen.by_stage("triptych_queue_jobs") == {"text_encoder": 3, "denoise": 2, "decode": 0}
    assert seen.by_stage("triptych_in_flight_jobs") == {"text_encoder": 1, "denoise": 1, "decode": 0}
    assert seen.value("triptych_jobs", state="queued") == 3
    assert seen.value("triptych_jobs", state="ready") == 2
    assert seen.value("triptych_open_requests") == 2
    assert seen.value("triptych_worker_busy", worker="cpu-0") == 1
    assert seen.value("triptych_handoff_files") == bench.n_kept + 3
    assert seen.value("triptych_handoff_owned_bytes") <= seen.value("triptych_handoff_bytes")
    bench.fleet.release.set()
    assert [(await response).status for response in posted] == [200, 200]
    after = await read(bench)
    assert set(after.by_stage("triptych_queue_jobs").values()) == {0.0}
    assert set(after.by_stage("triptych_in_flight_jobs").values()) == {0.0}
    assert after.value("triptych_open_requests") == 0
    written = after.value("triptych_handoff_written_files_total")
    assert written - after.value("triptych_handoff_freed_files_total") == bench.n_kept


async def test_models_are_told_apart_and_leave(start: Start) -> None:
    bench = await start(("text_encoder", "hold"), n_workers=1, models=("toy", OTHER))
    first = bench.posted(model="toy")
    await until(lambda: any(job.state == "encoding" for job in bench.engine.book))
    waiting = [bench.posted(model="toy"), bench.posted(model=OTHER, n=2)]
    await until(lambda: bench.engine.book.n_waiting() == 3)
    seen = await read(bench)
    for name, stage, jobs in (("toy", "text_encoder", 1), (OTHER, "text_encoder", 2), (OTHER, "denoise", 0)):
        assert seen.value("triptych_queue_jobs", model=name, stage=stage) == jobs
    assert seen.value("triptych_in_flight_jobs", model="toy", stage="text_encoder") == 1
    assert seen.value("triptych_in_flight_jobs", model=OTHER, stage="text_encoder") == 0
    bench.fleet.release.set()
    assert [(await posted).status for posted in (first, *waiting)] == [200] * 3
    seen = await read(bench)
    assert seen.value("triptych_requests_total", model="toy", outcome="done", code="") == 2
    assert seen.value("triptych_requests_total", model=OTHER, outcome="done", code="") == 1
    assert (await bench.client.delete(f"/v1/models/{OTHER}")).status == 202
    await until(lambda: [served.name for served in bench.engine.roster] == ["toy"])
    seen = await read(bench)
    assert not seen.has("triptych_queue_jobs", model=OTHER)
    assert not seen.has("triptych_model_status", model=OTHER)
    assert seen.has("triptych_requests_total", model=OTHER)


async def test_what_a_request_leaves(start: Start) -> None:
    bench = await start(checkpoint_every=2)
    assert (await bench.post(n=2, num_inference_steps=5, slo_ms=60_000)).status == 200
    seen = await read(bench)
    model = {"model": "toy"}
    assert seen.value("triptych_requests_total", outcome="done", code="", **model) == 1
    assert seen.value("triptych_request_seconds_count", outcome="done", **model) == 1
    assert seen.value("triptych_request_queue_seconds_count", **model) == 1
    assert seen.value("triptych_deadlines_total", met="true", **model) == 1
    assert seen.value("triptych_stage_seconds_count", stage="denoise", **model) == 2
    assert seen.value("triptych_step_seconds_count", stage="denoise", **model) == 2
    # the scripted worker says 10 ms a stage
    assert seen.value("triptych_step_seconds_sum", stage="denoise", **model) == pytest.approx(2 * 0.01 / 5)
    assert not seen.has("triptych_step_seconds_count", stage="decode")
    assert seen.value("triptych_checkpoints_total", **model) == 4
    assert seen.value("triptych_checkpoint_bytes_total", **model) > 0


async def test_deadlines_that_are_missed(start: Start) -> None:
    bench = await start(("denoise", "hold"), ("denoise", "fail:internal"), n_workers=1)
    late = bench.posted(slo_ms=60, drop_if_late=True)
    assert (await late).status >= 400
    assert (await bench.post()).status == 500
    seen = await read(bench)
    assert seen.value("triptych_deadlines_total", model="toy", met="false") == 2
    assert seen.value("triptych_requests_total", model="toy", outcome="failed", code="stage_failed") == 1


@pytest.mark.parametrize(
    ("stage", "fate", "reason"),
    [
        ("denoise", "die", "worker_lost"),
        ("denoise", "give_up", "given_up"),
        ("denoise", "unasked", "given_up"),
        ("denoise", "fail:store_full", "store_full"),
        ("decode", "fail:handoff_lost", "handoff_lost"),
    ],
)
async def test_retries_by_reason(start: Start, stage: str, fate: str, reason: str) -> None:
    bench = await start((stage, fate))
    assert (await bench.post()).status == 200
    assert (await read(bench)).value("triptych_job_retries_total", model="toy", reason=reason) == 1


async def test_a_worker_that_is_killed(start: Start) -> None:
    bench = await start(("denoise", "silent"), heartbeat_timeout_s=0.5)
    assert (await bench.post()).status == 200
    await until(lambda: all(worker.is_up for worker in bench.engine.fleet))
    (lost,) = [worker for worker in bench.engine.fleet if worker.n_exits]
    seen = await read(bench)
    assert seen.value("triptych_worker_kills_total", worker=lost.worker_id) == 1
    assert seen.value("triptych_worker_restarts_total", worker=lost.worker_id) == 1
    assert lost.last_exit == "killed by SIGKILL"


async def test_which_way_the_calls_of_a_worker_went(start: Start) -> None:
    bench = await start()
    worker = bench.engine.fleet["cpu-1"]
    calls = (
        KernelCalls(op="attention", path="torch", reason="", calls=2),
        KernelCalls(op="attention", path="torch", reason="head size", calls=3),
        KernelCalls(op="attention", path="triton", reason="", calls=7),
    )
    worker.beat(Heartbeat(phase=Phase.IDLE, since_s=0.0, kernels=calls), bench.engine.now_s())
    # at once: the scripted worker's own heartbeat would say otherwise
    seen = Read(bench.engine.metrics.render(0).decode())
    report = fleet_report(bench.engine, 0)
    where = {"worker": "cpu-1", "op": "attention"}
    assert seen.value("triptych_kernel_calls_total", **where, path="triton") == 7
    assert seen.value("triptych_kernel_calls_total", **where, path="torch") == 5
    assert seen.value("triptych_kernel_fallbacks_total", **where, reason="head size") == 3
    assert not seen.has("triptych_kernel_calls_total", worker="cpu-0")
    assert not seen.has("triptych_kernel_fallbacks_total", reason="")
    assert report.gateway.kernels == "auto"
    assert [(each.path, each.reason, each.calls) for each in report.workers[1].kernels] == [
        ("torch", None, 2),
        ("torch", "head size", 3),
        ("triton", None, 7),
    ]


async def test_what_was_loaded_and_from_where(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    bench = await start(n_workers=1)
    before = (await read(bench)).value("triptych_load_seconds_count", model="toy")
    message = StagesLoaded(
        model="toy",
        stages=("denoise",),
        load_s=0.5,
        resident_bytes=2000,
        host_bytes=3000,
        origins={"vae": "held", "transformer": "host", "tokenizer": "disk", "x": 'of a worker that lies"'},
        notes=("transformer: no room for a host copy",),
    )
    bench.engine.roster.heard(bench.engine.fleet["cpu-0"], message)
    seen = await read(bench)
    assert seen.value("triptych_load_seconds_count", model="toy") == before + 1
    for origin in ("held", "host", "disk", "other"):
        assert seen.value("triptych_loaded_parts_total", model="toy", origin=origin) == 1
    assert seen.value("triptych_worker_resident_bytes", worker="cpu-0") == 2000
    assert seen.value("triptych_host_weights_bytes", node=NODE) == 3000
    assert "cpu-0: transformer: no room for a host copy" in caplog.messages


async def test_the_status_of_models(start: Start) -> None:
    bench = await start(("warm:decode", "hold"), n_workers=1, wait_ready=False)
    assert (await read(bench)).value("triptych_model_status", model="toy", status="loading") == 1
    bench.fleet.release.set()
    await until(bench.engine.ready.is_set)
    seen = await read(bench)
    assert seen.value("triptych_model_status", model="toy", status="ready") == 1
    assert seen.value("triptych_model_status", model="toy", status="loading") == 0


async def test_what_is_always_told(start: Start) -> None:
    bench = await start()
    seen = await read(bench)
    info = next(family for family in seen.families if family.name == "triptych_build_info")
    assert info.samples[0].labels["version"] == VERSION
    assert seen.value("triptych_log_dropped_lines_total") == 0
    assert seen.value("process_resident_memory_bytes") > 1e6


async def test_the_lag_of_the_event_loop_is_seen() -> None:
    lags: list[float] = []
    sampling = asyncio.create_task(sample_lag(lags.append, interval_s=0.001))
    await until(lambda: len(lags) > 2)
    lags.clear()
    # what blocks the loop is what is to be seen, so this test blocks it

    time.sleep(0.05)  # noqa: ASYNC251
    await until(lambda: lags)
    assert lags[0] >= 0.04
    sampling.cancel()


def test_metrics_of_two_gateways_are_apart() -> None:
    first, second = Metrics(), Metrics()
    first.kills.labels("cpu-0").inc()
    assert b'kills_total{worker="cpu-0"}' in first.render(0)
    assert b'kills_total{worker="cpu-0"}' not in second.render(0)
