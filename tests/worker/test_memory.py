"""Memory that ran out in a stage: the job fails and says why, and the worker is as good as before."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import torch

from pipelines.catalogue import Model
from tests.families.sd3 import sd3
from tests.worker.driver import STAGES, Driver, make_task
from wire.to_gateway import FailureKind, StepDone, TaskDone, TaskFailed
from worker.memory import give_back, out_of_memory, told
from worker.network_call import NetworkCall

CPU = torch.device("cpu")
MUCH = 1 << 60


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return sd3(tmp_path_factory.mktemp("sd3"))


def allocate() -> None:
    """Really asks for more than there is."""
    torch.empty(MUCH, dtype=torch.uint8)


def raised_by(act: Callable[[], Any]) -> BaseException:
    with pytest.raises(BaseException) as raised:  # noqa: PT011 - whatever it is
        act()
    return raised.value


def wrapped() -> None:
    try:
        allocate()
    except RuntimeError as error:
        raise ValueError(f"Unable to load it: {error}")  # noqa: B904 - as diffusers does it


def named() -> None:
    try:
        allocate()
    except RuntimeError as error:
        raise KeyError("x") from error


@pytest.mark.parametrize(
    ("act", "is_short"),
    [
        (allocate, True),
        (lambda: bytearray(MUCH), True),
        (wrapped, True),
        (named, True),
        (lambda: torch.ones(2) @ torch.ones(3), False),
        (lambda: int("x"), False),
    ],
)
def test_which_errors_say_so(act: Callable[[], Any], is_short: bool) -> None:
    assert (out_of_memory(raised_by(act)) is not None) == is_short


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_what_a_gpu_says(error: BaseException) -> None:
    assert out_of_memory(error) is error


def test_what_is_told() -> None:
    words = told(raised_by(wrapped), CPU)
    assert words.startswith("[enforce fail")
    assert str(MUCH) in words
    assert words.endswith("MiB are free now")
    assert told(MemoryError(), CPU).startswith("MemoryError; ")


def test_what_the_frames_held_is_given_back() -> None:
    held: list[weakref.ref[torch.Tensor]] = []

    def stage() -> None:
        activations = torch.ones(10)
        cycle: list[object] = [activations]
        cycle.append(cycle)
        held.append(weakref.ref(activations))
        allocate()

    error = raised_by(stage)
    assert held[0]() is not None
    give_back(CPU, error)
    assert held[0]() is None
    assert error.__traceback__ is not None


@contextmanager
def short_of_memory(driver: Driver, part: str, above: int = 0) -> Iterator[list[int]]:
    """Calls of `part` for more than `above` samples run out of memory; the sizes of all calls.

    What they had made by then is large enough to be seen if it stays.
    """
    sizes: list[int] = []

    def note(network: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        size = NetworkCall.of(network, args, kwargs).batch_size
        sizes.append(size)
        if size > above or not size:
            activations = torch.ones(1000)
            held.append(weakref.ref(activations))
            allocate()

    held: list[weakref.ref[torch.Tensor]] = []
    network = getattr(driver.loop._models["tiny"].pipe, part)
    hook = network.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield sizes
    finally:
        hook.remove()
    assert held
    assert all(activations() is None for activations in held)


@pytest.mark.parametrize(
    ("part", "stage"),
    [("text_encoder", "text_encoder"), ("transformer", "denoise"), ("vae.decoder", "decode")],
)
def test_in_each_stage(driver: Driver, model: Model, part: str, stage: str) -> None:
    driver.load(model, *STAGES)
    driver.loop.submit(make_task("before", *STAGES))
    before = driver.store.get(driver.until(TaskDone).output)
    network = driver.loop._models["tiny"].pipe
    for name in part.split("."):
        network = getattr(network, name)

    def fail(*_: object) -> None:
        allocate()

    hook = network.register_forward_pre_hook(fail)
    driver.loop.submit(make_task("short", *STAGES))
    failed = driver.until(TaskFailed)
    hook.remove()
    assert (failed.stage, failed.kind) == (stage, FailureKind.OUT_OF_MEMORY)
    assert failed.reason.startswith(f"out of memory in {stage} at 32x32: ")
    assert str(MUCH) in failed.reason
    driver.loop.submit(make_task("after", *STAGES))
    assert driver.store.get(driver.until(TaskDone).output) == before


def test_a_single_call_leaves_nothing_behind(driver: Driver, model: Model) -> None:
    driver.load(model, *STAGES)
    with short_of_memory(driver, "transformer") as sizes:
        driver.loop.submit(make_task("short", *STAGES))
        assert driver.until(TaskFailed).kind is FailureKind.OUT_OF_MEMORY
        assert sizes == [1]


def test_a_batch_halves(driver: Driver, model: Model) -> None:
    """Four together, then two and two from then on; all end, as well as two do together."""
    driver.load(model, *STAGES)
    driver.loop.submit(make_task("first", *STAGES, steps=40))
    driver.until(StepDone)
    names = ("first", "second", "third", "fourth")
    with short_of_memory(driver, "transformer", above=2) as sizes:
        for name in names[1:]:
            generation = msgspec.structs.replace(make_task("t", steps=40).generation, seed=len(name))
            driver.loop.submit(make_task(name, *STAGES, generation=generation, joins="first"))
        ended = driver.ends(*names)
    assert all(isinstance(end, TaskDone) for end in ended.values())
    assert {size for size in sizes if size > 2} <= {3, 4}
    # once, not at every step
    assert sum(size > 2 for size in sizes) == 1
    assert sizes.count(2) > 20


def test_while_the_file_is_written(driver: Driver, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*_: object, **__: object) -> bytes:
        raise MemoryError

    driver.load(model, *STAGES)
    with monkeypatch.context() as patch:
        patch.setattr("worker.task_run.encode_picture", short)
        driver.loop.submit(make_task("short", *STAGES))
        failed = driver.until(TaskFailed)
    assert (failed.stage, failed.kind) == ("decode", FailureKind.OUT_OF_MEMORY)
    driver.loop.submit(make_task("after", *STAGES))
    driver.until(TaskDone)
