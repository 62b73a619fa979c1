"""The device loop: commands in, messages out, on a tiny model and a real store."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
import torch
from PIL import Image, ImageSequence

from pipelines.catalogue import Model, to_entry
from pipelines.errors import FieldRefused
from pipelines.graph import StageGraph
from tests.families.sd3 import sd3
from tests.families.wan import wan
from tests.worker.driver import STAGES, Driver, make_task
from wire.generation import FileFormat, Generation
from wire.handoff import HandoffStore
from wire.to_gateway import (
    Described,
    DescribeFailed,
    FailureKind,
    LoadFailed,
    Phase,
    StageDone,
    StagesEvicted,
    StagesLoaded,
    StageStarted,
    StepDone,
    TaskCancelled,
    TaskDone,
    TaskFailed,
    ToGateway,
)
from wire.to_worker import Describe, EvictStages, LoadStages
from worker.pictures import encode_picture
from worker.resident import ResidentModel
from worker.task_pipeline import run_whole


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return sd3(tmp_path_factory.mktemp("sd3"))


def test_describe_gives_the_graph(driver: Driver, model: Model) -> None:
    driver.loop.submit(Describe(model="tiny", entry=to_entry(model)))
    graph = msgspec.convert(driver.until(Described).graphs["text"], StageGraph)
    assert graph.names == STAGES
    assert [stage.kind for stage in graph.stages] == ["encode", "diffuse", "decode"]
    assert graph.loop_stage == "denoise"


def test_describe_says_why_not(driver: Driver, model: Model, tmp_path: Path) -> None:
    nowhere = msgspec.structs.replace(model, source=str(tmp_path / "nowhere"))
    driver.loop.submit(Describe(model="tiny", entry=to_entry(nowhere)))
    assert "nowhere" in driver.until(DescribeFailed).reason


def test_merged_task_reports_and_returns_the_picture(driver: Driver, model: Model) -> None:
    driver.load(model, *STAGES)
    driver.loop.submit(make_task("t", *STAGES))
    done = driver.until(TaskDone)
    told = [type(message).__name__ for message in driver.history if not isinstance(message, StagesLoaded)]
    assert told == [
        *("StageStarted", "StageDone"),
        *("StageStarted", "StepDone", "StepDone", "StepDone", "StageDone"),
        *("StageStarted", "StageDone", "TaskDone"),
    ]
    png = driver.store.get(done.output)
    whole = ResidentModel("tiny", model, torch.device("cpu"))
    whole.load(STAGES)
    assert png == encode_picture(run_whole(whole, make_task("t").generation).get("images"))
    assert Image.open(io.BytesIO(png)).size == (32, 32)


@pytest.mark.parametrize(("file_format", "told"), [("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP")])
def test_pictures_in_each_format(driver: Driver, model: Model, file_format: str, told: str) -> None:
    driver.load(model, *STAGES)
    sizes = []
    for quality in (95, 5):
        generation = msgspec.structs.replace(
            make_task("t").generation, file_format=FileFormat(file_format), file_quality=quality
        )
        driver.loop.submit(make_task(f"q{quality}", *STAGES, generation=generation))
        data = driver.store.get(driver.until(TaskDone).output)
        with Image.open(io.BytesIO(data)) as picture:
            assert (picture.format, picture.size) == (told, (32, 32))
        sizes.append(len(data))
    # the quality is that of files that lose something
    assert (sizes[1] < sizes[0]) == (file_format != "png")


def test_clips_as_webp_and_not_as_jpeg() -> None:
    clip = torch.rand(1, 3, 3, 16, 16)
    with Image.open(io.BytesIO(encode_picture(clip, FileFormat.WEBP, frames_per_second=8))) as animation:
        assert len(ImageSequence.all_frames(animation)) == 3
    with pytest.raises(FieldRefused, match="jpeg"):
        encode_picture(clip, FileFormat.JPEG)


def test_split_task_hands_over(driver: Driver, model: Model) -> None:
    driver.load(model, *STAGES)
    driver.loop.submit(make_task("whole", *STAGES))
    whole = driver.store.get(driver.until(TaskDone).output)
    handoff = None
    for stage in STAGES:
        driver.loop.submit(make_task(f"t{STAGES.index(stage)}", stage, handoff=handoff))
        handoff = driver.until(TaskDone).output
    assert handoff is not None
    assert driver.store.get(handoff) == whole
    names = {
        info.name
        for message in driver.history
        if isinstance(message, TaskDone)
        for info in message.output.tensors
    }
    assert {"prompt_embeds", "latents"} <= names


def test_cancel_stops_at_the_next_boundary(driver: Driver, model: Model) -> None:
    driver.load(model, *STAGES)
    driver.loop.submit(make_task("long", *STAGES, steps=200))
    driver.until(StepDone)
    driver.loop.cancel("long")
    cancelled = driver.until(TaskCancelled)
    assert 1 <= cancelled.step < 200
    assert driver.store.used_bytes() == 0
    driver.loop.submit(make_task("next", *STAGES))
    assert driver.until(TaskDone).task_id == "next"


def test_cancel_before_the_start_and_of_unknown_tasks(driver: Driver, model: Model) -> None:
    driver.load(model, *STAGES)
    driver.loop.cancel("unknown")
    driver.loop.submit(make_task("first", *STAGES, steps=50))
    driver.loop.submit(make_task("second", *STAGES))
    driver.loop.cancel("second")
    ended: dict[str, ToGateway] = {}
    for _ in range(2):
        message = driver.until(TaskDone, TaskCancelled)
        assert isinstance(message, TaskDone | TaskCancelled)
        ended[message.task_id] = message
    assert isinstance(ended["first"], TaskDone)
    assert ended["second"] == TaskCancelled(task_id="second", step=0)
    assert not any(isinstance(m, StageStarted) and m.task_id == "second" for m in driver.history)
    driver.loop.submit(make_task("unknown", *STAGES))
    assert isinstance(driver.until(TaskDone, TaskCancelled), TaskDone)


def test_failures_are_answered_and_harmless(driver: Driver, model: Model) -> None:
    driver.loop.submit(make_task("early", "denoise"))
    assert "not loaded" in driver.until(TaskFailed).reason
    driver.load(model, "text_encoder", "denoise")
    driver.loop.submit(make_task("absent", "decode"))
    assert "not resident" in driver.until(TaskFailed).reason
    driver.loop.submit(make_task("odd", "text_encoder", "denoise", generation=_too_wide()))
    assert driver.until(TaskFailed).kind is FailureKind.INTERNAL
    driver.loop.submit(make_task("encode", "text_encoder"))
    handle = driver.until(TaskDone).output
    driver.store.free(handle)
    driver.loop.submit(make_task("lost", "denoise", handoff=handle))
    assert driver.until(TaskFailed).kind is FailureKind.HANDOFF_LOST
    driver.loop.submit(make_task("good", "text_encoder", "denoise"))
    driver.until(TaskDone)


def _too_wide() -> Generation:
    """Wider than the tiny model's table of positions."""
    return msgspec.structs.replace(make_task("t").generation, width_px=512)


