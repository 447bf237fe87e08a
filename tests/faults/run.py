"""``python -m tests.faults.run --seed 7 --faults 1000``: jobs under a schedule of faults, and what their logs prove."""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.history import Violation, check, read
from tests.faults.inject import inject
from tests.faults.job import Job
from tests.faults.record import Event
from tests.faults.schedule import KINDS, Fault, schedule
from tests.faults.world import World

FAULTS_PER_JOB = 50
NUM_TOLD = 20


@dataclass
class Tally:
    """The totals of several jobs."""

    kinds: Counter[str] = field(default_factory=Counter)
    recovery_s: list[float] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    num_committed: int = 0
    num_again: int = 0
    num_generations: int = 0
    num_epochs: int = 0

    def add(self, events: list[Event]) -> None:
        report = check(events)
        self.violations += report.violations
        self.num_committed += report.num_committed
        self.num_again += report.num_again
        self.num_generations += report.num_generations
        self.num_epochs += report.num_epochs
        self.kinds.update(e["kind"] for e in events if e["what"] == "fault" and e["kind"] in KINDS)
        self.recovery_s += recoveries(events)

    def count(self, *kinds: str) -> int:
        return sum(violation.kind in kinds for violation in self.violations)

    def lines(self) -> Iterable[str]:
        yield f"faults tried: {self.kinds.total():,} of {len(self.kinds)} kinds"
        yield f"epochs finished: {self.num_epochs:,}; starts of the job: {self.num_generations:,}"
        yield f"steps committed: {self.num_committed:,}; trained again after a fault: {self.num_again:,}"
        lost = self.count("lost_commit", "gap")
        yield f"lost: {lost}; doubled: {self.count('doubled', 'zombie_commit')}; violations: {len(self.violations)}"
        if len(self.recovery_s) > 1:
            p99_s = statistics.quantiles(self.recovery_s, n=100, method="inclusive")[98]
            median_s = statistics.median(self.recovery_s)
            yield f"recovery: median {median_s:.2f} s, p99 {p99_s:.2f} s, longest {max(self.recovery_s):.2f} s"


def recoveries(events: list[Event]) -> list[float]:
    """Of each fault, from its end to when every rank of the present generation has had a cursor confirmed."""
    kinds = {event["id"]: event["kind"] for event in events if event["what"] == "fault"}
    sizes = {event["generation"]: event["world_size"] for event in events if event["what"] == "session"}
    found = []
    for i, event in enumerate(events):
        if event["what"] != "healed" or kinds[event["id"]] not in KINDS:
            continue
        first: dict[tuple[int, int], float] = {}
        for later in events[i:]:
            if later["what"] == "acked":
                first.setdefault((later["generation"], later["rank"]), later["t"])
                number = later["generation"]
                if sum(key[0] == number for key in first) == sizes[number]:
                    found.append(later["t"] - event["t"])
                    break
    return found


def run_job(world: World, folder: Path, faults: list[Fault], run: str, num_replicas: int) -> list[Event]:
    """The job's whole log."""
    job = Job(world, folder, run, num_replicas)
    try:
        job.begin("start", faults[0].world_size)
        job.recover()
        for fault in faults:
            inject(job, fault)
        job.finish()
    finally:
        job.close()
    return read(folder)


def run_schedule(folder: Path, faults: list[Fault]) -> Tally:
    """Jobs one after the other, each on its own coordinators and Redis, with two replicas and with one in turn."""
    tally = Tally()
    for number, begin in enumerate(range(0, len(faults), FAULTS_PER_JOB)):
        part = faults[begin : begin + FAULTS_PER_JOB]
        home = folder / f"job-{number}"
        home.mkdir()
        started_s = time.monotonic()
        num_replicas = 2 - number % 2
        with World(home, num_replicas) as world:
            tally.add(run_job(world, home / "log", part, f"job-{number}", num_replicas))
        seconds = time.monotonic() - started_s
        print(f"{begin + len(part)} faults, {tally.num_committed:,} steps, "
              f"{len(tally.violations)} violations ({seconds:.0f} s)", file=sys.stderr)  # fmt: skip
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.run", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--kind", action="append", choices=KINDS, help="only these kinds")
    parser.add_argument(
        "--keep", type=Path, help="a new folder for the logs; unless given they go if all is well"
    )
    given = parser.parse_args()
    faults = schedule(given.seed, given.faults, given.kind)
    if given.keep:
        given.keep.mkdir(parents=True)
    folder = given.keep or Path(tempfile.mkdtemp(prefix="bucketline-faults-"))
    print(f"seed {given.seed}, {given.faults} faults; logs in {folder}", file=sys.stderr)
    started_s = time.monotonic()
    tally = run_schedule(folder, faults)
    print(*tally.lines(), sep="\n")
    print(f"in {(time.monotonic() - started_s) / 60:.0f} minutes")
    for violation in tally.violations[:NUM_TOLD]:
        print(violation)
    if tally.violations:
        sys.exit(1)
    if not given.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
