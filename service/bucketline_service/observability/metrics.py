"""What the service counts, for Prometheus. One instance per app, with a registry of its own.

Labels are bounded: routes are templates, runs are as many as the operator has put. None is of a rank, of which there
may be 16,384 a run: what is told of ranks is told of the slowest, and which it is.

Each process keeps its own counters. What is read (``GAUGES``) is read from the store at each scrape, so that all
processes and replicas report the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

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

from bucketline_service.version import VERSION

MULTIPROCESS = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus_client's own name; it looks at it when it is imported."""


RUN_GAUGES = {
    "ranks": "Ranks of the run's present start",
    "leased_ranks": "Ranks that have taken a lease in it",
    "generation": "Number of the run's present start",
    "rank_lag_steps": "Steps of the slowest rank behind the leader",
    "slowest_rank": "The slowest rank; of several the one that was not heard of for longest",
    "slowest_epoch": "Epoch of the slowest rank",
    "slowest_step": "Step of the slowest rank",
    "epoch_steps": "Steps of the slowest rank's epoch",
    "done": "1 where all ranks have finished the run's last epoch",
    "last_seen_timestamp_seconds": "When a rank was last heard of",
    "slowest_rank_seen_timestamp_seconds": "When the slowest rank was last heard of",
}
"""What is read of each run that is ready, by its name."""

GAUGES = {
    "build_info": "1; what is running",
    "store_up": "1 where the store answered as this was read",
    "map_root_up": "1 unless there is a map root and it does not answer",
    "run_status": "1 of the status that the run has: planning, ready or failed",
    **RUN_GAUGES,
}


@dataclass(frozen=True)
class RunGaugeValues:
    """A run at one moment. ``values`` are of ``RUN_GAUGES``; what can not be told is not among them."""

    status: str
    values: Mapping[str, float] = field(default_factory=dict)


class _Gauges(Collector):
    """What was read last."""

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
        """Each with its labels."""
        if name in RUN_GAUGES:
            for run, reading in runs.items():
                if name in reading.values:
                    yield {"run": run}, reading.values[name]
        elif name == "run_status":
            for run, reading in runs.items():
                yield {"run": run, "status": reading.status}, 1
        elif name == "build_info":
            yield {"version": VERSION}, 1
        else:
            yield {}, self.is_store_up if name == "store_up" else self.is_root_up


class _Registry(CollectorRegistry):
    """Tells no ``_created`` series, which double the counters; prometheus_client's own switch is the process'."""

    def collect(self) -> Iterator[Metric]:
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class Metrics:
    """Counters, histograms, and what is read; names as exported, all prefixed ``bucketline_``.

    Where the environment names a folder in ``MULTIPROCESS``, worker processes count into files in it, each tells the
    sum of all. prometheus_client then has no metrics of the process, and can not drop the counts of a deleted run.
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
        self.store_seconds = Histogram(
            "bucketline_store_seconds",
            "Time of the store's verbs, those that failed among them",
            ["verb"],
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5),
            registry=registry,
        )
        self.batches = self._counter("batches_served", "Batches handed out")
        self.acks = self._counter("acks", "Acknowledgements taken")
        self.leases = self._counter("leases", "Leases given, also again to their holder")
        self.sessions = self._counter("sessions", "Generations begun")
        self.fences = self._counter("fences", "Requests refused as fenced")
        self.adoptions = self._counter("adoptions", "Leases adopted after the store had lost state")
        self._read = _Gauges()
        registry.register(self._read)

    def _counter(self, name: str, what: str) -> Counter:
        """By run."""
        return Counter(f"bucketline_{name}", what, ["run"], registry=self.registry)

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
        registry.register(
            self._read
        )  # not through the files, which keep what a process that is gone has read
        return generate_latest(registry)

    @property
    def _counters(self) -> tuple[Counter, ...]:
        return self.batches, self.acks, self.leases, self.sessions, self.fences, self.adoptions

    def tell(self, runs: Mapping[str, RunGaugeValues]) -> None:
        """What was read of all runs that there are. Each counts from 0, as Prometheus does not see the first count of a
        series that it did not know; those of other runs are dropped."""
        self._read.is_store_up, self._read.runs = True, runs
        for run in runs:
            for counter in self._counters:
                counter.labels(run)
        for run in self._counted() - set(runs):
            self.forget_run(run)

    def tell_store_down(self) -> None:
        """Nothing is told of runs until they can be read again: that they stand still could not be told from it."""
        self._read.is_store_up, self._read.runs = False, {}

    def tell_map_root(self, is_up: bool) -> None:
        self._read.is_root_up = is_up

    def _counted(self) -> set[str]:
        """Runs that have counts here."""
        return {
            sample.labels["run"]
            for counter in self._counters
            for family in counter.collect()
            for sample in family.samples
        }

    def forget_run(self, run: str) -> None:
        """Drop a deleted run's series."""
        self._read.runs = {name: reading for name, reading in self._read.runs.items() if name != run}
        for counter in self._counters if MULTIPROCESS not in os.environ else ():
            counter.remove(run)
