"""What is refused, and what gets fewer steps."""

from planner import Profile, Reason, Run
from planner.types import Degrade, Parts, Reject
from tests.planner.gpus import LARGE, busy, decided, job, node, running, starts
from tests.planner.values import stages

PARTS = Parts(grows=False)


def test_hopeless_even_alone_is_refused_before_anything_ran() -> None:
    # on four workers it takes 6 s
    for deadline_s, is_refused in ((5.9, True), (6.0, False)):
        effects, _ = decided(node("n0", 4), [job("a", deadline_s, deadline_asked=True)], parts=PARTS)
        assert isinstance(effects[0], Reject if is_refused else Run)
    (refused,) = decided(node("n0", 4), [job("a", 5.9, deadline_asked=True)])[0]
    assert isinstance(refused, Reject)
    assert (refused.job, refused.reason) == ("a", Reason.HOPELESS)
    assert refused.detail == "takes 6.00 s at best, its deadline is in 5.90 s"


def test_a_busy_fleet_makes_nothing_hopeless() -> None:
    long = running("long", 500.0)
    workers = busy(node("n0", 4), long, can_pause=False)
    assert decided(workers, [long, job("a", 6.0, deadline_asked=True)])[0] == []


def test_a_degree_wider_than_every_node_helps_nobody() -> None:
    for n, is_refused in ((1, True), (2, False)):
        (effect,) = decided(node("n0", n), [job("a", 10.9, deadline_asked=True)])[0]
        assert isinstance(effect, Reject) is is_refused


def test_our_own_deadlines_refuse_nobody() -> None:
    assert starts(decided(node("n0", 4), [job("a", 1.0)], parts=PARTS)[0])


def test_an_unknown_cost_refuses_nobody() -> None:
    asked = job("a", 1.0, deadline_asked=True, drop_if_late=True)
    assert starts(decided(node("n0", 4), [asked], profile=Profile())[0])


def test_who_was_admitted_is_served_late() -> None:
    # could have been on time when it came
    waited = job("a", 6.0, deadline_asked=True)
    assert starts(decided(node("n0", 4), [waited], now_s=5.0, parts=PARTS)[0])
    began = job("a", 5.9, deadline_asked=True, started=True, pending=("denoise", "decode"))
    assert starts(decided(node("n0", 4), [began], now_s=5.0, parts=PARTS)[0])


def test_drop_if_late_is_refused_as_soon_as_it_is_hopeless() -> None:
    for now_s, is_refused in ((0.0, False), (0.1, True)):
        effects, _ = decided(node("n0", 4), [job("a", 6.0, drop_if_late=True)], now_s=now_s)
        assert isinstance(effects[0], Reject) is is_refused
    paused = job("a", 3.05, drop_if_late=True, started=True, steps_done=5, pending=("denoise", "decode"))
    assert isinstance(decided(node("n0", 4), [paused])[0][0], Reject) is False
    assert isinstance(decided(node("n0", 4), [paused], now_s=0.1)[0][0], Reject)


def test_a_deadline_that_has_passed_needs_no_profile() -> None:
    (refused,) = decided(node("n0", 1), [job("a", 6.0, drop_if_late=True)], now_s=6.0, profile=Profile())[0]
    assert isinstance(refused, Reject)


def test_a_running_job_is_not_refused() -> None:
    late = running("late", 1.0, drop_if_late=True)
    assert decided(busy(node("n0", 1), late), [late], now_s=2.0)[0] == []


def test_refusals_can_be_switched_off() -> None:
    effects = decided(node("n0", 4), [job("a", 1.0, drop_if_late=True)], parts=Parts(rejects=False))[0]
    assert starts(effects)


def test_retry_after_is_when_the_fleet_is_through_with_its_work() -> None:
    long = running("long", 500.0, LARGE)
    # eighty seconds of loop and a decode on one of four workers, and 11 s of what waits
    workers = node("n0", 4)
    seen = [*busy(workers[:1], long), *workers[1:]]
    effects, _ = decided(seen, [long, job("a", 5.9, deadline_asked=True), job("b", 100.0)], parts=PARTS)
    (refused,) = (effect for effect in effects if isinstance(effect, Reject))
    assert refused.retry_after_s == (80.5 + 11.0) / 4
    (alone,) = decided(node("n0", 4), [job("a", 5.9, deadline_asked=True)])[0]
    assert isinstance(alone, Reject)
    assert alone.retry_after_s == 1.0


def test_fewer_steps_where_that_was_agreed() -> None:
    # half a second each for encode and decode, and half a second per step
    effects, _ = decided(node("n0", 4), [job("a", 4.9, least_steps=5, deadline_asked=True)], parts=PARTS)
    assert effects[0] == Degrade(job="a", steps=7, detail="10 steps take 6.00 s, its deadline is in 4.90 s")
    (run,) = effects[1:]
    assert isinstance(run, Run)
    assert run.degree == 4


def test_no_fewer_than_agreed() -> None:
    effects, _ = decided(node("n0", 4), [job("a", 3.4, least_steps=5, deadline_asked=True)], parts=PARTS)
    assert [type(effect) for effect in effects] == [Reject]
    effects, _ = decided(node("n0", 4), [job("a", 3.5, least_steps=5, deadline_asked=True)], parts=PARTS)
    assert isinstance(effects[0], Degrade)
    assert effects[0].steps == 5


def test_a_loop_that_has_begun_keeps_its_steps() -> None:
    began = job("a", 1.0, least_steps=2, steps_done=3, pending=("denoise", "decode"), started=True)
    effects, _ = decided(node("n0", 4), [began], parts=PARTS)
    assert [type(effect) for effect in effects] == [Run]


def test_fewer_steps_can_be_switched_off() -> None:
    hurried = job("a", 4.9, least_steps=5, deadline_asked=True)
    effects, _ = decided(node("n0", 4), [hurried], parts=Parts(degrades=False))
    assert [type(effect) for effect in effects] == [Reject]


def test_who_needs_a_stage_that_has_room_nowhere_is_refused_and_told_so() -> None:
    workers = node("n0", 2, resident=stages("encode", "denoise"))
    fresh, began = job("fresh", 900.0), job("began", 900.0, started=True, pending=("decode",))
    for impossible, refused in (("decode", ["fresh"]), ("denoise", [])):
        effects, _ = decided(workers, [fresh, began], parts=PARTS, impossible=stages(impossible))
        refusals = [effect for effect in effects if isinstance(effect, Reject)]
        # what is resident can run, whatever was worked out
        assert [effect.job for effect in refusals] == refused
    (refusal,) = decided(workers, [fresh], impossible=stages("decode"))[0]
    assert isinstance(refusal, Reject)
    assert (refusal.reason, refusal.retry_after_s) == (Reason.NO_ROOM, 60.0)
    assert refusal.detail == "no worker has room for decode of tiny"
    # without anything to refuse it by it waits behind its encode
    assert starts(decided(workers, [fresh], parts=Parts(rejects=False), impossible=stages("decode"))[0])
