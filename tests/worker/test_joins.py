"""Tasks that join: the device loop takes them into the running batch, or runs them behind it."""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.catalogue import Model
from tests.families.lora import make_lora
from tests.families.sd3 import sd3
from tests.worker.driver import STAGES, Driver, Terminal, load_stages, make_task
from wire.generation import Adapter, Exactness
from wire.handle import Handle
from wire.to_gateway import (
    CheckpointSaved,
    FailureKind,
    Phase,
    StageDone,
    StagesLoaded,
    StageStarted,
    StepDone,
    TaskCancelled,
    TaskDone,
    TaskFailed,
    TaskPaused,
)
from wire.to_worker import RunTask
from worker.packing import unpack

LONG = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sd3")


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return sd3(folder)


def _task(task_id: str, *, joins: str | None = None, steps: int = 3, **fields: Any) -> RunTask:
    """All stages of a job with a prompt and a seed of its own; `fields` are the generation's."""
    task = make_task(task_id, *STAGES, steps=steps, joins=joins)
    fields = {"prompt": f"a {task_id}", "seed": sum(task_id.encode()), **fields}
    return msgspec.structs.replace(task, generation=msgspec.structs.replace(task.generation, **fields))


def _submit(driver: Driver, model: Model, *tasks: RunTask) -> None:
    """The tasks behind a load, so that all are in the queue when the first one begins."""
    driver.loop.submit(load_stages(model, *STAGES))
    for task in tasks:
        driver.loop.submit(task)


def _exactness(ended: dict[str, Terminal]) -> list[Exactness]:
    return [message.exactness for message in ended.values() if isinstance(message, TaskDone)]


def _picture(driver: Driver, message: Terminal) -> np.ndarray[Any, np.dtype[np.int16]]:
    assert isinstance(message, TaskDone)
    with Image.open(io.BytesIO(driver.store.get(message.output))) as picture:
        return np.asarray(picture, dtype=np.int16)


def _alone(driver: Driver, task: RunTask) -> bytes:
    """The picture's file of a job that shares no call."""
    renamed = msgspec.structs.replace(task, task_id=f"{task.task_id}-alone", joins=None)
    driver.loop.submit(renamed)
    return driver.store.get(driver.until(TaskDone).output)


def _steps(driver: Driver) -> list[tuple[str, int]]:
    return [(m.task_id, m.step) for m in driver.history if isinstance(m, StepDone)]


def _assert_lockstep(told: list[tuple[str, int]], *tasks: str, steps: int = 3) -> None:
    """No task is told to be at a step before all have made the one before."""
    assert [step for _, step in told] == [step for step in range(1, steps + 1) for _ in tasks]
    assert sorted(told) == [(task, step) for task in tasks for step in range(1, steps + 1)]


def test_tasks_in_line_go_in_lockstep(driver: Driver, model: Model) -> None:
    tasks = [_task("a"), _task("b", joins="a"), _task("c", joins="a")]
    _submit(driver, model, *tasks)
    ended = driver.ends("a", "b", "c")
    assert _exactness(ended) == [Exactness.NUMERIC] * 3
    _assert_lockstep(_steps(driver), "a", "b", "c")
    for task in tasks:
        told = [type(m).__name__ for m in driver.history if getattr(m, "task_id", None) == task.task_id]
        assert told == [
            *("StageStarted", "StageDone"),
            *("StageStarted", "StepDone", "StepDone", "StepDone", "StageDone"),
            *("StageStarted", "StageDone", "TaskDone"),
        ]
        with Image.open(io.BytesIO(_alone(driver, task))) as alone:
            # a rounding in the latents may turn a level of 255
            difference = np.abs(_picture(driver, ended[task.task_id]) - np.asarray(alone, dtype=np.int16))
        assert difference.max() <= 1


