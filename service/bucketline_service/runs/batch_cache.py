"""A cache of the batches that follow what a rank has requested, planned in the same call.

A call to the planner costs far more than a few additional batches in it, and a rank that requests one batch at a time
will request the next ones. Cached batches are exactly what the planner would return.
"""

from __future__ import annotations

from array import array
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate

from cachetools import FIFOCache

from bucketline_service.runs.batch_documents import Includes
from bucketline_service.runs.run import Run
from bucketline_service.store.port import Cursor, Generation

NUM_AHEAD = 64
_MAX_IDS = 1 << 12
"""At least how many batches are planned in a call, unless they have more ids than this."""

MAX_BYTES = 128 << 20


def num_ahead(batch_size: int) -> int:
    """At least how many batches to plan in one call."""
    return min(NUM_AHEAD, _MAX_IDS // batch_size)


@dataclass(frozen=True)
class CachedBatches:
    """A rank's batches from step ``step`` of one epoch, as JSON. ``generation`` identifies the run and so its plan, a
    reference to which would keep a deleted run's files open. ``include``: the optional fields that the batches have.

    ``text`` is all batches concatenated, each up to its entry of ``ends``: orjson allocates some kilobytes more than a
    document needs, which is too much for a cache."""

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
        """``count`` batches from index ``first``, or as many as there are."""
        if first >= len(self.ends):
            return []
        ends = self.ends[first : first + count]
        begins = [self.ends[first - 1] if first else 0, *ends[:-1]]
        return [self.text[begin:end] for begin, end in zip(begins, ends, strict=True)]


class BatchCache:
    """The batches last planned for each rank, at most ``max_bytes`` in total; the oldest are dropped first."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._entries: FIFOCache[tuple[str, int], CachedBatches] = FIFOCache(
            max_bytes, getsizeof=lambda cached: cached.num_bytes
        )

    def take(self, run: Run, rank: int, start: Cursor, count: int, include: Includes) -> list[bytes] | None:
        """The ``count`` batches from ``start``, None unless all of them are cached."""
        cached = self._entries.get((run.name, rank))
        if cached is None or cached.epoch != start.epoch or cached.step > start.step:
            return None
        if cached.include != include:
            return None
        found = cached.batches(start.step - cached.step, count)
        return found if len(found) == count and cached.generation == run.generation else None

    def keep(self, run: Run, rank: int, start: Cursor, batches: list[bytes], include: Includes) -> None:
        ends = array("L", accumulate(map(len, batches)))
        cached = CachedBatches(run.generation, include, start.epoch, start.step, b"".join(batches), ends)
        with suppress(ValueError):  # larger than the whole cache
            self._entries[run.name, rank] = cached
