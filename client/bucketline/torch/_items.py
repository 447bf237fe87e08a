"""What a map-style dataset's ``__getitem__`` gets: one image of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .._types import Batch


@dataclass(slots=True)
class Item:
    """One image of a batch: what a map-style dataset's `__getitem__` gets.

    ```python
    def __getitem__(self, item: Item):
        image = Image.open(self.folder / item.id)
        return image.resize((item.width, item.height))
    ```

    Not frozen, because Lightning does not accept frozen dataclasses.

    Attributes:
        id: the image's id in the map.
        width: of the bucket, in pixels.
        height: of the bucket, in pixels.
        epoch: counted from 0.
        step: of the epoch, counted from 0.
        bucket: index in the run's ladder.
        is_repeat: whether the image is served more often in this epoch than the map asks for, to fill the batch.
        num_frames: the length of the clip, in frames; None if the run has no frame buckets.
        map: the image's map in a run of several maps, else None.
        original_size: (width, height) in the map; None unless the client passed `include=["original_size"]`.
        resize_size: (width, height) to scale to; None unless the client passed `include=["crop"]`.
        crop_left_top: (left, top) of the centre crop; None unless the client passed `include=["crop"]`.
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