def test_one_joins_in_mid_flight_and_leaves_first(driver: Driver, model: Model) -> None:
    _submit(driver, model, _task("a", steps=LONG))
    driver.until(StepDone)
    driver.loop.submit(_task("b", joins="a"))
    joined = driver.ends("b")
    assert _exactness(joined) == [Exactness.NUMERIC]
    driver.until(StepDone)
    doing = driver.loop.doing
    assert (doing.phase, doing.task_id, doing.stage) == (Phase.RUNNING, "a", "denoise")
    driver.loop.cancel("a")
    assert isinstance(driver.ends("a")["a"], TaskCancelled)


def test_a_task_that_starts_with_its_loop_joins(driver: Driver, model: Model) -> None:
    _submit(driver, model, msgspec.structs.replace(_task("b"), task_id="encode", stages=("text_encoder",)))
    encoded = driver.until(TaskDone).output
    b = msgspec.structs.replace(_task("b", joins="a"), stages=("denoise",), handoff=encoded)
    _submit(driver, model, _task("a"), b)
    assert _exactness(driver.ends("a", "b")) == [Exactness.NUMERIC] * 2


@pytest.mark.parametrize("who", [("a",), ("b",), ("a", "b")])
def test_bitwise_is_never_batched(driver: Driver, model: Model, who: tuple[str, ...]) -> None:
    tasks = [
        _task(name, joins=joins, exactness=Exactness.BITWISE if name in who else Exactness.NUMERIC)
        for name, joins in (("a", None), ("b", "a"))
    ]
    _submit(driver, model, *tasks)
    ended = driver.ends("a", "b")
    assert _exactness(ended) == [Exactness.BITWISE] * 2
    assert _steps(driver) == [(task, step) for task in ("a", "b") for step in (1, 2, 3)]
    for task in tasks:
        message = ended[task.task_id]
        assert isinstance(message, TaskDone)
        assert driver.store.get(message.output) == _alone(driver, task)


def test_other_shapes_share_a_batch_but_no_call(driver: Driver, model: Model) -> None:
    driver.load(model, *STAGES)
    tasks = []
    for task in (_task("a"), _task("b", joins="a", width_px=64)):
        encode = msgspec.structs.replace(task, task_id="encode", stages=("text_encoder",), joins=None)
        driver.loop.submit(encode)
        handoff = driver.until(TaskDone).output
        tasks.append(msgspec.structs.replace(task, stages=STAGES[1:], handoff=handoff))
    _submit(driver, model, *tasks)
    ended = driver.ends("a", "b")
    assert _exactness(ended) == [Exactness.BITWISE] * 2
    _assert_lockstep(_steps(driver), "a", "b")


def test_adapters_must_be_equal(driver: Driver, model: Model, folder: Path) -> None:
    adapter = make_lora(model, folder / "lora", "style", seed=1)
    half = Adapter(name="style", source=adapter.source, scale=0.5)
    tasks = [
        _task("a", adapter=adapter),
        _task("b", joins="a", adapter=adapter),
        _task("c", joins="a", adapter=half),
        _task("d", joins="c"),
    ]
    _submit(driver, model, *tasks)
    ended = driver.ends("a", "b", "c", "d")
    exactness = {name: m.exactness for name, m in ended.items() if isinstance(m, TaskDone)}
    numeric, bitwise = Exactness.NUMERIC, Exactness.BITWISE
    assert exactness == {"a": numeric, "b": numeric, "c": bitwise, "d": bitwise}
    for task in tasks:
        with Image.open(io.BytesIO(_alone(driver, task))) as alone:
            difference = np.abs(_picture(driver, ended[task.task_id]) - np.asarray(alone, dtype=np.int16))
        assert difference.max() <= 1
    base = _alone(driver, _task("a"))
    assert base != _alone(driver, tasks[0])


@pytest.mark.parametrize("joins", ["a", "unknown"])
def test_who_joins_one_that_is_gone_runs_alone(driver: Driver, model: Model, joins: str) -> None:
    _submit(driver, model, _task("a"))
    driver.ends("a")
    driver.loop.submit(_task("b", joins=joins))
    assert _exactness(driver.ends("b")) == [Exactness.BITWISE]


