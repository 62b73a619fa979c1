"""What `/metrics` reads at the moment it is asked, so that no gauge ever lags behind what it tells of."""

from __future__ import annotations

import enum
from collections import Counter as Counted
from collections.abc import Iterable, Iterator
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.decisions import Planner
from gateway.encodes import EncodeCache
from gateway.fleet import Fleet, WorkerState
from gateway.handoffs import Handoffs as Store
from gateway.jobs import JobBook
from gateway.journal import Journal
from gateway.lifecycle import State
from gateway.logs import n_dropped_lines
from planner.types import StageKey

_HANDOFF_COUNTERS = (
    ("triptych_handoff_written_files", "Handoff files that got an owner", "taken"),
    ("triptych_handoff_written_bytes", "Bytes of these files", "taken_bytes"),
    ("triptych_handoff_freed_files", "Handoff files that lost their last owner", "freed"),
    ("triptych_handoff_freed_bytes", "Bytes of these files", "freed_bytes"),
)


class Queue(Collector):
    """Jobs by stage and by state. A stage is shown as long as some worker holds it or some job needs it."""

    def __init__(self, fleet: Fleet, book: JobBook) -> None:
        self._fleet = fleet
        self._book = book

    def collect(self) -> Iterator[Metric]:
        waiting: Counted[StageKey] = Counted()
        running: Counted[StageKey] = Counted()
        states: Counted[State] = Counted()
        stages = {key for worker in self._fleet for key in worker.resident}
        for job in self._book:
            states[job.state] += 1
            stages.update((job.model, stage) for stage in job.graph.names)
            if job.pending:
                counted = waiting if job.task_id is None else running
                counted[job.model, job.pending[0]] += 1
        queue = GaugeMetricFamily(
            "triptych_queue_jobs", "Jobs that wait, by the stage that is next", labels=["model", "stage"]
        )
        in_flight = GaugeMetricFamily(
            "triptych_in_flight_jobs", "Jobs that a worker has, by stage", labels=["model", "stage"]
        )
        for key in sorted(stages):
            queue.add_metric(key, waiting[key])
            in_flight.add_metric(key, running[key])
        yield queue
        yield in_flight
        job_states = GaugeMetricFamily("triptych_jobs", "Open jobs by state", labels=["state"])
        for state in State:
            if not state.is_terminal:
                job_states.add_metric([str(state)], states[state])
        yield job_states
        yield GaugeMetricFamily(
            "triptych_open_requests", "Requests without an outcome yet", value=len(self._book.open_requests)
        )


class Workers(Collector):
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> Iterator[Metric]:
        states = GaugeMetricFamily(
            "triptych_worker_state", "1 for the state a worker is in", labels=["worker", "state"]
        )
        busy = GaugeMetricFamily("triptych_worker_busy", "1 while a task has its device", labels=["worker"])
        resident = GaugeMetricFamily(
            "triptych_worker_resident_bytes", "Bytes of weights that a worker holds", labels=["worker"]
        )
        host = GaugeMetricFamily(
            "triptych_host_weights_bytes",
            "Bytes of host copies of weights, which the workers of a node share",
            labels=["node"],
        )
        for node, n_bytes in self._fleet.host_bytes.items():
            host.add_metric([node], n_bytes)
        for worker in self._fleet:
            for state in WorkerState:
                states.add_metric([worker.worker_id, str(state)], float(worker.state is state))
            busy.add_metric([worker.worker_id], float(bool(worker.batch)))
            resident.add_metric([worker.worker_id], worker.resident_bytes)
        yield states
        yield busy
        yield resident
        yield host


