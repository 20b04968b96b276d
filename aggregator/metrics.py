"""What the server tells Prometheus: its metrics, in a registry of their own, and the call that serves them.

Metrics are counted where things happen (`Metrics`' methods) or read when they are scraped (`StateCollector`).
The values of a label are few: runs are as many as the server holds, codes are those of docs/protocol.md,
routes are templates; what is beyond MAX_LABEL_VALUES becomes `other`.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_1_0_0
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from fedfer.aggregator.results import Outcome

CONTENT_TYPE = CONTENT_TYPE_PLAIN_1_0_0
MAX_LABEL_VALUES = 200
OTHER = "other"
ACCEPTED = "accepted"
REQUEST_BUCKETS_SEC = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 300.0)
STAGE_BUCKETS_SEC = (0.01, 0.05, 0.25, 1.0, 5.0, 25.0, 125.0, 625.0)
Stage = Literal["receive", "check", "store", "average", "evaluate", "close"]


@dataclass(frozen=True)
class RunSample:
    """Where a run stands when it is scraped; holdout measures are those of its newest version."""

    run: str
    state: str
    round: int
    num_updates: int
    holdout_loss: float | None
    holdout_accuracy: float | None


@dataclass(frozen=True)
class StateSample:
    """Where the server stands when it is scraped."""

    num_devices: int
    free_bytes: int | None
    ready: bool
    runs: Sequence[RunSample]


class Metrics:
    """The counters of one server, and its registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._updates = Counter(
            "fedfer_updates",
            "Uploads by what they were answered",
            ["run", "outcome"],
            registry=self.registry,
        )
        self._turned_away = Counter(
            "fedfer_updates_turned_away",
            "Accepted updates that a gate turned away when their round was closed",
            ["run", "code"],
            registry=self.registry,
        )
        self._rounds = Counter(
            "fedfer_rounds_closed",
            "Rounds closed, by what came of them",
            ["run", "outcome"],
            registry=self.registry,
        )
        self._failures = Counter(
            "fedfer_close_failures", "Attempts to close a round that failed", ["run"], registry=self.registry
        )
        self._refusals = Counter(
            "fedfer_refusals", "Refused requests by call and code", ["route", "code"], registry=self.registry
        )
        self._received = Counter(
            "fedfer_received_bytes", "Bytes of request bodies", ["route"], registry=self.registry
        )
        self._sent = Counter(
            "fedfer_sent_bytes", "Bytes of answers' bodies", ["route"], registry=self.registry
        )
        self._requests = Histogram(
            "fedfer_request_seconds",
            "Time from a request's headers to the end of its answer",
            ["route", "method", "status"],
            buckets=REQUEST_BUCKETS_SEC,
            registry=self.registry,
        )
        self._stages = Histogram(
            "fedfer_stage_seconds",
            "Time of a step of an upload or of closing a round",
            ["stage"],
            buckets=STAGE_BUCKETS_SEC,
            registry=self.registry,
        )
        self._seen: dict[str, set[str]] = {}

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        labels = (self._bounded("route", route), self._bounded("method", method), str(status))
        self._requests.labels(*labels).observe(seconds)

    def transferred(self, route: str, received_bytes: int, sent_bytes: int) -> None:
        label = self._bounded("route", route)
        self._received.labels(label).inc(received_bytes)
        self._sent.labels(label).inc(sent_bytes)

    def refused(self, route: str, code: str) -> None:
        self._refusals.labels(self._bounded("route", route), self._bounded("code", code)).inc()

    def update(self, run: str, outcome: str) -> None:
        """One answer to an upload; `outcome`: ACCEPTED, also for a repeat, or the code of the refusal."""
        self._updates.labels(self._bounded("run", run), self._bounded("code", outcome)).inc()

    def turned_away(self, run: str, code: str) -> None:
        """Of an update that was counted as ACCEPTED before, once its round is committed."""
        self._turned_away.labels(self._bounded("run", run), self._bounded("code", code)).inc()

    def round_closed(self, run: str, outcome: Outcome) -> None:
        self._rounds.labels(self._bounded("run", run), outcome).inc()

    def close_failed(self, run: str) -> None:
        self._failures.labels(self._bounded("run", run)).inc()

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Observes how long the block takes, also when it fails."""
        started = time.monotonic()
        try:
            yield
        finally:
            self._stages.labels(stage).observe(time.monotonic() - started)

    def page(self) -> bytes:
        """Everything in Prometheus's text format, version 1.0.0."""
        return generate_latest(self.registry)

    def _bounded(self, label: str, value: str) -> str:
        seen = self._seen.setdefault(label, set())
        if value not in seen:
            if len(seen) >= MAX_LABEL_VALUES:
                return OTHER
            seen.add(value)
        return value


class StateCollector(Collector):
    """Gauges read when they are scraped. When `sample` raises, only `fedfer_state_readable` is told, as 0."""

    def __init__(self, sample: Callable[[], StateSample]) -> None:
        self._sample = sample

    def collect(self) -> Iterable[Metric]:
        try:
            sample = self._sample()
        except Exception:  # a database that is away must not take the other metrics with it
            yield GaugeMetricFamily("fedfer_state_readable", "Whether the state could be read", value=0)
            return
        yield GaugeMetricFamily("fedfer_state_readable", "Whether the state could be read", value=1)
        yield GaugeMetricFamily("fedfer_ready", "Whether /readyz says so", value=int(sample.ready))
        yield GaugeMetricFamily("fedfer_devices", "Devices enrolled", value=sample.num_devices)
        if sample.free_bytes is not None:
            yield GaugeMetricFamily(
                "fedfer_free_bytes", "Free bytes of the data directory", value=sample.free_bytes
            )
        yield from _run_gauges(sample.runs[:MAX_LABEL_VALUES])

    def describe(self) -> Iterable[Metric]:
        """Nothing: so that registering it reads no state."""
        return []


def _run_gauges(runs: Sequence[RunSample]) -> Iterator[Metric]:
    rounds = GaugeMetricFamily("fedfer_round", "Number of the newest round", labels=["run"])
    updates = GaugeMetricFamily("fedfer_round_updates", "Updates in the newest round", labels=["run"])
    states = GaugeMetricFamily("fedfer_run_state", "1 for the run's state", labels=["run", "state"])
    loss = GaugeMetricFamily("fedfer_holdout_loss", "Loss of the newest version", labels=["run"])
    accuracy = GaugeMetricFamily("fedfer_holdout_accuracy", "Accuracy, 0..1", labels=["run"])
    for run in runs:
        rounds.add_metric([run.run], run.round)
        updates.add_metric([run.run], run.num_updates)
        states.add_metric([run.run, run.state], 1)
        if run.holdout_loss is not None:
            loss.add_metric([run.run], run.holdout_loss)
        if run.holdout_accuracy is not None:
            accuracy.add_metric([run.run], run.holdout_accuracy)
    yield from (rounds, updates, states, loss, accuracy)
