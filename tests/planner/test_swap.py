"""Load or wait, worked by hand."""

from __future__ import annotations

from dataclasses import replace

from planner import (
    Forecast,
    JobView,
    ModelView,
    Observation,
    Placement,
    PlannerConfig,
    Profile,
    Reason,
    RunningTask,
    WorkerView,
)
from planner.placement import Targets
from planner.swap import swapped
from tests.planner.values import EVERY, LOOP, SHAPE, TINY, job, sample, stages, worker

CONFIG = PlannerConfig(min_dwell_s=10.0)
SIZED = replace(
    TINY, weight_bytes=dict.fromkeys(TINY.stages, 1), load_s={"encode": 1.0, "denoise": 4.0, "decode": 1.0}
)
OTHER = replace(SIZED, model="other")
BOTH = {"tiny": SIZED, "other": OTHER}
OTHERS = stages(*TINY.stages, model="other")
PROFILE = Profile().with_samples([sample("encode", 1.0), sample("denoise", 8.0), sample("decode", 1.0)])


def placement(
    targets: Targets, since_s: float = 0.0, models: dict[str, ModelView] | None = None
) -> Placement:
    every = {(view.model, stage) for view in (models or BOTH).values() for stage in view.stages}
    return Placement(
        stages=targets,
        changed_s=since_s,
        reason=Reason.INITIAL_PLACEMENT,
        detail="",
        since_s=dict.fromkeys(targets, since_s),
        models=frozenset(models or BOTH),
        homeless=frozenset(every.difference(*targets.values())),
    )


def view(worker_id: str, resident: frozenset[tuple[str, str]], memory_bytes: int = 3) -> WorkerView:
    return replace(worker(worker_id, resident), memory_bytes=memory_bytes)


def busy(view: WorkerView, *names: str, since_s: float = 100.0) -> WorkerView:
    task = RunningTask("task", ("running",), "tiny", names, SHAPE, 4, 0, since_s, since_s=since_s)
    return replace(view, task=task)


def wants(
    job_id: str, deadline_s: float, model: str = "tiny", pending: tuple[str, ...] = TINY.stages
) -> JobView:
    return replace(job(job_id, deadline_s, pending=pending), model=model)


def decided(
    before: Placement,
    workers: tuple[WorkerView, ...],
    *jobs: JobView,
    now_s: float = 100.0,
    models: object = BOTH,
) -> tuple[Placement | None, float | None]:
    observation = Observation(now_s, jobs, workers, models)  # type: ignore[arg-type]
    return swapped(before, Forecast(30.0, 12), PROFILE, observation, CONFIG)


ONE = placement({"w0": OTHERS})


def test_what_has_no_home_comes_in_for_a_job_that_waits_with_all_it_needs() -> None:
    after, _ = decided(ONE, (view("w0", OTHERS),), wants("a", 120.0))
    assert after is not None
    assert after.stages == {"w0": EVERY}
    assert after.homeless == OTHERS
    assert after.reason is Reason.NEEDED_NOW
    assert after.detail == "a waits for encode of tiny: w0 holds other: nothing; tiny: EDC"
    # settled when the three are loaded
    assert after.since_s == {"w0": 106.0}


def test_nothing_comes_in_that_nobody_waits_for() -> None:
    assert decided(ONE, (view("w0", OTHERS),)) == (None, None)
    running = replace(wants("a", 120.0), running=True)
    assert decided(ONE, (view("w0", OTHERS),), running) == (None, None)


def test_a_more_urgent_job_that_needs_what_would_go_comes_first() -> None:
    later, sooner = wants("later", 130.0), wants("sooner", 120.0, "other", ("denoise", "decode"))
    assert decided(ONE, (view("w0", OTHERS),), later, sooner)[0] is None
    after, _ = decided(ONE, (view("w0", OTHERS),), replace(later, deadline_s=110.0), sooner)
    assert after is not None


def test_a_worker_keeps_what_it_got_for_the_dwell_and_is_looked_at_then() -> None:
    fresh = placement({"w0": OTHERS}, since_s=95.0)
    assert decided(fresh, (view("w0", OTHERS),), wants("a", 120.0)) == (None, 105.0)
    assert decided(fresh, (view("w0", OTHERS),), wants("a", 120.0), now_s=105.0)[0] is not None