def test_a_command_in_between_is_waited_for(driver: Driver, model: Model) -> None:
    """Commands are never overtaken."""
    driver.load(model, *STAGES)
    driver.loop.submit(_task("a", steps=30))
    driver.loop.submit(load_stages(model, *STAGES))
    driver.loop.submit(_task("b", joins="a"))
    assert driver.until(TaskDone, StagesLoaded)
    assert _exactness(driver.ends("b")) == [Exactness.BITWISE]


def test_paused_inside_and_resumed(driver: Driver, model: Model) -> None:
    b = _task("b", joins="a", steps=40)
    _submit(driver, model, _task("a", steps=40), b)
    while driver.until(StepDone).task_id != "b":
        pass
    driver.loop.pause("b")
    paused = driver.until(TaskPaused)
    assert paused.exactness is Exactness.NUMERIC
    assert 1 <= paused.step < 40
    assert _exactness(driver.ends("a")) == [Exactness.NUMERIC]
    encode = msgspec.structs.replace(b, task_id="encode", joins=None, stages=("text_encoder",))
    driver.loop.submit(encode)
    handoff = driver.until(TaskDone).output
    resumed = msgspec.structs.replace(
        b, task_id="c", stages=STAGES[1:], handoff=handoff, checkpoint=paused.checkpoint
    )
    driver.loop.submit(resumed)
    ended = driver.ends("c")
    assert _exactness(ended) == [Exactness.BITWISE]
    assert [step for task, step in _steps(driver) if task == "c"] == list(range(paused.step + 1, 41))
    with Image.open(io.BytesIO(_alone(driver, b))) as alone:
        assert np.abs(_picture(driver, ended["c"]) - np.asarray(alone, dtype=np.int16)).max() <= 1


def test_paused_alone_keeps_the_bits(driver: Driver, model: Model) -> None:
    _submit(driver, model, _task("a", steps=60))
    driver.until(StepDone)
    driver.loop.pause("a")
    assert driver.until(TaskPaused).exactness is Exactness.BITWISE


def test_checkpoints_say_what_they_hold(driver: Driver, model: Model) -> None:
    tasks = (_task("a"), _task("b", joins="a"))
    _submit(driver, model, *(msgspec.structs.replace(task, checkpoint_every=1) for task in tasks))
    driver.ends("a", "b")
    saved = [m for m in driver.history if isinstance(m, CheckpointSaved)]
    _assert_lockstep([(m.task_id, m.step) for m in saved], "a", "b", steps=2)
    assert {m.exactness for m in saved} == {Exactness.NUMERIC}


def test_a_failure_hurts_no_other(driver: Driver, model: Model) -> None:
    """One whose handoff is lost, one too wide for the model, one that is cancelled before it begins."""
    lost = msgspec.structs.replace(_task("lost", joins="a"), stages=STAGES[1:], handoff=_nothing())
    tasks = [_task("a"), lost, _task("wide", joins="a", width_px=512), _task("cut", joins="a")]
    driver.loop.submit(load_stages(model, *STAGES))
    for task in (*tasks, _task("b", joins="a")):
        driver.loop.submit(task)
    driver.loop.cancel("cut")
    ended = driver.ends("a", "b", "lost", "wide", "cut")
    assert _exactness(ended) == [Exactness.NUMERIC] * 2
    assert isinstance(ended["lost"], TaskFailed)
    assert ended["lost"].kind is FailureKind.HANDOFF_LOST
    assert isinstance(ended["wide"], TaskFailed)
    assert ended["cut"] == TaskCancelled(task_id="cut", step=0)
    assert not any(isinstance(m, StageStarted) and m.task_id == "cut" for m in driver.history)


def _nothing() -> Handle:
    return Handle(node="here", name="nothing", n_bytes=1)


