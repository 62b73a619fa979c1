"""What the worker measures of a model, and that nothing else notices."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest
import torch

from pipelines.catalogue import Model, to_entry
from planner.measurements import Measurements
from planner.profile import Profile
from planner.types import ModelView, Shape
from tests.families.sd3 import sd3
from tests.families.wan import wan
from tests.worker.driver import STAGES, Driver, make_task
from wire.generation import Generation
from wire.handle import Handle
from wire.handoff import HandoffStore
from wire.to_gateway import Described, Phase, ProfileFailed, ProfileMeasured, ProfileProgress, TaskDone
from wire.to_worker import Describe, MeasureProfile
from worker.components import Components
from worker.peak import with_peak
from worker.resident import ResidentModel
from worker.stage_timer import Boundaries

CPU = torch.device("cpu")
VIEW = ModelView("tiny", STAGES, "denoise")
SIDES = (32, 16, 48, 64)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return sd3(tmp_path_factory.mktemp("sd3"))


def order(model: Model, *, bound_s: float = 300.0, guidance_scale: float = 4.0) -> MeasureProfile:
    generation = make_task("t", *STAGES, steps=10).generation
    guided = [
        msgspec.structs.replace(generation, width_px=side, height_px=side, guidance_scale=guidance_scale)
        for side in SIDES
    ]
    unguided = msgspec.structs.replace(generation, guidance_scale=1.0)
    return MeasureProfile(
        model="tiny",
        entry=to_entry(model),
        generations=(*guided, unguided),
        batches=(1, 2, 4),
        bound_s=bound_s,
    )


def measured(driver: Driver, order: MeasureProfile) -> Measurements:
    driver.loop.submit(order)
    message = driver.until(ProfileMeasured, ProfileFailed)
    assert isinstance(message, ProfileMeasured), message
    return msgspec.convert(message.profile, Measurements)


def test_every_stage_and_shape_is_measured(driver: Driver, model: Model) -> None:
    found = measured(driver, order(model))
    shapes = {*(Shape(side, side) for side in SIDES), Shape(32, 32, guided=False)}
    alone = [each for each in found.measured if each.batch == 1]
    assert {(each.stage, each.shape) for each in alone} == {(s, shape) for s in STAGES for shape in shapes}
    assert len(alone) == len(STAGES) * len(shapes)
    assert all(each.seconds > 0 for each in found.measured)
    peaks = {each.shape: each.peak_bytes for each in alone if each.stage == "decode"}
    assert sorted(peaks, key=lambda shape: peaks[shape] or 0)[-2:] == [Shape(48, 48), Shape(64, 64)]
    batches = {(each.stage, each.shape, each.batch) for each in found.measured if each.batch > 1}
    usual_first_last = (Shape(32, 32), Shape(16, 16), Shape(64, 64))
    loops = {("denoise", shape, n) for shape in usual_first_last for n in (2, 4)}
    # of any shape a text is encoded alike
    assert batches == loops | {("text_encoder", Shape(32, 32), n) for n in (2, 4, 8)}
    assert found.resume_s is not None
    assert 0 < found.resume_s < 5
    assert all(found.load_s[stage] > 0 for stage in STAGES)


def test_weights_are_told_before_anything_is_loaded_and_are_those_that_are(
    driver: Driver, model: Model
) -> None:
    driver.loop.submit(Describe(model="tiny", entry=to_entry(model)))
    described = driver.until(Described).weight_bytes
    assert described.items() >= measured(driver, order(model)).weight_bytes.items()
    # what makes pictures from pictures is told too
    assert described.keys() == {*STAGES, "vae_encoder"}
    resident = ResidentModel("tiny", model, CPU)
    resident.load(STAGES)
    assert sum(described[stage] for stage in STAGES) == resident.resident_bytes


def test_progress_is_told_and_the_phase_shows_it(driver: Driver, model: Model) -> None:
    driver.loop.submit(order(model))
    line = driver.until(ProfileProgress).text
    assert line.startswith("text_encoder: ")
    assert driver.loop.doing.phase is Phase.MEASURING
    driver.until(ProfileMeasured)
    lines = [message.text for message in driver.history if isinstance(message, ProfileProgress)]
    assert any(line.startswith("denoise 64x64: ") and " ms (median of " in line for line in lines)


def test_pictures_made_after_it_are_the_same_bytes_and_nothing_of_it_stays(
    driver: Driver, model: Model
) -> None:
    driver.load(model, *STAGES)
    before_bytes = driver.loop._components.resident_bytes
    state = torch.random.get_rng_state()
    driver.loop.submit(make_task("before", *STAGES))
    before = driver.store.get(driver.until(TaskDone).output)
    n_files = len(list(driver.store._folder.iterdir()))
    measured(driver, order(model))
    assert len(list(driver.store._folder.iterdir())) == n_files
    assert driver.loop._components.resident_bytes == before_bytes
    assert torch.equal(torch.random.get_rng_state(), state)
    driver.loop.submit(make_task("after", *STAGES))
    assert driver.store.get(driver.until(TaskDone).output) == before


def test_a_worker_that_cannot_hold_the_model_whole_measures_it(tmp_path: Path, model: Model) -> None:
    resident = ResidentModel("tiny", model, CPU)
    sizes = []
    for stage in STAGES:
        resident.load((stage,))
        sizes.append(resident.resident_bytes)
        resident.evict((stage,))
    store = HandoffStore(tmp_path / "store", node="here", capacity_bytes=10_000_000)
    driver = Driver(store, Components(CPU, None, max(sizes)))
    try:
        assert list(measured(driver, order(model)).weight_bytes.values()) == sizes
    finally:
        driver.close()


def test_without_time_the_smallest_shape_is_measured_and_the_others_are_said_to_be_left_out(
    driver: Driver, model: Model
) -> None:
    found = measured(driver, order(model, bound_s=1e-9))
    assert {each.shape for each in found.measured} == {Shape(16, 16)}
    assert {each.batch for each in found.measured} == {1}
    lines = [message.text for message in driver.history if isinstance(message, ProfileProgress)]
    assert "text_encoder 64x64: left out, there is no time for it" in lines


def test_a_clip_is_measured_with_its_frames(driver: Driver, tmp_path: Path) -> None:
    model = wan(tmp_path)
    generation = Generation(
        prompt="a dog",
        width_px=32,
        height_px=32,
        num_frames=5,
        num_inference_steps=3,
        guidance_scale=5.0,
        seed=1,
    )
    found = measured(
        driver,
        MeasureProfile(
            model="tiny", entry=to_entry(model), generations=(generation,), batches=(1, 2), bound_s=20.0
        ),
    )
    assert {each.shape for each in found.measured} == {Shape(32, 32, 5)}


def test_why_a_model_cannot_be_measured_is_told_and_the_worker_goes_on(
    driver: Driver, model: Model, tmp_path: Path
) -> None:
    nowhere = msgspec.structs.replace(model, source=str(tmp_path / "nowhere"))
    driver.loop.submit(order(nowhere))
    assert "nowhere" in driver.until(ProfileFailed).reason
    # a picture to start from that is not there
    handle = Handle(node="here", name="0" * 32, n_bytes=1)
    odd = msgspec.structs.replace(order(model).generations[0], image=handle, strength=0.5)
    driver.loop.submit(msgspec.structs.replace(order(model), generations=(odd,)))
    assert "cannot be measured: HandoffRefused: " in driver.until(ProfileFailed).reason
    assert measured(driver, order(model)).measured


def test_a_worker_that_is_to_stop_does_not_measure_to_the_end(tmp_path: Path, model: Model) -> None:
    store = HandoffStore(tmp_path / "store", node="here", capacity_bytes=10_000_000)
    driver = Driver(store)
    generation = msgspec.structs.replace(order(model).generations[0], width_px=64, height_px=64)
    asked = msgspec.structs.replace(order(model), generations=(generation,) * 5000, bound_s=3600.0)
    driver.loop.submit(asked)
    driver.until(ProfileProgress)
    began_s = time.monotonic()
    driver.close()
    assert time.monotonic() - began_s < 30
    assert driver.until(ProfileFailed).reason == "the worker is stopping"


def test_what_a_planner_reads_from_it(driver: Driver, model: Model) -> None:
    profile = Profile().with_measured(measured(driver, order(model)))
    for stage in STAGES:
        assert profile.stage_s("", VIEW, stage, Shape(48, 64), 10)
        assert profile.peak_bytes("", VIEW, stage, Shape(48, 64))
    alone_s = profile.stage_s("", VIEW, "denoise", Shape(32, 32), 10)
    four_s = profile.stage_s("", VIEW, "denoise", Shape(32, 32), 10, batch=4)
    assert alone_s is not None
    assert four_s is not None
    assert alone_s < four_s < 8 * alone_s
    assert profile.degrees("", VIEW) == (1,)


def test_a_step_is_the_time_between_boundaries_and_its_part_of_what_is_done_once() -> None:
    # 0.5 s before the first step, which takes 1.3 s, then 1 s each; 0.2 s behind the last
    seen = Boundaries(10.0, [10.5, 11.8, 12.8, 13.8, 14.8])
    assert seen.step_s(15.0, usual_steps=20) == pytest.approx(1.0 + 1.0 / 20)
    assert Boundaries(0.0, [0.0, 2.0]).step_s(2.0, usual_steps=20) == 2.0


def test_the_peak_is_of_what_was_held_at_once() -> None:
    def work() -> int:
        first = torch.ones(1000, 250)
        second = first + 1
        del first
        third = second * 2
        return int(third[0, 0])

    value, peak_bytes = with_peak(CPU, work)
    assert value == 4
    assert 2_000_000 <= peak_bytes < 2_100_000
