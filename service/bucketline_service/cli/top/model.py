"""What ``bucketline top`` asks for, and what it makes of it: no drawing and no waiting in here."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bucketline import CoordinatorUnavailable, NotFound, Operator

Json = dict[str, Any]
PACE_S = 60.0
"""Over how long the rate is taken."""
STILL_S = 15.0
"""After how long without a word a rank does not count as moving, or five of its steps where these take longer."""
NUM_EVENTS = 20


@dataclass(frozen=True)
class Look:
    """``at_s``: when the coordinator answered; ``problem``: why it has not since. ``ranks``: of one run that is
    planned; ``rates``: steps a second of the slowest rank, by run, where they are known."""

    at_s: float
    runs: list[Json]
    ranks: list[Json] = field(default_factory=list)
    events: list[Json] = field(default_factory=list)
    rates: dict[str, float] = field(default_factory=dict)
    problem: str | None = None

    def document(self) -> Json:
        return {
            "at": self.at_s,
            "runs": [
                {**run, "steps_per_s": self.rates.get(run["run"]), "left_s": self.left_s(run)}
                for run in self.runs
            ],
            "ranks": self.ranks,
            "events": self.events,
            "problem": self.problem,
        }

    def left_s(self, run: Json) -> float | None:
        """Until the epoch's end."""
        rate, state = self.rates.get(run["run"]), run["state"]
        return (run["num_steps"] - state["step"]) / rate if rate and state and run["num_steps"] else None


class Pace:
    """Steps a second of one run's slowest rank, over the looks of the last minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()
        self._where: object = None

    def note(self, run: Json, now_s: float) -> float | None:
        state = run["state"]
        where = state and (run["generation"], run["fingerprint"], state["epoch"])
        if where != self._where or (state and self._seen and state["step"] < self._seen[-1][1]):
            self._seen.clear()
            self._where = where
        if state is None:
            return None
        self._seen.append((now_s, state["step"]))
        while now_s - self._seen[0][0] > PACE_S:
            self._seen.popleft()
        (first_s, first), (last_s, last) = self._seen[0], self._seen[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else None


class Asker:
    """Looks at ``run``, or at all runs. Times: ``wall`` for people, ``clock`` for rates."""

    def __init__(
        self,
        run: str | None,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run
        self._wall = wall
        self._clock = clock
        self._paces: dict[str, Pace] = {}

    def look(self, operator: Operator) -> Look:
        """Raises as the operator's calls do."""
        if self._run is None:
            runs, ranks = operator.runs(), []
        else:
            runs = [operator.run(self._run)]
            ranks = operator.ranks(self._run) if runs[0]["status"] == "ready" else []
        now_s = self._clock()
        rates = {run["run"]: self._rate(run, ranks, now_s) for run in runs}
        return Look(
            self._wall(),
            runs,
            sorted(ranks, key=_slowness),
            self._events(operator),
            {run: rate for run, rate in rates.items() if rate is not None},
        )

    def _rate(self, run: Json, ranks: list[Json], now_s: float) -> float | None:
        seen = self._paces.setdefault(run["run"], Pace()).note(run, now_s)
        if seen is not None:
            return seen
        return _mean(min(ranks, key=_slowness), self._wall()) if ranks else None

    def _events(self, operator: Operator) -> list[Json]:
        """The newest last."""
        try:
            return operator.events(self._run, limit=NUM_EVENTS)[::-1]
        except NotFound:  # a coordinator older than they are
            return []


def _slowness(rank: Json) -> tuple[int, int]:
    return -rank["steps_behind"], rank["rank"]


def _mean(rank: Json, now_s: float) -> float | None:
    """Steps a second since its lease of a rank that still moves."""
    rate: float | None = rank["batches_per_s"]
    return rate if rate and now_s - rank["last_seen"] < max(STILL_S, 5 / rate) else None


def reason(error: CoordinatorUnavailable) -> str:
    """The last failure, as short as it can be told."""
    return " ".join(str(error.__cause__ or error).split())