def test_stop_ends_every_task_of_a_batch(driver: Driver, model: Model) -> None:
    _submit(driver, model, _task("a", steps=LONG), _task("b", joins="a", steps=LONG))
    while driver.until(StepDone).task_id != "b":
        pass
    driver.close()
    ended = driver.ends("a", "b")
    assert all(isinstance(message, TaskCancelled) for message in ended.values())


def test_each_task_ends_once_whatever_is_asked(driver: Driver, model: Model) -> None:
    draw = random.Random(4)
    driver.load(model, *STAGES)
    names = [f"t{i}" for i in range(30)]
    ended: set[str] = set()
    for number, name in enumerate(names):
        joins = draw.choice([None, *names[max(0, number - 4) : number]])
        driver.loop.submit(_task(name, joins=joins, steps=draw.randint(1, 6)))
        asked = draw.choice(names[max(0, number - 2) : number + 1])
        if (wish := draw.choice([driver.loop.cancel, driver.loop.pause, None, None])) is not None:
            wish(asked)
        if draw.random() < 0.5:
            ended |= driver.ends_or_steps().keys()
    ended |= driver.ends(*(set(names) - ended)).keys()
    assert ended == set(names)
    terminals = [m for m in driver.history if isinstance(m, Terminal)]
    assert len(terminals) == len(names)
    assert not any(isinstance(m, TaskFailed) for m in terminals)


def _encode(task_id: str, *, joins: str | None = None, **fields: Any) -> RunTask:
    return msgspec.structs.replace(_task(task_id, joins=joins, **fields), stages=("text_encoder",))


