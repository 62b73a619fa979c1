"""When a placement changes: at the first worker, when workers or models come or go, and when the mix shifts.

Moving stages costs loads, so the rule is slow to act: the loop's share must be past the rounding boundary by
a margin, enough stages must have ended since the last change, and that change must be some time ago. A fleet
that lost or gained a worker is placed again at once: waiting would leave stages without a home. Models that
join or leave change what a role means and no role.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from planner.mix import Mix
from planner.placement import Placement, Role, assign_roles, n_loop_workers
from planner.types import ModelView, Observation, PlannerConfig, Reason


def reviewed(
    placement: Placement | None, mix: Mix, observation: Observation, config: PlannerConfig
) -> tuple[Placement | None, float | None]:
    """The placement from now on, and when to look again if only time is missing for a change.

    None is the placement of a fleet that has had no worker yet.
    """
    now = {worker.worker_id for worker in observation.workers}
    if placement is None:
        return (_first(observation, config), None) if now else (None, None)
    if placement.roles.keys() != now:
        return _replaced(placement, mix, observation, config), None
    if placement.models != observation.models.keys():
        return _for_other_models(placement, observation), None
    if config.pinned or not now:
        return placement, None
    return _by_rule(placement, mix, observation, config)


def past_boundary(share: float, n_loop: int, n_workers: int, margin: float) -> bool:
    """Whether `share` asks for another number than `n_loop`, and clearly so.

    The margin is at most a quarter of the distance between two boundaries, 1 / n_workers: a wider one could
    never be passed at the ends of a large fleet.
    """
    wanted = n_loop_workers(share, n_workers)
    if wanted == n_loop:
        return False
    boundary = (n_loop + (0.5 if wanted > n_loop else -0.5)) / n_workers
    return abs(share - boundary) >= min(margin, 0.25 / n_workers)


def _first(observation: Observation, config: PlannerConfig) -> Placement:
    if config.pinned:
        return _pinned(observation)
    return Placement(
        roles={worker.worker_id: Role.EVERY for worker in observation.workers},
        changed_s=observation.now_s,
        reason=Reason.INITIAL_PLACEMENT,
        detail="first placement: every worker holds every stage",
        models=frozenset(observation.models),
    )


def _pinned(observation: Observation) -> Placement:
    return Placement(
        roles={worker.worker_id: Role.PINNED for worker in observation.workers},
        changed_s=observation.now_s,
        reason=Reason.PINNED_PLACEMENT,
        detail="pinned by the configuration",
        models=frozenset(observation.models),
    )


def _for_other_models(before: Placement, observation: Observation) -> Placement:
    news = [
        f"{', '.join(sorted(names))} {verb}"
        for names, verb in (
            (observation.models.keys() - before.models, "joined"),
            (before.models - observation.models.keys(), "left"),
        )
        if names
    ]
    return replace(
        before,
        reason=Reason.MODELS_CHANGED,
        detail=" and ".join(news),
        models=frozenset(observation.models),
    )


def _replaced(before: Placement, mix: Mix, observation: Observation, config: PlannerConfig) -> Placement:
    """Placed again for the workers there are now, by the mix if there is one, else by the last share."""
    if config.pinned:
        return _pinned(observation)
    observed = mix.loop_share(observation.models, observation.now_s)
    share = observed.share if observed else before.share
    n_workers = len(observation.workers)
    n_loop = n_workers if share is None else n_loop_workers(share, n_workers)
    roles = assign_roles(n_loop, observation.workers, observation.models)
    joined = sorted(roles.keys() - before.roles.keys())
    left = sorted(before.roles.keys() - roles.keys())
    news = [f"{', '.join(ids)} {verb}" for ids, verb in ((joined, "joined"), (left, "left")) if ids]
    return Placement(
        roles=roles,
        changed_s=observation.now_s,
        reason=Reason.WORKER_REPLACED,
        detail=f"{' and '.join(news)}: {_count(roles, observation.models)}, was {before.n_loop}",
        share=share,
        models=frozenset(observation.models),
    )


def _by_rule(
    before: Placement, mix: Mix, observation: Observation, config: PlannerConfig
) -> tuple[Placement, float | None]:
    n_workers = len(before.roles)
    observed = mix.loop_share(observation.models, observation.now_s)
    if observed is None or mix.n_since(before.changed_s) < config.min_samples:
        return before, None
    if not past_boundary(observed.share, before.n_loop, n_workers, config.share_margin):
        return before, None
    due_s = before.changed_s + config.min_dwell_s
    if observation.now_s < due_s:
        return before, due_s
    n_loop = n_loop_workers(observed.share, n_workers)
    roles = assign_roles(n_loop, observation.workers, observation.models)
    detail = (
        f"{_loop_name(observation.models)} took {100 * observed.share:.0f} % of {observed.total_s:.1f} "
        f"GPU-seconds in the last {observed.span_s:.0f} s: {_count(roles, observation.models)}, "
        f"was {before.n_loop}"
    )
    placement = Placement(
        roles=roles,
        changed_s=observation.now_s,
        reason=Reason.MIX_SHIFTED,
        detail=detail,
        share=observed.share,
        models=frozenset(observation.models),
    )
    return placement, None


def _count(roles: Mapping[str, Role], models: Mapping[str, ModelView]) -> str:
    n_loop = sum(role is not Role.REST for role in roles.values())
    return f"{n_loop} of {len(roles)} workers {_loop_name(models)}"


def _loop_name(models: Mapping[str, ModelView]) -> str:
    return "/".join(sorted({model.loop_stage for model in models.values()})) or "run the loop"
