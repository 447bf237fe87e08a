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
        per_run = ["run"]
        self.batches = Counter("bucketline_batches_served", "Batches handed out", per_run, registry=registry)
        self.acks = Counter("bucketline_acks", "Acknowledgements taken", per_run, registry=registry)
        self.leases = Counter(
            "bucketline_leases", "Leases given, also again to their holder", per_run, registry=registry
        )
        self.sessions = Counter("bucketline_sessions", "Generations begun", per_run, registry=registry)
        self.fences = Counter("bucketline_fences", "Requests refused as fenced", per_run, registry=registry)
        self.adoptions = Counter(
            "bucketline_adoptions",
            "Leases adopted after the store had lost state",
            per_run,
            registry=registry,
        )
        self.store_errors = Counter(
            "bucketline_store_errors", "Requests that the store failed", registry=registry
        )
        self.plan_seconds = Histogram(
            "bucketline_plan_build_seconds",
            "Time to build a plan",
            buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300),
            registry=registry,
        )
        self.rank_lag = Gauge(
            "bucketline_rank_lag_steps",
            "Steps of the slowest rank behind the leader",
            per_run,
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self.slowest_step = Gauge(
            "bucketline_slowest_step",
            "Step of the slowest rank",
            per_run,
            registry=registry,
            multiprocess_mode="mostrecent",
        )
        self.slowest_epoch = Gauge(
            "bucketline_slowest_epoch",
            "Epoch of the slowest rank",
            per_run,
            registry=registry,
            multiprocess_mode="mostrecent",
        )

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