def test_a_full_store_fails_the_task_only(tmp_path: Path, model: Model) -> None:
    driver = Driver(HandoffStore(tmp_path / "small", node="here", capacity_bytes=100))
    try:
        driver.load(model, "text_encoder")
        driver.loop.submit(make_task("t", "text_encoder"))
        assert driver.until(TaskFailed).kind is FailureKind.STORE_FULL
        assert driver.store.used_bytes() == 0
    finally:
        driver.close()


def test_load_failures_leave_what_was_resident(driver: Driver, model: Model) -> None:
    driver.load(model, "decode")
    driver.loop.submit(LoadStages(model="tiny", entry=to_entry(model), stages=("no_such",)))
    assert "no_such" in driver.until(LoadFailed).reason
    driver.loop.submit(EvictStages(model="tiny", stages=("decode",)))
    evicted = driver.until(StagesEvicted)
    assert (evicted.stages, evicted.resident_bytes) == (("decode",), 0)
    driver.loop.submit(make_task("t", "decode"))
    assert "not resident" in driver.until(TaskFailed).reason


def test_missing_weights_are_a_load_failure(driver: Driver, tmp_path: Path) -> None:
    model = sd3(tmp_path / "broken")
    for weights in Path(model.source, "transformer").glob("*.safetensors"):
        weights.unlink()
    driver.loop.submit(LoadStages(model="tiny", entry=to_entry(model), stages=("denoise",)))
    assert "transformer" in driver.until(LoadFailed).reason


def test_pickled_weights_are_refused(driver: Driver, tmp_path: Path) -> None:
    model = sd3(tmp_path / "pickled")
    folder = Path(model.source, "transformer")
    weights = next(folder.glob("*.safetensors"))
    torch.save({}, folder / "diffusion_pytorch_model.bin")
    weights.unlink()
    driver.loop.submit(LoadStages(model="tiny", entry=to_entry(model), stages=("denoise",)))
    assert "safetensors" in driver.until(LoadFailed).reason


def test_phase_is_told(driver: Driver, model: Model) -> None:
    assert driver.loop.doing.phase is Phase.IDLE
    driver.load(model, *STAGES)
    driver.loop.submit(make_task("long", *STAGES, steps=200))
    driver.until(StepDone)
    doing = driver.loop.doing
    assert (doing.phase, doing.task_id, doing.stage) == (Phase.RUNNING, "long", "denoise")
    driver.loop.cancel("long")
    driver.until(TaskCancelled)


def test_stage_times_are_ordered(driver: Driver, model: Model) -> None:
    driver.load(model, *STAGES)
    driver.loop.submit(make_task("t", *STAGES))
    driver.until(TaskDone)
    done = [message for message in driver.history if isinstance(message, StageDone)]
    edges = [edge for stage in done for edge in (stage.started_at_s, stage.ended_at_s)]
    assert edges == sorted(edges)


def test_a_clip_is_an_animated_png(driver: Driver, tmp_path: Path) -> None:
    model = msgspec.structs.replace(wan(tmp_path / "wan"), frames_per_second=8)
    driver.load(model, *STAGES)
    generation = Generation(
        prompt="a dog",
        width_px=32,
        height_px=32,
        num_inference_steps=2,
        guidance_scale=4.0,
        seed=3,
        num_frames=5,
    )
    driver.loop.submit(make_task("clip", *STAGES, generation=generation))
    with Image.open(io.BytesIO(driver.store.get(driver.until(TaskDone).output))) as picture:
        assert len(ImageSequence.all_frames(picture)) == 5
        assert picture.info["duration"] == 125.0
