"""The words of the protocol as values: what requests are built from and answers are read into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

Json = dict[str, Any]


class Cursor(NamedTuple):
    """A rank's place: the first step that is not finished. Cursors compare in the order of training.

    ```python
    assert Cursor(0, 41) < Cursor(1, 0)
    ```

    Attributes:
        epoch: counted from 0.
        step: of the epoch, counted from 0.
    """

    epoch: int
    step: int

    def to_json(self) -> Json:
        """`{"epoch": ..., "step": ...}`, as in the HTTP protocol."""
        return {"epoch": self.epoch, "step": self.step}


@dataclass(frozen=True, slots=True)
class Batch:
    """The images of one step on one rank, all for the same resolution.

    ```python
    batch = client.next_batch(rank)
    pixels = load(batch.ids, batch.width, batch.height)
    ```

    Attributes:
        ids: the images' ids, integers or strings as in the map. Empty on some ranks at the last step of an epoch of a
            run with `tails: "short"`.
        width: of the bucket, in pixels.
        height: of the bucket, in pixels.
        epoch: counted from 0.
        step: of the epoch, counted from 0.
        rank: whose batch it is.
        bucket: index in the run's ladder.
        repeats: for each id whether it is served more often in this epoch than the map asks for, to fill the batch;
            None if none is.
        num_frames: the length of each clip, in frames; None if the run has no frame buckets.
        maps: the map of each id in a run of several maps, else None.
        original_sizes: (width, height) of each image in the map; None unless the client passed
            `include=["original_size"]`.
        resize_sizes: (width, height) to scale each image to; None unless the client passed `include=["crop"]`.
        crop_left_tops: (left, top) of the centre crop of `width` x `height` in each scaled image; None unless the
            client passed `include=["crop"]`.
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
class Pack:
    """The images of one step on one rank in a run of packed batches (`pack` in its spec): each has a size of its own.

    For models with variable-length attention. All packs of one kind reserve the same lengths.

    ```python
    pack = client.next_pack(rank)
    pixels = [load(id, width, height) for id, (width, height) in zip(pack.ids, pack.sizes)]
    ```

    Attributes:
        ids: the images' ids, integers or strings as in the map.
        sizes: (width, height) of each image, in pixels: multiples of the ladder's `divisible`.
        lengths: the tokens that the plan reserves for each image, the longest first. An image has at most as many:
            `width * height / divisible**2`, times `ceil(num_frames / frame_stride)` for clips.
        epoch: counted from 0.
        step: of the epoch, counted from 0.
        rank: whose pack it is.
        kind: the number of the pack kind in the run's plan.
        num_frames: the length of each clip, in frames; None if the run has no frame buckets.
        maps: the map of each id in a run of several maps, else None.
        original_sizes: (width, height) of each image in the map; None unless the client passed
            `include=["original_size"]`.
        resize_sizes: (width, height) to scale each image to; None unless the client passed `include=["crop"]`.
        crop_left_tops: (left, top) of the centre crop of the image's own size in each scaled image; None unless the
            client passed `include=["crop"]`.
    """

    ids: list[Any]
    sizes: list[tuple[int, int]]
    lengths: list[int]
    epoch: int
    step: int
    rank: int
    kind: int
    num_frames: list[int] | None = None
    maps: list[str] | None = None
    original_sizes: list[tuple[int, int]] | None = None
    resize_sizes: list[tuple[int, int]] | None = None
    crop_left_tops: list[tuple[int, int]] | None = None


class HasPlace(Protocol):
    """A batch, a step, or an item of a batch."""

    @property
    def epoch(self) -> int: ...

    @property
    def step(self) -> int: ...


AnyBatch = Batch | Pack
"""What a run serves: all its batches are of one of the two types."""


@dataclass(frozen=True, slots=True)
class Deal:
    """How one start of the job shards an epoch's stream of batches over steps and ranks.

    In epoch `origin.epoch`, step `origin.step` of rank 0 is stream position `offset`; every other epoch starts at step
    0 and position 0. From there, position = `consumed(cursor)` + rank.

    ```python
    deal = client.begin(state).deal
    position = deal.consumed(Cursor(batch.epoch, batch.step)) + batch.rank
    ```

    Attributes:
        origin: the first step of this start of the job.
        offset: the stream position of that step, in batches.
        world_size: the number of ranks.
        origin_lockstep: the batches in a unit of the stream of `origin.epoch`; None if an older coordinator does not
            report it.
        lockstep: the same for all other epochs.
    """

    origin: Cursor
    offset: int
    world_size: int
    origin_lockstep: int | None = None
    lockstep: int | None = None

    def lockstep_of(self, epoch: int) -> int | None:
        """The batches in a unit of that epoch's stream; None if it is unknown."""
        return self.origin_lockstep if epoch == self.origin.epoch else self.lockstep

    def consumed(self, cursor: Cursor) -> int:
        """How many batches of the epoch's stream the whole job has finished when every rank is at `cursor`."""
        if cursor.epoch == self.origin.epoch:
            return self.offset + (cursor.step - self.origin.step) * self.world_size
        return cursor.step * self.world_size


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to move one rank's cursor, and where that cursor is. ``num_steps`` belongs to the cursor's epoch.
    ``generation_id`` is random for each start of the job; None if the coordinator is too old to report it."""

    token: int
    generation: int
    cursor: Cursor
    num_steps: int
    deal: Deal
    fingerprint: str
    generation_id: str | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """One start of the job.

    ```python
    session = client.begin(state, world_size=8)
    print(f"resumed at {session.cursor}; {session.left_out_batches} batches of this epoch are left out")
    ```

    Attributes:
        generation: counts the starts of the run.
        cursor: the slowest rank's.
        num_steps: the steps of the cursor's epoch.
        deal: how the stream is sharded over the ranks.
        fingerprint: identifies the run's plan.
        left_out_batches: batches of this epoch that no rank gets because the number of ranks has changed.
        mixed_steps: steps of this epoch in which ranks differ in resolution, for the same reason.
        rolled_over_batches: how many batches the state dict left of its epoch, if they do not fill a step, so that
            this start begins with the next epoch; else None.
        generation_id: random for each start; None if the coordinator is too old to report it.
    """

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
        """The number of ranks of this start."""
        return self.deal.world_size


@dataclass(frozen=True, slots=True)
class NextAnswer:
    """``num_steps`` belongs to the cursor's epoch; ``done`` says that no batch follows these."""

    batches: list[AnyBatch]
    cursor: Cursor
    num_steps: int
    done: bool


@dataclass(frozen=True, slots=True)
class State:
    """A state dict, checked. ``consumed`` is its ``offset``: how many batches of the epoch's stream the job has
    finished. ``lockstep`` is that of the epoch's stream, ``start`` the id of the generation in which the state was
    saved; both are None in state dicts of older releases."""

    run: str
    fingerprint: str
    cursor: Cursor
    consumed: int
    world_size: int
    lockstep: int | None = None
    start: str | None = None

    def to_json(self) -> Json:
        document: Json = {
            "run": self.run,
            "fingerprint": self.fingerprint,
            "epoch": self.cursor.epoch,
            "step": self.cursor.step,
            "offset": self.consumed,
            "world_size": self.world_size,
        }
        known = {"lockstep": self.lockstep, "start": self.start}
        return document | {name: value for name, value in known.items() if value is not None}
