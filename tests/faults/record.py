"""The log of a job under faults: one file of JSON lines for each process, read as one history.

Every line has ``t`` (``time.monotonic()``, which all processes of a machine share), ``what``, and fields by what it is.
A line is one ``write``, so a killed process leaves whole lines. Steps are (epoch, step) as in the protocol; a *cursor*
is the first step that is not done.

written by the driver:

    run         lockstep, epochs (null: no end), image_ids: all that the plan serves or leaves out
    plan        epoch, batches: [bucket, width, height, ids] by position of the stream, left_out: ids. At any time: pure
    session     generation, world_size, origin [epoch, step], offset, mixed_steps, resume: "start", "cursor" or a
                state dict. Workers that start the job write it as well; all must say the same
    started     holder, rank, generation: a worker process that is to take this rank
    killed      holder: SIGKILL
    fault       id, kind, outlasts_deadline: a client's deadline may pass within it
    healed      id: the end of the fault
    restored    the store has been put back to an older state
    observed    generation, rank, holder (null: none), epoch, step: the rank's cursor, as the coordinator told it
    final       as observed, when the job has ended

written by a worker, with holder, rank and generation:

    handed      epoch, step, bucket, width, height, ids: a batch came out of the client
    trained     epoch, step: before the next batch is asked for, because asking acknowledges
    acked       epoch, step: a cursor that the coordinator has confirmed (``flush`` returned)
    saved       state: a checkpoint
    unavailable waited_s: ``CoordinatorUnavailable`` reached the loop, which then called again
    fenced      the client said that this worker no longer holds its rank
    exception   type, message: anything else that reached the loop
    ended       it has had its last batch, and its client is closed
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Event = dict[str, Any]
Place = tuple[int, int]
"""A step or a cursor: (epoch, step)."""


class Log:
    """Appends to one file. ``always`` are fields of every line."""

    def __init__(self, path: Path, **always: Any) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._always = always

    def write(self, what: str, **fields: Any) -> None:
        event = {"t": time.monotonic(), "what": what, **self._always, **fields}
        os.write(self._file, json.dumps(event, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        os.close(self._file)


def read(folder: Path) -> list[Event]:
    """All events of the folder's ``*.jsonl``, in the order of time."""
    lines = (line for path in sorted(folder.glob("*.jsonl")) for line in path.read_bytes().splitlines(True))
    return sorted((json.loads(line) for line in lines if line.endswith(b"\n")), key=lambda event: event["t"])


def place_of(event: Event) -> Place:
    return event["epoch"], event["step"]


@dataclass(frozen=True)
class Generation:
    """A start of the job, and how it deals the epochs' streams. ``num_batches``: by epoch."""

    number: int
    world_size: int
    origin: Place
    offset: int
    mixed_steps: int
    resume: Any
    num_batches: dict[int, int]

    def _start(self, epoch: int) -> tuple[int, int]:
        return (self.origin[1], self.offset) if epoch == self.origin[0] else (0, 0)

    def num_steps(self, epoch: int) -> int | None:
        """The step after the epoch's last one; None of an epoch that the log has no plan of."""
        step, offset = self._start(epoch)
        num = self.num_batches.get(epoch)
        return None if num is None else step + (num - offset) // self.world_size

    def position(self, rank: int, place: Place) -> int:
        """Where in its epoch's stream a rank's step stands."""
        step, offset = self._start(place[0])
        return offset + (place[1] - step) * self.world_size + rank

    def normal(self, place: Place) -> Place:
        """Past an epoch's last step stands the next epoch's first."""
        while (num := self.num_steps(place[0])) is not None and place[1] >= num:
            place = (place[0] + 1, 0)
        return place

    def after(self, place: Place) -> Place:
        return self.normal((place[0], place[1] + 1))

    @property
    def resumed_at(self) -> tuple[int, int]:
        """Epoch and stream position of what it was resumed from: everything before that counts."""
        if isinstance(self.resume, dict):
            return self.resume["epoch"], self.resume["offset"]
        return self.origin[0], self.offset

    def steps_before(self, epoch: int, position: int) -> tuple[Place, int]:
        """The first step at or past a stream position, and how many batches the position is past its beginning."""
        if (epoch, position) < (self.origin[0], self.offset):
            return self.origin, 0
        step, offset = self._start(epoch)
        whole, rest = divmod(position - offset, self.world_size)
        return self.normal((epoch, step + whole)), rest


@dataclass
class Stint:
    """One worker's time at a rank, from its first batch on."""

    generation: int
    rank: int
    holder: str
    since: float
    begin: Place
    handed: list[Event] = field(default_factory=list)
    trained: list[tuple[Place, float]] = field(default_factory=list)
    acked: list[tuple[Place, float]] = field(default_factory=list)
    fenced_at: float | None = None
    ended_at: float | None = None

    def __str__(self) -> str:
        return f"generation {self.generation} rank {self.rank} holder {self.holder}"


@dataclass
class History:
    """A log's events, put in order by who did what."""

    events: list[Event]
    run: Event
    plans: dict[int, Event]
    generations: dict[int, Generation]
    stints: dict[tuple[int, int], list[Stint]]
    """By generation and rank, in the order in which the holders got their first batch."""

    def of(self, *what: str) -> Iterator[Event]:
        return (event for event in self.events if event["what"] in what)


def history_of(events: Iterable[Event]) -> History:
    events = sorted(events, key=lambda event: event["t"])
    plans = {event["epoch"]: event for event in events if event["what"] == "plan"}
    num_batches = {epoch: len(plan["batches"]) for epoch, plan in plans.items()}
    generations: dict[int, Generation] = {}
    for event in events:
        if event["what"] == "session":
            generations.setdefault(event["generation"], generation_of(event, num_batches))
    run = next(event for event in events if event["what"] == "run")
    return History(events, run, plans, dict(sorted(generations.items())), _stints(events, generations))


def generation_of(event: Event, num_batches: dict[int, int]) -> Generation:
    return Generation(
        event["generation"], event["world_size"], tuple(event["origin"]), event["offset"],
        event["mixed_steps"], event["resume"], num_batches,
    )  # fmt: skip


def _stints(
    events: Iterable[Event], generations: dict[int, Generation]
) -> dict[tuple[int, int], list[Stint]]:
    by_holder: dict[tuple[int, int, str], Stint] = {}
    for event in events:
        if event.get("holder") is None or event.get("generation") not in generations:
            continue
        key = event["generation"], event["rank"], event["holder"]
        if event["what"] == "handed" and key not in by_holder:
            by_holder[key] = Stint(*key, since=event["t"], begin=place_of(event))
        if (stint := by_holder.get(key)) is not None:
            _add(stint, event, generations[event["generation"]])
    stints: dict[tuple[int, int], list[Stint]] = {}
    for stint in by_holder.values():
        stints.setdefault((stint.generation, stint.rank), []).append(stint)
    return stints


def _add(stint: Stint, event: Event, generation: Generation) -> None:
    match event["what"]:
        case "handed":
            stint.handed.append(event)
        case "trained":
            stint.trained.append((place_of(event), event["t"]))
        case "acked":
            stint.acked.append((generation.normal(place_of(event)), event["t"]))
        case "fenced":
            stint.fenced_at = event["t"]
        case "ended":
            stint.ended_at = event["t"]
