"""What a gateway told its planner and what it said, in a file, and replayed through the same core."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.replay import replay
from bench.replay_command import main
from gateway.config import GatewayConfig
from gateway.errors import ConfigRefused
from gateway.recording import Recording
from gateway.records import (
    Began,
    Configured,
    Decided,
    Measured,
    Record,
    RecordingUnreadable,
    decided,
    from_bytes,
    to_bytes,
)
from planner.measurements import Measurement, Measurements
from planner.types import (
    Degrade,
    Evict,
    JobView,
    Load,
    ModelView,
    Observation,
    Pause,
    PlannerConfig,
    Reason,
    Reject,
    Run,
    RunningTask,
    Shape,
    StageSample,
    WakeAt,
    WorkerView,
)
from tests.gateway.conftest import Start, until

SHAPE = Shape(64, 64)
WHY = Reason.LATE
STAGES = ("encode", "denoise")
EVERY_EFFECT = (
    Run(stages=STAGES, jobs=("a", "b"), workers=("w0", "w1"), degree=2, reason=WHY, joins="c", detail="é"),
    Load(worker="w0", model="m", stages=STAGES, reason=WHY),
    Evict(worker="w0", model="m", stages=("encode",), reason=WHY, detail="no room"),
    Pause(worker="w0", job="a", reason=WHY),
    Reject(job="a", retry_after_s=0.1),
    Degrade(job="a", steps=3),
    WakeAt(at_s=1 / 3),
)


def seen() -> Observation:
    """With something in every field."""
    task = RunningTask("t", ("a",), "m", ("denoise",), SHAPE, 4, 2, 0.1, True, True, ("w0", "w1"), 0.2, 1)
    held = frozenset({("m", "encode"), ("m", "denoise")})
    return Observation(
        1e9 / 3,
        (JobView("a", "m", SHAPE, 4, STAGES, 0.1, 5.0, least_steps=2, priority="batch", node="n"),),
        (
            WorkerView(
                "w0", "n", held, frozenset({("m", "decode")}), task, frozenset(), True, "gpu", 10, (1, 2)
            ),
        ),
        {"m": ModelView("m", STAGES, "denoise", {"encode": 1}, {"encode": 0.5}, SHAPE)},
        (StageSample("m", "encode", SHAPE, 1, 0.7, 3.0, peak_bytes=7),),
    )


def test_every_record_is_the_same_behind_its_bytes() -> None:
    measured = Measurement(stage="encode", shape=SHAPE, seconds=0.1, peak_bytes=3, degree=2, batch=4)
    records: list[Record] = [
        Began(config=PlannerConfig(pinned={"w0": STAGES})),
        Configured(config=PlannerConfig(policy="fair", min_samples=3)),
        Measured(measurements=Measurements(device="gpu", model="m", measured=(measured,), resume_s=0.2)),
        decided(seen(), EVERY_EFFECT),
    ]
    again = list(from_bytes(b"".join(to_bytes(record) for record in records)))
    assert again[:3] == records[:3]
    assert isinstance(again[3], Decided)
    assert again[3].observation == seen()
    assert again[3].said() == EVERY_EFFECT


def test_a_record_that_was_cut_off_ends_the_recording() -> None:
    begun, other = to_bytes(Began(config=PlannerConfig())), to_bytes(Configured(config=PlannerConfig()))
    for cut in (2, 10, len(other) - 1):
        assert len(list(from_bytes(begun + other[:cut]))) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\x00\x00\x01x",
        b"{}\n{}\n{}",
        to_bytes(Configured(config=PlannerConfig())),
        to_bytes(Began(config=PlannerConfig(), format=0)),
        to_bytes(Began(config=PlannerConfig())) + b"\x00\x00\x00\x01x",
    ],
    ids=["empty", "no record", "text", "no beginning", "another format", "a later record"],
)
def test_what_is_no_recording_is_refused(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(RecordingUnreadable):
        list(from_bytes(data))
    file = tmp_path / "no.recording"
    file.write_bytes(data)
    assert main([str(file)]) == 1


async def recorded(start: Start, tmp_path: Path, **fields: object) -> Path:
    """Six pictures of two sizes, some with deadlines that cannot be met, on two scripted workers."""
    file = tmp_path / "planner.recording"
    bench = await start(record=file, profile="auto", **fields)
    asked = [
        bench.posted(seed=i, size=size, slo_ms=slo_ms)
        for i, (size, slo_ms) in enumerate(3 * [("128x128", 60_000), ("64x64", 1)])
    ]
    for each in asked:
        await each
    await until(lambda: not bench.engine.book.open_requests, "the end of all requests")
    # what is queued is written by a thread
    n_bytes = -1

    def settled() -> bool:
        nonlocal n_bytes
        before, n_bytes = n_bytes, file.stat().st_size
        return n_bytes == before

    await until(settled, "a file that grows no more")
    return file


async def test_a_recorded_gateway_s_decisions_are_made_again(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = await recorded(start, tmp_path)
    records = list(from_bytes(file.read_bytes()))
    kinds = {type(record) for record in records}
    assert kinds == {Began, Configured, Measured, Decided}
    said = [effect for record in records if isinstance(record, Decided) for effect in record.said()]
    assert {Load, Run} <= {type(effect) for effect in said}
    done = replay(records)
    assert done.differences == []
    assert done.n_effects == len(said)
    assert main([str(file)]) == 0
    assert "none of the decisions differ" in capsys.readouterr().out


async def test_an_effect_that_was_changed_is_found(
    start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = await recorded(start, tmp_path)
    records = list(from_bytes(file.read_bytes()))
    place = next(
        place
        for place, record in enumerate(records)
        if isinstance(record, Decided) and any(name == "Run" for name, _ in record.effects)
    )
    record = records[place]
    assert isinstance(record, Decided)
    name, fields = next(effect for effect in record.effects if effect[0] == "Run")
    changed = tuple(
        (name, {**fields, "detail": "forged"}) if effect == (name, fields) else effect
        for effect in record.effects
    )
    records[place] = Decided(observation=record.observation, effects=changed)
    file.write_bytes(b"".join(to_bytes(each) for each in records))
    (difference,) = replay(from_bytes(file.read_bytes())).differences
    assert difference.recorded != difference.replayed
    assert main([str(file)]) == 1
    assert "forged" in capsys.readouterr().out


def test_a_recording_ends_at_its_bound_and_what_is_there_can_be_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "planner.recording"
    begun = to_bytes(Began(config=PlannerConfig()))
    one = to_bytes(decided(seen(), ()))
    with Recording(file, max_bytes=len(begun) + 2 * len(one) + 1) as recording:
        recording.began(PlannerConfig())
        for _ in range(5):
            recording.decided(seen(), ())
    assert recording.ended is not None
    assert "bounded" in recording.ended
    assert len(list(from_bytes(file.read_bytes()))) == 3
    assert len(caplog.records) == 1


def test_a_recording_without_room_in_its_queue_ends_and_has_no_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.recording._MAX_WAITING", 2)
    recording = Recording(tmp_path / "planner.recording")
    monkeypatch.setattr(recording._thread, "start", lambda: None)
    monkeypatch.setattr(recording._thread, "join", recording._write)
    recording.__enter__()
    for number in range(3):
        recording.configured(PlannerConfig(min_samples=number + 1))
    assert recording.ended is not None
    assert recording._records.get() == Configured(config=PlannerConfig(min_samples=1))
    recording.configured(PlannerConfig(min_samples=9))
    assert recording._records.get() == Configured(config=PlannerConfig(min_samples=2))
    assert recording._records.empty()
    recording.__exit__(None, None, None)


def test_without_a_file_nothing_is_recorded_and_one_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with Recording(None) as recording:
        recording.began(PlannerConfig())
    assert recording.ended is None
    with pytest.raises(ConfigRefused), Recording(tmp_path / "nowhere" / "planner.recording"):
        pass
    assert GatewayConfig.__struct_fields__.index("record")


def test_a_full_disk_ends_it(caplog: pytest.LogCaptureFixture) -> None:
    with Recording(Path("/dev/full")) as recording:
        recording.began(PlannerConfig())
        recording.configured(PlannerConfig())
    assert recording.ended == "No space left on device"
    assert len(caplog.records) == 1