def test_what_it_costs_least_to_lose_goes() -> None:
    # other has a second home on w1, which is idle; w0 is busy
    before = placement({"w0": OTHERS, "w1": OTHERS, "w2": OTHERS})
    workers = (
        busy(view("w0", OTHERS), "decode"),
        view("w1", OTHERS),
        view("w2", OTHERS | stages("decode"), 4),
    )
    after, _ = decided(before, workers, wants("a", 120.0))
    # w2 has decode already
    assert after is not None
    assert {name for name, held in after.stages.items() if held != OTHERS} == {"w2"}


def test_as_much_stays_as_there_is_room_for() -> None:
    after, _ = decided(placement({"w0": OTHERS}), (view("w0", OTHERS, 5),), wants("a", 120.0))
    assert after is not None
    assert after.stages["w0"] == EVERY | stages("encode", "denoise", model="other")


def test_what_no_worker_can_hold_is_not_tried() -> None:
    huge = {**BOTH, "tiny": replace(SIZED, weight_bytes={"encode": 9, "denoise": 9, "decode": 9})}
    impossible = replace(ONE, impossible=EVERY)
    assert decided(impossible, (view("w0", OTHERS),), wants("a", 120.0), models=huge) == (None, None)
    # nor where only the placement does not know
    assert decided(ONE, (view("w0", OTHERS),), wants("a", 120.0), models=huge)[0] is None


SPLIT = placement({"w0": LOOP, "w1": stages("encode", "decode")}, models={"tiny": SIZED})
LOOPS = ("denoise", "decode")


def queue(n: int) -> list[JobView]:
    return [wants(f"job {i}", 200.0 + i, pending=LOOPS) for i in range(n)]


def helped(
    n: int, rest_memory: int = 3, *, rest_busy: bool = False, since_s: float = 100.0
) -> Placement | None:
    rest = view("w1", stages("encode", "decode"), rest_memory)
    workers = (
        busy(view("w0", LOOP), "denoise", since_s=since_s),
        busy(rest, "decode") if rest_busy else rest,
    )
    return decided(SPLIT, workers, *queue(n), models={"tiny": SIZED})[0]


def test_an_idle_worker_with_room_loads_what_a_queue_waits_for() -> None:
    # the running loop takes 8 s more, a load 4: the first job would wait twice as long
    after = helped(1)
    assert after is not None
    assert after.stages == {"w0": LOOP, "w1": EVERY}
    assert after.detail.startswith("job 0 would wait 8.0 s for denoise of tiny, a load takes 4.0 s: ")


def test_it_waits_where_the_turn_comes_about_as_soon() -> None:
    # 4 s are left of the running one; with two that wait the second one would wait for 12 s
    assert helped(1, since_s=96.0) is None
    assert helped(2, since_s=96.0) is not None


def test_only_idle_workers_with_room_help_and_nothing_is_given_up_for_it() -> None:
    assert helped(3, rest_memory=2) is None
    assert helped(3, rest_busy=True) is None


def test_a_home_that_is_idle_or_about_to_have_it_is_waited_for() -> None:
    rest = view("w1", stages("encode", "decode"))
    models = {"tiny": SIZED}
    assert decided(SPLIT, (view("w0", LOOP), rest), *queue(3), models=models)[0] is None
    three = placement({**SPLIT.stages, "w2": LOOP}, models=models)
    coming = (busy(view("w0", LOOP), "denoise"), rest, view("w2", frozenset()))
    assert decided(three, coming, *queue(3), models=models)[0] is None


def test_a_fleet_that_holds_the_same_everywhere_has_nothing_to_swap() -> None:
    everywhere = placement({"w0": EVERY, "w1": EVERY}, models={"tiny": SIZED})
    workers = (busy(view("w0", EVERY), "denoise"), view("w1", EVERY))
    assert decided(everywhere, workers, *queue(3), models={"tiny": SIZED}) == (None, None)