@contextmanager
def _encoder_calls(driver: Driver, act: Callable[[int], None] = lambda n: None) -> Iterator[list[int]]:
    """How many texts each call of the three text encoders had; `act` may raise in them."""
    sizes: list[int] = []

    def count(network: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        texts = args[0] if args else kwargs["input_ids"]
        sizes.append(len(texts))
        act(len(texts))

    pipe = driver.loop._models["tiny"].pipe
    encoders = [pipe.text_encoder, pipe.text_encoder_2, pipe.text_encoder_3]
    hooks = [encoder.register_forward_pre_hook(count, with_kwargs=True) for encoder in encoders]
    yield sizes
    for hook in hooks:
        hook.remove()


def _in_line(driver: Driver, *tasks: RunTask) -> None:
    """All of them behind an encode that ends once they are in the queue: six calls of one text."""
    gate = threading.Event()

    def wait(network: torch.nn.Module, args: tuple[Any, ...]) -> None:
        gate.wait(60)

    driver.loop._models["tiny"].pipe.text_encoder.register_forward_pre_hook(wait)
    for task in (_encode("before"), *tasks):
        driver.loop.submit(task)
    gate.set()
    driver.ends("before")


def _handed_over(driver: Driver, message: Terminal) -> dict[str, torch.Tensor]:
    """The tensors of an encode's output."""
    assert isinstance(message, TaskDone)
    values = unpack(driver.store.get(message.output)).values
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


def _assert_close(driver: Driver, message: Terminal, task: RunTask) -> None:
    driver.loop.submit(msgspec.structs.replace(task, task_id=f"{task.task_id}-alone", joins=None))
    alone = _handed_over(driver, driver.until(TaskDone))
    together = _handed_over(driver, message)
    assert together.keys() == alone.keys() != set()
    for name, expected in alone.items():
        # as for latents; measured over all of a job's tensors: at most 3e-8
        assert float((together[name] - expected).norm() / expected.norm()) < 2e-6, name


def test_encodes_in_line_share_their_calls(driver: Driver, model: Model) -> None:
    driver.load(model, "text_encoder")
    tasks = [_encode("a"), _encode("b", joins="a"), _encode("c", joins="a", width_px=64)]
    with _encoder_calls(driver) as sizes:
        _in_line(driver, *tasks)
        ended = driver.ends("a", "b", "c")
    # three encoders, with the prompt and without
    assert sizes == [1] * 6 + [3] * 6
    assert _exactness(ended) == [Exactness.NUMERIC] * 3
    told = [m for m in driver.history if isinstance(m, StageStarted | StageDone)][2:]
    assert [type(m) for m in told] == [StageStarted] * 3 + [StageDone] * 3
    for task in tasks:
        _assert_close(driver, ended[task.task_id], task)


def test_whole_jobs_in_line_share_their_encodes_too(driver: Driver, model: Model) -> None:
    driver.load(model, *STAGES)
    tasks = [_task("a"), _task("b", joins="a")]
    keeping = [msgspec.structs.replace(task, keep_after="text_encoder") for task in tasks]
    with _encoder_calls(driver) as sizes:
        _in_line(driver, *keeping)
        assert _exactness(driver.ends("a", "b")) == [Exactness.NUMERIC] * 2
    assert sizes == [1] * 6 + [2] * 6
    kept = [m for m in driver.history if isinstance(m, StageDone) and m.output is not None]
    assert [m.exactness for m in kept] == [Exactness.NUMERIC] * 2


def test_who_joins_a_loop_is_encoded_before_its_next_step(driver: Driver, model: Model) -> None:
    _submit(driver, model, _task("a", steps=LONG))
    while driver.until(StepDone).step < 3:
        pass
    n_before = len(driver.history)
    driver.loop.submit(_task("b", joins="a", steps=5))
    ended = driver.ends("b")
    assert _exactness(ended) == [Exactness.NUMERIC]
    heard = driver.history[n_before:]
    begun, over = (
        next(
            i
            for i, m in enumerate(heard)
            if isinstance(m, kind) and (m.task_id, m.stage) == ("b", "text_encoder")
        )
        for kind in (StageStarted, StageDone)
    )
    assert not [m for m in heard[begun:over] if isinstance(m, StepDone)]
    driver.loop.cancel("a")
    driver.ends("a")


def test_an_exact_encode_shares_nothing(driver: Driver, model: Model) -> None:
    driver.load(model, "text_encoder")
    tasks = [_encode("a"), _encode("b", joins="a", exactness=Exactness.BITWISE), _encode("c", joins="a")]
    with _encoder_calls(driver) as sizes:
        _in_line(driver, *tasks)
        ended = driver.ends("a", "b", "c")
    assert set(sizes) == {1}
    assert _exactness(ended) == [Exactness.BITWISE] * 3


def test_what_befalls_one_encode_is_its_own(driver: Driver, model: Model) -> None:
    """One that is cancelled before it begins, one with a picture that is gone."""
    driver.load(model, "text_encoder")
    lost = msgspec.structs.replace(_encode("lost", joins="a"), handoff=_nothing())
    begun: list[int] = []

    def cut(size: int) -> None:
        begun.append(size)
        if len(begun) == 6:
            driver.loop.cancel("cut")

    tasks = [_encode("a"), lost, _encode("cut", joins="a"), _encode("b", joins="a")]
    with _encoder_calls(driver, cut):
        _in_line(driver, *tasks)
    ended = driver.ends("a", "b", "lost", "cut")
    assert _exactness(ended) == [Exactness.NUMERIC] * 2
    assert isinstance(ended["lost"], TaskFailed)
    assert ended["cut"] == TaskCancelled(task_id="cut", step=0)


def test_encodes_that_run_out_of_memory_together_are_made_alone(driver: Driver, model: Model) -> None:
    def full(size: int) -> None:
        if size > 1:
            raise torch.OutOfMemoryError("too much")

    driver.load(model, "text_encoder")
    with _encoder_calls(driver, full) as sizes:
        _in_line(driver, _encode("a"), _encode("b", joins="a"))
        ended = driver.ends("a", "b")
    assert sizes == [1] * 6 + [2] + [1] * 12
    assert _exactness(ended) == [Exactness.BITWISE] * 2
