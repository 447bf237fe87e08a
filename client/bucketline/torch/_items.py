"""What a map-style dataset's ``__getitem__`` gets: one image of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .._types import Batch


@dataclass(slots=True)
class Item:
    """The image ``id``, to be brought to ``width`` x ``height`` pixels, at ``epoch`` and ``step``.

    ``is_repeat`` says that it comes oftener in this epoch than asked for, to fill the batch. ``map`` is there in a run
    of several maps, ``num_frames`` with frame buckets; ``original_size`` and ``resize_size`` (width, height) and
    ``crop_left_top`` where the client asked to ``include`` them. Not frozen, as Lightning takes no frozen dataclass.
    """

    id: Any
    width: int
    height: int
    epoch: int
    step: int
    bucket: int
    is_repeat: bool = False
    num_frames: int | None = None
    map: str | None = None
    original_size: tuple[int, int] | None = None
    resize_size: tuple[int, int] | None = None
    crop_left_top: tuple[int, int] | None = None


def items_of(batch: Batch) -> list[Item]:
    return [
        Item(
            id=id,
            width=batch.width,
            height=batch.height,
            epoch=batch.epoch,
            step=batch.step,
            bucket=batch.bucket,
            is_repeat=batch.repeats[at] if batch.repeats else False,
            num_frames=batch.num_frames,
            map=batch.maps[at] if batch.maps else None,
            original_size=batch.original_sizes[at] if batch.original_sizes else None,
            resize_size=batch.resize_sizes[at] if batch.resize_sizes else None,
            crop_left_top=batch.crop_left_tops[at] if batch.crop_left_tops else None,
        )
        for at, id in enumerate(batch.ids)
    ]
