"""The metrics of the service for Prometheus, with their names and help texts. One instance per app.

Labels are bounded: routes are templates, and operators create the runs. No label is a rank, of which a run may have
16,384: gauges describe the slowest rank, and say which it is.

Each process keeps its own counters. What is read (``GAUGES``) is read from the store at each scrape, so that all
processes and replicas report the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Metric,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from bucketline_service.store.port import REPORT_REASONS
from bucketline_service.version import VERSION

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
"""The environment variable that prometheus_client reads when it is imported: a folder for counters of processes."""

RUN_COUNTERS = {
    "batches_served": "Batches served",
    "acks": "Acknowledgements accepted",
    "leases": "Leases given, including again to their holder",
    "sessions": "Generations begun",
    "fences": "Requests refused as fenced",
    "adoptions": "Leases adopted after the store had lost state",
}
"""Counters of each run: help text by name."""

RUN_GAUGES = {
    "ranks": "Ranks of the run's current start",
    "leased_ranks": "Ranks that have taken a lease in it",
    "generation": "Number of the run's current start",
    "rank_lag_steps": "Steps of the slowest rank behind the leader",
    "slowest_rank": "The slowest rank; of several, the one seen least recently",
    "slowest_epoch": "Epoch of the slowest rank",
    "slowest_step": "Step of the slowest rank",
    "epoch_steps": "Steps of the slowest rank's epoch",
    "done": "1 if all ranks have finished the run's last epoch",
    "last_seen_timestamp_seconds": "When any rank was last seen",
    "slowest_rank_seen_timestamp_seconds": "When the slowest rank was last seen",
}
"""Gauges of each run that is ready: help text by name."""

GAUGES = {
    "build_info": "1; the version is a label",
    "store_up": "1 if the store answered this scrape",
    "map_root_up": "0 if there is a map root and it does not answer, else 1",
    "run_status": "1 for the run's status: planning, ready or failed",
    **RUN_GAUGES,
}


class RunCounters(NamedTuple):
    """The counters of one run, those of its reported images by reason, then in the order of ``RUN_COUNTERS``."""

    reports: Mapping[str, Counter]
    batches: Counter
    acks: Counter
    leases: Counter
    sessions: Counter
    fences: Counter
    adoptions: Counter


@dataclass(frozen=True)
class RunGaugeValues:
    """A run at one moment. ``values``: by name of ``RUN_GAUGES``; unknown ones are absent."""

    status: str
    values: Mapping[str, float] = field(default_factory=dict)


class _Gauges(Collector):
    """The values that were last read."""

    def __init__(self) -> None:
        self.is_store_up = True
        self.is_root_up = True
        self.runs: Mapping[str, RunGaugeValues] = {}

    def collect(self) -> Iterable[Metric]:
        runs = self.runs
        for name, what in GAUGES.items():
            samples = [*self._samples(name, runs)]
            labels = [*(samples[0][0] if samples else ())]
            family = GaugeMetricFamily(f"bucketline_{name}", what, labels=labels)
            for labelled, value in samples:
                family.add_metric([*labelled.values()], value)
            yield family

    def _samples(
        self, name: str, runs: Mapping[str, RunGaugeValues]
    ) -> Iterable[tuple[dict[str, str], float]]:
        """Labels and value of each sample."""
        if name in RUN_GAUGES:
            for run, values in runs.items():
                if name in values.values:
                    yield {"run": run}, values.values[name]
        elif name == "run_status":
            for run, values in runs.items():
                yield {"run": run, "status": values.status}, 1
        elif name == "build_info":
            yield {"version": VERSION}, 1
        else:
            yield {}, self.is_store_up if name == "store_up" else self.is_root_up


class _Registry(CollectorRegistry):
    """Omits the ``_created`` series, which double the counters; prometheus_client can only disable them per process."""

    def collect(self) -> Iterator[Metric]:
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class Metrics:
    """Counters, histograms and gauges; every name has the prefix ``bucketline_``.

    If the environment has a folder in ``MULTIPROCESS``, worker processes count into files in it, and each exports the
    sum. prometheus_client then has no metrics of the process, and cannot drop the counters of a deleted run.
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
            "Time to respond",
            ["method", "route"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=registry,
        )
        # looking a series up by its labels costs more than counting
        self._of_requests: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self.store_errors = Counter(
            "bucketline_store_errors", "Requests that failed because of the store", registry=registry
        )
        self.plan_seconds = Histogram(
            "bucketline_plan_build_seconds",
            "Time to build a plan",
            buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300),
            registry=registry,
        )
        self.store_seconds = Histogram(
            "bucketline_store_seconds",
            "Time of the store's verbs, including those that failed",
            ["verb"],
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
            registry=registry,
        )
        self._run_counters = [
            Counter(f"bucketline_{name}", what, ["run"], registry=registry)
            for name, what in RUN_COUNTERS.items()
        ]
        self._reports = Counter(
            "bucketline_reported_images",
            "Reports of images that could not be used",
            ["run", "reason"],
            registry=registry,
        )
        self._of_runs: dict[str, RunCounters] = {}
        self._read = _Gauges()
        registry.register(self._read)

    def of_run(self, run: str) -> RunCounters:
        """The counters of a run."""
        counters = self._of_runs.get(run)
        if counters is None:
            reports = {reason: self._reports.labels(run, reason) for reason in REPORT_REASONS}
            plain = (each.labels(run) for each in self._run_counters)
            counters = self._of_runs[run] = RunCounters(reports, *plain)
        return counters

    def request(self, method: str, route: str, status: int, took_s: float) -> None:
        """Count a request and its duration."""
        key = (method, route, status)
        series = self._of_requests.get(key)
        if series is None:
            counter, histogram = self.requests.labels(*key), self.latency.labels(method, route)
            series = self._of_requests[key] = counter, histogram
        series[0].inc()
        series[1].observe(took_s)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        if MULTIPROCESS not in os.environ:
            return generate_latest(self.registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        # gauges do not go through the files, which keep the values of processes that have ended
        registry.register(self._read)
        return generate_latest(registry)

    def set_runs(self, runs: Mapping[str, RunGaugeValues]) -> None:
        """Set the gauges of all runs. Their counters start at 0, because Prometheus does not see the first increment of
        a series that it does not know; the counters of other runs are dropped."""
        self._read.is_store_up, self._read.runs = True, runs
        for run in runs:
            self.of_run(run)
        for run in self._counted() - set(runs):
            self.forget_run(run)

    def set_store_down(self) -> None:
        """Export no gauges of runs until they can be read again: old ones would look like runs that have stopped."""
        self._read.is_store_up, self._read.runs = False, {}

    def set_map_root(self, is_available: bool) -> None:
        self._read.is_root_up = is_available

    def _counted(self) -> set[str]:
        """Runs that have counters in this process."""
        return {
            sample.labels["run"]
            for counter in self._run_counters
            for family in counter.collect()
            for sample in family.samples
        }

    def forget_run(self, run: str) -> None:
        """Drop a deleted run's series."""
        self._read.runs = {name: reading for name, reading in self._read.runs.items() if name != run}
        if MULTIPROCESS not in os.environ:
            self._of_runs.pop(run, None)
            for counter in self._run_counters:
                counter.remove(run)
            for reason in REPORT_REASONS:
                self._reports.remove(run, reason)
