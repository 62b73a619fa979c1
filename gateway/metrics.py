"""What `/metrics` tells, in Prometheus' text: counters and histograms; `gauges` has what is read on demand.

Labels take values of ours only (models that are served, stages, reasons), never a client's words: a label is
kept for ever. docs/metrics.md has them all.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from gateway.decisions import Planner
from gateway.encodes import EncodeCache
from gateway.fleet import Fleet
from gateway.gauges import (
    Encodes,
    Expected,
    Handoffs,
    JournalLines,
    Kernels,
    Lines,
    Model,
    Models,
    Queue,
    StoreBytes,
    Workers,
)
from gateway.handoffs import Handoffs as Store
from gateway.jobs import JobBook
from gateway.journal import Journal
from gateway.version import VERSION
from wire.codec import PROTOCOL_VERSION

# a "_created" beside each series would be half of the answer, and nobody here asks for it
disable_created_metrics()  # type: ignore[no-untyped-call] # it has no annotations

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0, 300.0)
_STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_BATCHES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
_DECISION_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2)
_LAG_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


class Metrics:
    """One registry per gateway; nothing is global."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.stage_seconds = self._histogram(
            "triptych_stage_seconds", "Time of one stage on one worker", "model", "stage"
        )
        self.step_seconds = self._histogram(
            "triptych_step_seconds",
            "Mean time of a step, of each run of a loop stage",
            "model",
            "stage",
            buckets=_STEP_SECONDS,
        )
        self.request_seconds = self._histogram(
            "triptych_request_seconds", "Time from acceptance to the outcome", "model", "outcome"
        )
        self.queue_seconds = self._histogram(
            "triptych_request_queue_seconds",
            "Time until the first stage of a request's slowest picture began",
            "model",
        )
        self.requests = self._counter(
            "triptych_requests",
            "Requests for pictures that ended, by outcome and the error's code",
            "model",
            "outcome",
            "code",
        )
        self.deadlines = self._counter(
            "triptych_deadlines",
            "Requests done, failed or dropped when late, by whether their pictures were there in time",
            "model",
            "met",
        )
        self.retries = self._counter(
            "triptych_job_retries",
            "Jobs whose work was run again or went on later, by reason",
            "model",
            "reason",
        )
        self.checkpoints = self._counter(
            "triptych_checkpoints", "Checkpoints of loops that were kept", "model"
        )
        self.checkpoint_bytes = self._counter(
            "triptych_checkpoint_bytes", "Bytes of the checkpoints that were kept", "model"
        )
        self.load_seconds = self._histogram(
            "triptych_load_seconds", "Time of one load of stages on one worker", "model"
        )
        self.loaded_parts = self._counter(
            "triptych_loaded_parts",
            "Parts of models that loads needed and were not there, by where they came from",
            "model",
            "origin",
        )
        self.restarts = self._counter(
            "triptych_worker_restarts", "Worker processes that ended unasked", "worker"
        )
        self.kills = self._counter(
            "triptych_worker_kills",
            "Workers that were ended because they were silent, stuck or wrong",
            "worker",
        )
        self.effects = self._counter(
            "triptych_planner_effects",
            "Effects of the planner that were carried out",
            "model",
            "effect",
            "reason",
        )
        self.batch_jobs = self._histogram(
            "triptych_batch_jobs",
            "Jobs that shared the calls of an encode or, on average over its steps, of a loop, of each run",
            "model",
            "stage",
            buckets=_BATCHES,
        )
        self.decision_seconds = self._histogram(
            "triptych_decision_seconds",
            "Processor time of one decision of the planner",
            buckets=_DECISION_SECONDS,
        )
        self.http_requests = self._counter(
            "triptych_http_requests", "Answers over HTTP", "route", "method", "status"
        )
        self.loop_lag_seconds = self._histogram(
            "triptych_event_loop_lag_seconds",
            "How late the gateway's event loop came to what was due",
            buckets=_LAG_SECONDS,
        )
        info = Gauge("triptych_build_info", "Always 1", ["version", "protocol"], registry=self.registry)
        info.labels(VERSION, str(PROTOCOL_VERSION)).set(1)
        ProcessCollector(registry=self.registry)

    def watch(
        self,
        fleet: Fleet,
        book: JobBook,
        encodes: EncodeCache,
        handoffs: Store,
        models: Iterable[Model],
        planner: Planner,
    ) -> None:
        """Show the gauges of these."""
        for collector in (
            Queue(fleet, book),
            Workers(fleet),
            Kernels(fleet),
            Models(models),
            Expected(planner),
            Encodes(encodes),
            Handoffs(handoffs),
            Lines(),
        ):
            self.registry.register(collector)

    def watch_journal(self, journal: Journal) -> None:
        self.registry.register(JournalLines(journal))

    def render(self, store_bytes: int) -> bytes:
        """Prometheus' text format, version 0.0.4. `store_bytes`: bytes now in the handoff store."""
        own = CollectorRegistry()
        own.register(StoreBytes(store_bytes))
        return generate_latest(self.registry) + generate_latest(own)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(name, documentation, labels, registry=self.registry)

    def _histogram(
        self, name: str, documentation: str, *labels: str, buckets: tuple[float, ...] = _SECONDS
    ) -> Histogram:
        return Histogram(name, documentation, labels, buckets=buckets, registry=self.registry)
