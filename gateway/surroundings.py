"""What there is one of per gateway and every model needs, and what is made of it for one model."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass

from gateway.accounts import Accounts
from gateway.config import GatewayConfig
from gateway.decisions import Planner, shape_of
from gateway.desk import Desk
from gateway.encodes import EncodeCache
from gateway.fleet import Fleet
from gateway.handoffs import Handoffs
from gateway.job import Job
from gateway.kept import Kept
from gateway.orders import Orders, Send
from gateway.runs import Runs
from gateway.setbacks import Setbacks
from gateway.warmup import Listener, WarmUps
from pipelines.catalogue import Model
from pipelines.graph import StageGraph
from wire.generation import Generation


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """`send` queues a message for a worker, `wake_at` makes a turn at a time of `clock`, `changed` one soon.

    `deliver` is called with a job whose picture is in the store. `spawn` runs something beside the turns.
    """

    config: GatewayConfig
    fleet: Fleet
    planner: Planner
    desk: Desk
    handoffs: Handoffs
    encodes: EncodeCache
    accounts: Accounts
    setbacks: Setbacks
    send: Send
    deliver: Callable[[Job], None]
    spawn: Callable[[Coroutine[None, None, None]], None]
    wake_at: Callable[[float], None]
    changed: Callable[[], None]
    clock: Callable[[], float]


def make_runs(
    graph: StageGraph, model: Model, around: Surroundings, listener: Listener, *, first: Generation
) -> Runs:
    """The tasks of a model. `first` is what its warm-ups run, `listener` hears of them."""
    kept = Kept(
        graph,
        around.handoffs,
        around.encodes,
        around.accounts,
        checkpoint_every=around.config.checkpoint_every,
        clock=around.clock,
    )
    orders = Orders(graph, kept, around.encodes, send=around.send, clock=around.clock)
    warm_ups = WarmUps(
        graph,
        orders,
        around.fleet,
        around.handoffs,
        listener,
        generation=first,
        shape=shape_of(first, model),
        clock=around.clock,
    )
    return Runs(
        graph,
        orders,
        warm_ups,
        kept,
        book=around.desk.book,
        setbacks=around.setbacks,
        handoffs=around.handoffs,
        accounts=around.accounts,
        deliver=around.deliver,
        clock=around.clock,
    )
