"""The words of the protocol as values: what requests are made from and answers are read into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

Json = dict[str, Any]


class Cursor(NamedTuple):
    """The first step that is not finished. Tuples compare in the order of training."""

    epoch: int
    step: int

    def to_json(self) -> Json:
        return {"epoch": self.epoch, "step": self.step}


@dataclass(frozen=True, slots=True)
class Batch:
    """The images of one step on one rank, all for the same resolution (pixels).

    ``ids`` are integers or strings, as in the map; in a run of several maps ``maps`` tells the map of each.
    ``repeats`` is as long as ``ids`` and tells which of them come oftener in this epoch than asked for, to fill
    the batch; None where none does. ``bucket`` is the index in the run's ladder. ``num_frames`` is the length of
    each clip, None where the run has no frame buckets.

    These are as long as ``ids``, and None where the client did not ask to ``include`` them: ``original_sizes``,
    (width, height) in the map; ``resize_sizes``, (width, height) to scale to; ``crop_left_tops``, (left, top) of what
    is then cut out of the middle, ``width`` x ``height``.
    """

    ids: list[Any]
    width: int
    height: int
    epoch: int
    step: int
    rank: int
    bucket: int
    repeats: list[bool] | None = None
    num_frames: int | None = None
    maps: list[str] | None = None
    original_sizes: list[tuple[int, int]] | None = None
    resize_sizes: list[tuple[int, int]] | None = None
    crop_left_tops: list[tuple[int, int]] | None = None


@dataclass(frozen=True, slots=True)
class Deal:
    """How a generation deals an epoch's stream to its ranks: in epoch ``origin.epoch`` step ``origin.step``
    of rank 0 is stream position ``offset``; every other epoch starts at step 0 and position 0. The stream of that
    epoch is laid out with ``origin_lockstep``, all others with ``lockstep``; None where there is none to tell."""

    origin: Cursor
    offset: int
    world_size: int
    origin_lockstep: int | None = None
    lockstep: int | None = None

    def lockstep_of(self, epoch: int) -> int | None:
        return self.origin_lockstep if epoch == self.origin.epoch else self.lockstep

    def consumed(self, cursor: Cursor) -> int:
        """How many batches of the epoch's stream the whole job has finished when every rank stands at
        ``cursor``."""
        if cursor.epoch == self.origin.epoch:
            return self.offset + (cursor.step - self.origin.step) * self.world_size
        return cursor.step * self.world_size


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to move one rank's cursor, and where that stands. ``num_steps`` is of the cursor's epoch.
    ``generation_id`` is random for each start of the job; None where the coordinator has none to tell."""

    token: int
    generation: int
    cursor: Cursor
    num_steps: int
    deal: Deal
    fingerprint: str
    generation_id: str | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """A start of the job. ``cursor`` is the slowest rank's; ``left_out_batches`` and ``mixed_steps`` are what
    a change of the world size costs in this epoch: batches no rank gets, and steps whose ranks differ in
    resolution. ``rolled_over_batches``: what the state dict left of its epoch, where the start begins with the
    epoch after it; else None. ``generation_id`` is random for each start; None where the coordinator has none to
    tell."""

    generation: int
    cursor: Cursor
    num_steps: int
    deal: Deal
    fingerprint: str
    left_out_batches: int
    mixed_steps: int
    rolled_over_batches: int | None = None
    generation_id: str | None = None

    @property
    def world_size(self) -> int:
        return self.deal.world_size


@dataclass(frozen=True, slots=True)
class NextAnswer:
    """``num_steps`` is of the cursor's epoch; ``done`` says that no batch follows these."""

    batches: list[Batch]
    cursor: Cursor
    num_steps: int
    done: bool


@dataclass(frozen=True, slots=True)
class State:
    """A state dict, checked. ``consumed`` is its ``offset``: batches of the epoch's stream that the job has
    finished. ``lockstep``: with which the stream is laid out; ``start``: the id of the generation in which it was
    saved; None where it does not tell."""

    run: str
    fingerprint: str
    cursor: Cursor
    consumed: int
    world_size: int
    lockstep: int | None = None
    start: str | None = None

    def to_json(self) -> Json:
        told: Json = {
            "run": self.run,
            "fingerprint": self.fingerprint,
            "epoch": self.cursor.epoch,
            "step": self.cursor.step,
            "offset": self.consumed,
            "world_size": self.world_size,
        }
        known = {"lockstep": self.lockstep, "start": self.start}
        return {**told, **{name: value for name, value in known.items() if value is not None}}