class Kernels(Collector):
    """Which way the workers' calls went, since each one's process began."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> Iterator[Metric]:
        calls = CounterMetricFamily(
            "triptych_kernel_calls",
            "Calls of ops for which there is a kernel, by the path that they took",
            labels=["worker", "op", "path"],
        )
        fallbacks = CounterMetricFamily(
            "triptych_kernel_fallbacks",
            "Calls that went to torch without having been measured to be faster there, by reason",
            labels=["worker", "op", "reason"],
        )
        for worker in self._fleet:
            by_path: Counted[tuple[str, str]] = Counted()
            for each in worker.kernels:
                by_path[each.op, each.path] += each.calls
                if each.reason:
                    fallbacks.add_metric([worker.worker_id, each.op, each.reason], each.calls)
            for (op, path), n in sorted(by_path.items()):
                calls.add_metric([worker.worker_id, op, path], n)
        yield calls
        yield fallbacks


class Model(Protocol):
    """A model that is served, on its way in or out, or failed."""

    @property
    def name(self) -> str: ...

    @property
    def status(self) -> enum.StrEnum: ...


class Models(Collector):
    def __init__(self, models: Iterable[Model]) -> None:
        """`models`: those that there are whenever it is iterated."""
        self._models = models

    def collect(self) -> Iterator[Metric]:
        statuses = GaugeMetricFamily(
            "triptych_model_status", "1 for the status that a model has", labels=["model", "status"]
        )
        for model in self._models:
            for status in type(model.status):
                statuses.add_metric([model.name, str(status)], float(status is model.status))
        yield statuses


class Expected(Collector):
    """What the planner expects, and how much of it its placement serves."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner

    def collect(self) -> Iterator[Metric]:
        arrivals = GaugeMetricFamily(
            "triptych_forecast_pictures", "Pictures a second that are forecast", labels=["model"]
        )
        demand = GaugeMetricFamily(
            "triptych_forecast_gpu_seconds",
            "GPU-seconds a second that are forecast for a stage",
            labels=["model", "stage"],
        )
        rate = GaugeMetricFamily(
            "triptych_placement_rate", "How many times what is forecast the placement can serve"
        )
        if (now := self._planner.expected()) is not None:
            for model in sorted({kind.model for kind in now.arrivals}):
                per_s = sum(each for kind, each in now.arrivals.items() if kind.model == model)
                arrivals.add_metric([model], per_s)
            for key, seconds in sorted(now.demand_s.items()):
                demand.add_metric(key, seconds)
            if now.rate is not None:
                rate.add_metric([], now.rate)
        yield from (arrivals, demand, rate)


class Encodes(Collector):
    def __init__(self, encodes: EncodeCache) -> None:
        self._encodes = encodes

    def collect(self) -> Iterator[Metric]:
        counted = self._encodes.statistics()
        yield CounterMetricFamily(
            "triptych_encode_cache_hits", "Jobs that began with a known encode result", value=counted["hits"]
        )
        yield CounterMetricFamily(
            "triptych_encode_cache_misses",
            "Encodes that had to be run, of results that may be shared",
            value=counted["misses"],
        )
        yield GaugeMetricFamily(
            "triptych_encode_cache_entries", "Encode results that are kept", value=counted["entries"]
        )
        yield GaugeMetricFamily(
            "triptych_encode_cache_bytes", "Bytes of encode results that are kept", value=counted["n_bytes"]
        )


class Handoffs(Collector):
    """Files that have an owner; what is in the store and has none is in `triptych_handoff_bytes` only."""

    def __init__(self, handoffs: Store) -> None:
        self._handoffs = handoffs

    def collect(self) -> Iterator[Metric]:
        counted = self._handoffs.statistics()
        yield GaugeMetricFamily(
            "triptych_handoff_files", "Handoff files that have an owner", value=counted["files"]
        )
        yield GaugeMetricFamily(
            "triptych_handoff_owned_bytes", "Bytes of these files", value=counted["n_bytes"]
        )
        yield GaugeMetricFamily(
            "triptych_handoff_capacity_bytes", "Bound of the handoff store", value=counted["capacity_bytes"]
        )
        for name, documentation, key in _HANDOFF_COUNTERS:
            yield CounterMetricFamily(name, documentation, value=counted[key])


class StoreBytes(Collector):
    """Read from the folder, which is not to be done in the event loop, so given."""

    def __init__(self, n_bytes: int) -> None:
        self._n_bytes = n_bytes

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "triptych_handoff_bytes", "Bytes of all files in the handoff store", value=self._n_bytes
        )


class Lines(Collector):
    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "triptych_log_dropped_lines",
            "Lines of the log for which there was no room",
            value=n_dropped_lines(),
        )


class JournalLines(Collector):
    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "triptych_journal_dropped_lines",
            "Lines of the journal that were not written",
            value=self._journal.statistics()["dropped"],
        )
