"""The planner's port: which batches stand at given positions of an epoch's stream.

What else sets one planner apart from another is stated where it is registered, in ``planner_kinds/``; nothing above
``planning/`` knows which one it talks to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]

MAX_EPOCH = 2**31
"""Epochs are one 32-bit word of the plan's keys; a run without ``epochs`` ends here."""


class Place(NamedTuple):
    """One occurrence of an image in an epoch: stream position, place in the batch, target bucket, repeated or not."""

    position: int
    slot: int
    bucket: int
    repeat: bool


@dataclass(frozen=True)
class BatchBlock:
    """``num`` batches, as arrays. Batch i holds ``rows[bounds[i]:bounds[i + 1]]`` (row numbers of the map).

    ``buckets`` int64[num]: target bucket, an index of the planner's ladder.
    ``bounds`` int64[num + 1]; ``rows`` int64[bounds[-1]]; ``repeats`` bool[bounds[-1]]: True where the image is there
    is a repeat: served more often than asked for, to fill the remainder.
    """

    buckets: NDArray[np.int64]
    bounds: NDArray[np.int64]
    rows: Rows
    repeats: NDArray[np.bool_]


class Planner(Protocol):
    """A pure function of (epoch, position). ``world_size`` matters only where the published algorithm shards by it
    (``novelai``); ``line`` ignores it. Implementations may remember what they have computed, never anything else.
    Positions out of [0, num_batches) raise ``IndexError``. All methods may be called from several threads."""

    def num_batches(self, epoch: int, world_size: int) -> int:
        """Batches in the epoch's stream, over all ranks."""

    @property
    def is_steady(self) -> bool:
        """Whether every epoch has as many batches."""

    def least_batches(self, world_size: int) -> int:
        """The fewest batches that an epoch has, over all ranks."""

    def is_at_hand(self, epoch: int, world_size: int) -> bool:
        """False if the next call about this epoch takes so long that it belongs in a thread."""

    def batches(self, epoch: int, positions: NDArray[np.int64], world_size: int) -> BatchBlock:
        """The batches at ``positions`` int64[num], in that order."""

    def num_asked(self, epoch: int, row: int) -> int:
        """How often the epoch asks for an image of the map, over all buckets; 0 if it is in none."""

    def locate(self, epoch: int, row: int, world_size: int) -> list[Place]:
        """The occurrences of an image of the map in an epoch: none if it is left out, several if it is repeated."""

    def mixed_steps(self, epoch: int, offset: int, world_size: int) -> int:
        """Of the steps that deal the stream from position ``offset`` on to ``world_size`` ranks, how many may hold more
        than one resolution (``line``: those that span units, and those in a mixed unit that do; ``novelai``: those that
        do)."""
