"""What a map-style dataset's ``__getitem__`` gets: one image of a batch or a pack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from .._types import AnyBatch, Batch, Pack

T = TypeVar("T")


@dataclass(slots=True)
class Item:
    """One image of a batch or a pack: what a map-style dataset's `__getitem__` gets.

    ```python
    def __getitem__(self, item: Item):
        image = Image.open(self.folder / item.id)
        return image.resize((item.width, item.height))
    ```

    Not frozen, because Lightning does not accept frozen dataclasses.

    Attributes:
        id: the image's id in the map.
        width: of the bucket, in pixels; in a pack, of this image.
        height: of the bucket, in pixels; in a pack, of this image.
        epoch: counted from 0.
        step: of the epoch, counted from 0.
        bucket: index in the run's ladder; None in a pack.
        is_repeat: whether the image is served more often in this epoch than the map asks for, to fill the batch.
        num_frames: the length of the clip, in frames; None if the run has no frame buckets.
        map: the image's map in a run of several maps, else None.
        original_size: (width, height) in the map; None unless the client passed `include=["original_size"]`.
        resize_size: (width, height) to scale to; None unless the client passed `include=["crop"]`.
        crop_left_top: (left, top) of the centre crop; None unless the client passed `include=["crop"]`.
        length: the tokens that the plan reserves for the image in its pack; None in a run of buckets.
        kind: the number of the pack kind in the run's plan; None in a run of buckets.
    """

    id: Any
    width: int
    height: int
    epoch: int
    step: int
    bucket: int | Any  # None in a pack; with Any, code for runs of buckets need not rule that out
    is_repeat: bool = False
    num_frames: int | None = None
    map: str | None = None
    original_size: tuple[int, int] | None = None
    resize_size: tuple[int, int] | None = None
    crop_left_top: tuple[int, int] | None = None
    length: int | None = None
    kind: int | None = None


def items_of(batch: AnyBatch) -> list[Item]:
    return [
        Item(
            id=id,
            epoch=batch.epoch,
            step=batch.step,
            map=_at(batch.maps, at),
            original_size=_at(batch.original_sizes, at),
            resize_size=_at(batch.resize_sizes, at),
            crop_left_top=_at(batch.crop_left_tops, at),
            **(_of_pack(batch, at) if isinstance(batch, Pack) else _of_batch(batch, at)),
        )
        for at, id in enumerate(batch.ids)
    ]


def _of_batch(batch: Batch, at: int) -> dict[str, Any]:
    return {
        "width": batch.width,
        "height": batch.height,
        "bucket": batch.bucket,
        "is_repeat": batch.repeats[at] if batch.repeats else False,
        "num_frames": batch.num_frames,
    }


def _of_pack(pack: Pack, at: int) -> dict[str, Any]:
    width, height = pack.sizes[at]
    return {
        "width": width,
        "height": height,
        "bucket": None,
        "num_frames": _at(pack.num_frames, at),
        "length": pack.lengths[at],
        "kind": pack.kind,
    }


def _at(values: Sequence[T] | None, at: int) -> T | None:
    return values[at] if values else None
