"""When the placement changes: at once for what happened to the fleet, slowly for what is asked of it.

At once: the first worker, workers or models that come or go, a stage that failed where it was placed, shapes
that need more memory than there is. As little as possible moves then. A fleet that waited would have stages
without a home.

Slowly, because moving stages costs loads. A fleet on which everything has room again goes back to everything
everywhere, once the last change is `min_dwell_s` ago and `min_samples` jobs came since. Else all of these
must hold:

- the fleet could serve clearly more: `gain_margin` above what the placement serves of the demand, of which
  open jobs are a part, so that a queue at one stage is seen too;
- that is worth the loads: GPU-seconds served more over `horizon_s` against worker seconds of loading, where
  twice the demand (`HEADROOM`) is as good as any more;
- the last change is `min_dwell_s` ago, and `min_samples` jobs came since.

It is looked at `LOOKS_PER_DWELL` times in `min_dwell_s` at most. Where memory cannot hold one of everything
no placement is right for long, and `planner.swap` decides by who waits.

Source: to re-plan when stage rates drift apart, TridentServe (arXiv 2510.02838), where the fastest stage has
to be 1.5 times as fast as the slowest; here the gain that is possible is compared with what it costs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import dataclass, replace

from planner.forecast import Forecast
from planner.ground import Ground, ground_of
from planner.placement import Placement, pinned, summary
from planner.profile import Profile
from planner.search import Counts, Problem, completed, from_scratch, improved
from planner.swap import swapped
from planner.types import ModelView, Observation, PlannerConfig, Reason, Shape

HEADROOM = 2.0
"""Times the demand beyond which more capacity is worth nothing: what bursts need over their mean."""

NEARLY = 0.98
"""A placement near the present one is as good as the best if it serves this much of what that does."""

LOOKS_PER_DWELL = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """The placement, and what the next look needs: not before `next_s` unless something else happened.

    `placed_s`: when all of it was placed last, other than by one worker that took something on.
    `largest` and `models` are what the last look went by: shapes and sizes decide what fits.
    """

    placement: Placement | None = None
    next_s: float = 0.0
    placed_s: float = 0.0
    largest: Mapping[str, Shape] | None = None
    models: Mapping[str, ModelView] | None = None


def reviewed(
    review: Review, forecast: Forecast, profile: Profile, observation: Observation, config: PlannerConfig
) -> tuple[Review, float | None]:
    """The placement from now on, and when to look again if only time is missing for a change."""
    before = review.placement
    if before is None and not observation.workers:
        return review, None
    news = _news(before, observation)
    if config.pinned:
        if news is None or news.reason is Reason.STAGE_FAILED:
            return review, None
        return replace(review, placement=pinned(observation, config)), None
    if news is not None:
        ground = ground_of(forecast, profile, observation, config)
        return _looked(review, _again(before, news, ground, config), ground, forecast, config), None
    assert before is not None
    if not config.parts.places:
        return review, None
    due_s = None
    if not observation.workers:
        return review, None
    known = review.largest is forecast.largest and review.models == observation.models
    if observation.now_s >= review.next_s or not known:
        ground = ground_of(forecast, profile, observation, config)
        placement, due_s = _by_demand(review, before, forecast, ground, config, other_sizes=not known)
        review = _looked(review, placement, ground, forecast, config)
        if placement is not before:
            return review, None
    swap, swap_due_s = swapped(before, forecast, profile, observation, config)
    if swap is not None:
        return replace(review, placement=swap), None
    return review, min((at_s for at_s in (due_s, swap_due_s) if at_s is not None), default=None)


@dataclass(frozen=True, slots=True)
class _News:
    reason: Reason
    text: str


def _news(before: Placement | None, observation: Observation) -> _News | None:
    """What happened to the fleet that the placement does not know of."""
    if before is None:
        return _News(Reason.INITIAL_PLACEMENT, "first placement")
    now = {worker.worker_id for worker in observation.workers}
    if before.stages.keys() != now:
        return _News(Reason.WORKER_REPLACED, _came_and_went(before.stages.keys(), now))
    if before.models != observation.models.keys():
        return _News(Reason.MODELS_CHANGED, _came_and_went(before.models, observation.models.keys()))
    failed = [
        f"{stage} of {model} failed on {worker.worker_id}"
        for worker in observation.workers
        if worker.failed
        for model, stage in worker.failed & before.stages[worker.worker_id]
    ]
    return _News(Reason.STAGE_FAILED, ", ".join(sorted(failed))) if failed else None


def _came_and_went(before: Set[str], now: Set[str]) -> str:
    told = ((sorted(now - before), "joined"), (sorted(before - now), "left"))
    return " and ".join(f"{', '.join(names)} {verb}" for names, verb in told if names)


def _again(before: Placement | None, news: _News, ground: Ground, config: PlannerConfig) -> Placement:
    """Placed for the fleet there is now, and better than that if it is worth its loads."""
    kept = ground.kept(before.stages, grown=True) if before else {}
    counts = completed(ground.problem, ground.counts(kept))
    sets = ground.assigned(counts, kept)
    if config.parts.places:
        better = _better(counts, ground, config)
        if better is not None:
            changed = ground.assigned(better, sets)
            cost_s = ground.loads_s(ground.stages(changed)) - ground.loads_s(ground.stages(sets))
            if _pays(ground.problem, counts, better, cost_s, config):
                sets, counts = changed, better
    return _placement(before, sets, counts, ground, news.reason, news.text)


def _by_demand(
    review: Review,
    before: Placement,
    forecast: Forecast,
    ground: Ground,
    config: PlannerConfig,
    *,
    other_sizes: bool,
) -> tuple[Placement, float | None]:
    """The placement by what is asked for, and when only the dwell is missing for another one.

    Whether there is room for what had none depends on sizes alone.
    """
    now_s = ground.observation.now_s
    kept = ground.kept(before.stages, grown=False)
    if any(stages and name not in kept for name, stages in before.stages.items()):
        counts = completed(ground.problem, ground.counts(kept))
        text = "more memory is needed than there was when it was placed"
        return _placement(before, ground.assigned(counts, kept), counts, ground, Reason.NO_ROOM, text), None
    counts = ground.counts(ground.masks(before.stages))
    now = ground.problem.capacity(counts)
    if now.homeless and not other_sizes:
        return before, None
    everywhere = from_scratch(ground.problem) if ground.problem.fits_everywhere else counts
    may_gain = (
        ground.problem.asked_s > 0.0 and ground.problem.best_rate >= (1 + config.gain_margin) * now.rate
    )
    if not now.homeless and (
        (everywhere == counts and not may_gain) or forecast.n_since(review.placed_s) < config.min_samples
    ):
        return before, None
    due_s = review.placed_s + config.min_dwell_s
    if now_s < due_s and not now.homeless:
        return before, due_s
    if everywhere != counts:
        sets = ground.assigned(everywhere, ground.masks(before.stages))
        text = "everything has room on every worker"
        return _placement(before, sets, everywhere, ground, Reason.MIX_SHIFTED, text), None
    better = _better(counts, ground, config)
    if better is None:
        return before, None
    sets = ground.assigned(better, ground.masks(before.stages))
    cost_s = ground.loads_s(ground.stages(sets)) - ground.loads_s(before.stages)
    if not _pays(ground.problem, counts, better, cost_s, config):
        return before, None
    served = ground.problem.capacity(better).rate
    text = (
        f"{ground.problem.asked_s:.2f} GPU-seconds a second are asked for, of which {now.rate:.2f} times as "
        f"much could be served, now {served:.2f}"
    )
    return _placement(before, sets, better, ground, Reason.MIX_SHIFTED, text), None


def _better(counts: Counts, ground: Ground, config: PlannerConfig) -> Counts | None:
    """The best counts, or those near the present ones that are nearly as good; None if none serve more."""
    problem = ground.problem
    now = problem.capacity(counts)
    if not now.homeless and (
        problem.asked_s <= 0.0 or problem.best_rate < (1 + config.gain_margin) * now.rate
    ):
        return None
    near, best = improved(problem, counts), from_scratch(problem)
    close, far = problem.capacity(near), problem.capacity(best)
    if close.homeless_s > far.homeless_s or (
        close.homeless == far.homeless and close.rate < NEARLY * far.rate
    ):
        near, close = best, far
    return near if close.is_better_than(now) else None


def _pays(problem: Problem, before: Counts, after: Counts, load_s: float, config: PlannerConfig) -> bool:
    """Whether to load for `load_s` worker seconds is worth what is served more then."""
    ours, theirs = problem.capacity(before), problem.capacity(after)
    if ours.homeless:
        return not theirs.homeless
    if theirs.homeless or theirs.rate < (1 + config.gain_margin) * ours.rate:
        return False
    more_s = (min(theirs.rate, HEADROOM) - min(ours.rate, HEADROOM)) * problem.asked_s * config.horizon_s
    return more_s > load_s


def _looked(
    before: Review, placement: Placement, ground: Ground, forecast: Forecast, config: PlannerConfig
) -> Review:
    now_s = ground.observation.now_s
    return Review(
        placement=placement,
        next_s=now_s + config.min_dwell_s / LOOKS_PER_DWELL,
        placed_s=before.placed_s if placement is before.placement else now_s,
        largest=forecast.largest,
        models=ground.observation.models,
    )


def _placement(
    before: Placement | None,
    sets: Mapping[str, int],
    counts: Counts,
    ground: Ground,
    reason: Reason,
    text: str,
) -> Placement:
    """`before` itself if it says the same already."""
    now_s, problem = ground.observation.now_s, ground.problem
    stages = ground.stages(sets)
    if before is not None and stages == before.stages and reason is Reason.NO_ROOM:
        return before
    now = problem.capacity(counts)
    homeless = ground.keys(now.homeless) if sets else frozenset()
    detail = f"{text}: {summary(stages, ground.observation.models)}"
    if homeless:
        reason, detail = Reason.NO_ROOM, f"{detail}; {ground.lack(now.homeless)}"
    return Placement(
        stages=stages,
        changed_s=now_s,
        reason=reason,
        detail=detail,
        since_s={
            name: before.since_s.get(name, now_s) if before and before.stages.get(name) == held else now_s
            for name, held in stages.items()
        },
        models=frozenset(ground.observation.models),
        rate=now.rate if problem.asked_s > 0.0 and math.isfinite(now.rate) else None,
        demand_s=ground.demand_s,
        homeless=homeless,
        impossible=ground.impossible(now.homeless) if sets else frozenset(),
    )
