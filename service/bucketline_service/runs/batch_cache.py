"""Batches at hand: those that follow what a rank has asked for, planned in the same call.

A call of the planner costs far more than the few batches more that it could plan, and a rank that asks for one batch at
a time will ask for the next ones. Only a saving: what is here is what the planner would answer.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from dataclasses import dataclass
from itertools import accumulate

from bucketline_service.runs.batch_documents import Includes
from bucketline_service.runs.run import Run
from bucketline_service.store.port import Cursor, Generation

NUM_AHEAD = 64
_MAX_IDS = 1 << 12
"""Batches that are planned at least, and the most ids that they may have."""

MAX_BYTES = 128 << 20


def num_ahead(batch_size: int) -> int:
    """How many batches to plan at least."""
    return min(NUM_AHEAD, _MAX_IDS // batch_size)


@dataclass(frozen=True)
class CachedBatches:
    """A rank's batches of steps ``step``, … of one epoch, as JSON. Whose they are says ``generation``, with the run's
    birth: a run has one plan for life, and to hold that here would keep a deleted run's files open. ``include``: what
    they tell besides.

    ``text`` has them one behind the other, each up to its ``ends``: orjson gives every document more memory than it
    needs, some kilobytes, which is much where it is kept."""

    generation: Generation
    include: Includes
    epoch: int
    step: int
    text: bytes
    ends: array[int]

    @property
    def num_bytes(self) -> int:
        return len(self.text) + len(self.ends) * self.ends.itemsize

    def batches(self, first: int, count: int) -> list[bytes]:
        """Fewer where there are not so many."""
        if first >= len(self.ends):
            return []
        ends = self.ends[first : first + count]
        begins = [self.ends[first - 1] if first else 0, *ends[:-1]]
        return [self.text[begin:end] for begin, end in zip(begins, ends, strict=True)]


class BatchCache:
    """One stretch for each rank, the last that was planned for it; of all no more than ``max_bytes``."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._stretches: OrderedDict[tuple[str, int], CachedBatches] = OrderedDict()
        self._free_bytes = max_bytes

    def take(self, run: Run, rank: int, start: Cursor, count: int, include: Includes) -> list[bytes] | None:
        """The ``count`` batches from ``start`` on, None where they are not all here."""
        stretch = self._stretches.get((run.name, rank))
        if stretch is None or stretch.epoch != start.epoch or stretch.step > start.step:
            return None
        if stretch.include != include:
            return None
        found = stretch.batches(start.step - stretch.step, count)
        return found if len(found) == count and stretch.generation == run.generation else None

    def keep(self, run: Run, rank: int, start: Cursor, batches: list[bytes], include: Includes) -> None:
        key = (run.name, rank)
        if key in self._stretches:
            self._free_bytes += self._stretches.pop(key).num_bytes
        ends = array("L", accumulate(map(len, batches)))
        stretch = CachedBatches(run.generation, include, start.epoch, start.step, b"".join(batches), ends)
        self._stretches[key] = stretch
        self._free_bytes -= stretch.num_bytes
        while self._free_bytes < 0:
            self._free_bytes += self._stretches.popitem(last=False)[1].num_bytes
