"""What `/metrics` tells, in Prometheus' text. Gauges are read when they are asked for, so they never lag."""

from __future__ import annotations

from collections import Counter as Counted
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gateway.encodes import EncodeCache
from gateway.fleet import Fleet, WorkerState
from gateway.jobs import JobBook
from gateway.lifecycle import State

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0, 300.0)


class Metrics:
    """One registry per gateway; nothing is global."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.stage_seconds = Histogram(
            "triptych_stage_seconds",
            "Time of one stage on one worker",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "triptych_request_seconds",
            "Time of a request that was answered with pictures",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.requests = Counter(
            "triptych_requests", "Requests by outcome", ["outcome"], registry=self.registry
        )
        self.deadlines = Counter(
            "triptych_deadlines", "Requests done, by deadline met", ["met"], registry=self.registry
        )
        self.restarts = Counter(
            "triptych_worker_restarts",
            "Worker processes that ended unasked",
            ["worker"],
            registry=self.registry,
        )
        self.retries = Counter(
            "triptych_job_retries",
            "Jobs whose work was run again or went on later, by reason",
            ["model", "reason"],
            registry=self.registry,
        )
        self.checkpoints = Counter(
            "triptych_checkpoints",
            "Checkpoints of loops that were kept",
            ["model"],
            registry=self.registry,
        )
        self.checkpoint_bytes = Counter(
            "triptych_checkpoint_bytes",
            "Bytes of the checkpoints that were kept",
            ["model"],
            registry=self.registry,
        )
        self.effects = Counter(
            "triptych_planner_effects",
            "Effects of the planner that were carried out",
            ["effect", "reason"],
            registry=self.registry,
        )

    def watch(self, fleet: Fleet, book: JobBook, encodes: EncodeCache) -> None:
        """Show the gauges of these."""
        self.registry.register(_Gauges(fleet, book))
        self.registry.register(_Encodes(encodes))

    def render(self, handoff_bytes: int) -> bytes:
        """Prometheus' text format, version 0.0.4. `handoff_bytes`: bytes now in the handoff store."""
        own = CollectorRegistry()
        own.register(_One("triptych_handoff_bytes", "Bytes in the handoff store", handoff_bytes))
        return generate_latest(self.registry) + generate_latest(own)


class _One(Collector):
    def __init__(self, name: str, documentation: str, value: float) -> None:
        self._gauge = GaugeMetricFamily(name, documentation, value=value)

    def collect(self) -> Iterator[Metric]:
        yield self._gauge


class _Encodes(Collector):
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
            "triptych_encode_cache_bytes", "Bytes of encode results that are kept", value=counted["n_bytes"]
        )


class _Gauges(Collector):
    def __init__(self, fleet: Fleet, book: JobBook) -> None:
        self._fleet = fleet
        self._book = book

    def collect(self) -> Iterator[Metric]:
        waiting: Counted[str] = Counted()
        running: Counted[str] = Counted()
        states: Counted[State] = Counted()
        for job in self._book:
            states[job.state] += 1
            if job.pending:
                counted = waiting if job.task_id is None else running
                counted[job.pending[0]] += 1
        stages = {stage for job in self._book for stage in job.graph.names}
        stages |= {stage for worker in self._fleet for _, stage in worker.resident}
        queue = GaugeMetricFamily(
            "triptych_queue_jobs", "Jobs that wait, by the stage that is next", labels=["stage"]
        )
        in_flight = GaugeMetricFamily(
            "triptych_in_flight_jobs", "Jobs that a worker has, by stage", labels=["stage"]
        )
        for stage in sorted(stages):
            queue.add_metric([stage], waiting[stage])
            in_flight.add_metric([stage], running[stage])
        yield queue
        yield in_flight
        job_states = GaugeMetricFamily("triptych_jobs", "Open jobs by state", labels=["state"])
        for state in State:
            if not state.is_terminal:
                job_states.add_metric([str(state)], states[state])
        yield job_states
        worker_states = GaugeMetricFamily(
            "triptych_worker_state", "1 for the state a worker is in", labels=["worker", "state"]
        )
        resident = GaugeMetricFamily(
            "triptych_worker_resident_bytes", "Bytes of weights that a worker holds", labels=["worker"]
        )
        for worker in self._fleet:
            for worker_state in WorkerState:
                worker_states.add_metric(
                    [worker.worker_id, str(worker_state)], float(worker.state is worker_state)
                )
            resident.add_metric([worker.worker_id], worker.resident_bytes)
        yield worker_states
        yield resident
