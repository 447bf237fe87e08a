"""Checks the workers' logs: every image is served once, and each step has one shape, except as the plan declares."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

Record = tuple[int, int, int, list[int]]
"""A finished batch in a worker's log: step, width, height, ids."""


@dataclass
class RankLog:
    """The batches that one rank's workers finished. ``crashes``: for each, the number of records when it was noticed,
    and the step at which the next worker resumed."""

    records: list[Record] = field(default_factory=list)
    crashes: list[tuple[int, int]] = field(default_factory=list)

    def counted(self) -> tuple[list[Record], list[Record]]:
        """The records that count, and those lost to a crash: finished but not acknowledged, and so served again."""
        kept: list[Record] = []
        lost: list[Record] = []
        begin = 0
        for end, resumed in [*self.crashes, (len(self.records), None)]:
            for record in self.records[begin:end]:
                (kept if resumed is None or record[0] < resumed else lost).append(record)
            begin = end
        return kept, lost


@dataclass(frozen=True)
class Proof:
    """Counts of images and steps, compared with what the plan declares."""

    once: int
    twice: int
    left_out: int
    left_out_planned: int
    num_steps: int
    mixed_steps: int
    mixed_steps_planned: int
    gaps: int
    again: int
    again_differs: int

    @property
    def holds(self) -> bool:
        wrong = self.twice + self.gaps + self.again_differs
        is_planned = (self.left_out, self.mixed_steps) == (self.left_out_planned, self.mixed_steps_planned)
        return wrong == 0 and is_planned and self.once > 0


def prove(logs: list[RankLog], image_ids: set[int], stats: dict[str, Any]) -> Proof:
    """``logs``: of one whole epoch, by rank; ``stats``: what the run's plan declares."""
    counted = [log.counted() for log in logs]
    served = Counter(image for kept, _ in counted for record in kept for image in record[3])
    shapes: dict[int, set[tuple[int, int]]] = {}
    for kept, _ in counted:
        for step, width, height, _ in kept:
            shapes.setdefault(step, set()).add((width, height))
    steps = [sorted(record[0] for record in kept) for kept, _ in counted]
    wanted = list(range(stats["num_steps"]))
    again = [(record, kept) for kept, lost in counted for record in lost]
    return Proof(
        once=sum(1 for count in served.values() if count == 1),
        twice=sum(1 for count in served.values() if count > 1),
        left_out=len(image_ids - served.keys()),
        left_out_planned=stats["dropped"],
        num_steps=stats["num_steps"],
        mixed_steps=sum(1 for found in shapes.values() if len(found) > 1),
        mixed_steps_planned=stats["mixed_steps"],
        gaps=sum(1 for rank in steps if rank != wanted),
        again=len(again),
        again_differs=sum(1 for record, kept in again if record not in kept),
    )
