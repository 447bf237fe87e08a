"""What the service counts, for Prometheus. One instance per app, with a registry of its own.

Labels are bounded: routes are templates, runs are as many as the operator has put.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client's own name; it looks at it when it is imported."""


class _Registry(CollectorRegistry):
    """Tells no ``_created`` series, which double the counters; prometheus_client's own switch is the process'."""

    def collect(self) -> Iterator[Metric]:
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class Metrics:
    """Counters, gauges and histograms; names as exported, all prefixed ``bucketline_``.

    Where the environment names a folder in ``MULTIPROCESS``, worker processes count into files in it, each tells the
    sum of all. prometheus_client then has no metrics of the process, and can not drop the series of a deleted run.
    """

    def __init__(self) -> None:
        registry = self.registry = _Registry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "bucketline_requests", "HTTP requests", ["method", "route", "status"], registry=registry
        )
        self.latency = Histogram(
            "bucketline_request_seconds",
            "Time to answer",
            ["method", "route"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=registry,
        )
        # finding a series by its labels costs more than counting
        self._of_requests: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.store_errors = Counter(
            "bucketline_store_errors", "Requests that the store failed", registry=registry
        )
        self.plan_seconds = Histogram(
            "bucketline_plan_build_seconds",
            "Time to build a plan",
            buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300),
            registry=registry,
        )
        self.map_root_up = Gauge(
            "bucketline_map_root_up",
            "1 unless there is a map root and it does not answer",
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self.batches = self._counter("batches_served", "Batches handed out")
        self.acks = self._counter("acks", "Acknowledgements taken")
        self.leases = self._counter("leases", "Leases given, also again to their holder")
        self.sessions = self._counter("sessions", "Generations begun")
        self.fences = self._counter("fences", "Requests refused as fenced")
        self.adoptions = self._counter("adoptions", "Leases adopted after the store had lost state")
        self.rank_lag = self._gauge("rank_lag_steps", "Steps of the slowest rank behind the leader")
        self.slowest_step = self._gauge("slowest_step", "Step of the slowest rank")
        self.slowest_epoch = self._gauge("slowest_epoch", "Epoch of the slowest rank")

    def _counter(self, name: str, what: str) -> Counter:
        """By run."""
        return Counter(f"bucketline_{name}", what, ["run"], registry=self.registry)

    def _gauge(self, name: str, what: str) -> Gauge:
        """By run; of several processes the one that was scraped last tells it."""
        return Gauge(
            f"bucketline_{name}", what, ["run"], registry=self.registry, multiprocess_mode="mostrecent"
        )

    def request(self, method: str, route: str, status: int, took_s: float) -> None:
        """Count one, and how long it took."""
        key = (method, route, status)
        series = self._of_requests.get(key)
        if series is None:
            counter, histogram = self.requests.labels(*key), self.latency.labels(method, route)
            series = self._of_requests[key] = counter, histogram
        series[0].inc()
        series[1].observe(took_s)

    def exposition(self) -> bytes:
        """Prometheus' text format."""
        if MULTIPROCESS not in os.environ:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)

    @property
    def _gauges(self) -> tuple[Gauge, ...]:
        return self.rank_lag, self.slowest_step, self.slowest_epoch

    @property
    def _counters(self) -> tuple[Counter, ...]:
        return self.batches, self.acks, self.leases, self.sessions, self.fences, self.adoptions

    def runs(self) -> set[str]:
        """Those that have series here."""
        return {
            sample.labels["run"]
            for metric in (*self._counters, *self._gauges)
            for family in metric.collect()
            for sample in family.samples
        }

    def forget_gauges(self, run: str) -> None:
        """Drop a run's series that are read rather than counted."""
        self._forget(run, self._gauges)

    def forget_run(self, run: str) -> None:
        """Drop a deleted run's series."""
        self._forget(run, (*self._counters, *self._gauges))

    @staticmethod
    def _forget(run: str, metrics: tuple[Counter | Gauge, ...]) -> None:
        for metric in metrics if MULTIPROCESS not in os.environ else ():
            with suppress(KeyError):  # older prometheus_client: the run has no such series
                metric.remove(run)
