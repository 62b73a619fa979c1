"""A model that is forgotten leaves nothing behind, and nothing of another model goes with it."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest

from pipelines.catalogue import Model
from tests.families.sd3 import sd3
from tests.worker.driver import STAGES, Driver, load_stages, make_task
from wire.to_gateway import ModelForgotten, StagesLoaded, TaskDone, TaskFailed
from wire.to_worker import ForgetModel


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return sd3(tmp_path_factory.mktemp("sd3"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return sd3(tmp_path_factory.mktemp("other"))


def forget(driver: Driver, name: str) -> ModelForgotten:
    driver.loop.submit(ForgetModel(model=name))
    return driver.until(ModelForgotten)


def test_its_weights_go_and_those_of_another_model_stay(driver: Driver, model: Model, other: Model) -> None:
    driver.load(model, *STAGES)
    driver.loop.submit(load_stages(other, *STAGES, name="other"))
    both_bytes = driver.until(StagesLoaded).resident_bytes
    denoiser = weakref.ref(driver.loop._models["other"].pipe.transformer)
    told = forget(driver, "other")
    assert (told.model, told.resident_bytes) == ("other", both_bytes // 2)
    assert denoiser() is None
    driver.loop.submit(make_task("t", *STAGES))
    driver.until(TaskDone)
    driver.loop.submit(make_task("u", *STAGES, model="other"))
    assert "not loaded" in driver.until(TaskFailed).reason


def test_a_model_that_is_not_held_is_forgotten_too(driver: Driver) -> None:
    assert forget(driver, "nobody") == ModelForgotten(model="nobody", resident_bytes=0)


def test_it_waits_for_what_was_asked_before(driver: Driver, model: Model) -> None:
    driver.loop.submit(load_stages(model, *STAGES))
    driver.loop.submit(make_task("t", *STAGES))
    forget(driver, "tiny")
    kinds = [type(message) for message in driver.history]
    assert kinds.index(StagesLoaded) < len(kinds) - 1
    assert kinds[-1] is ModelForgotten


def test_it_can_be_loaded_again(driver: Driver, model: Model, tmp_path: Path) -> None:
    driver.load(model, "decode")
    forget(driver, "tiny")
    driver.load(model, *STAGES)
    driver.loop.submit(make_task("t", *STAGES))
    driver.until(TaskDone)
