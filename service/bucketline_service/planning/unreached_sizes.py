"""The sizes of a plan that no image reaches: each image there is scaled up, or there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning import chunked_passes
from bucketline_service.planning.images import Images
from bucketline_service.planning.plan_spec import PlanSpec

_Flags = NDArray[np.bool_]


def occupied(stats: Mapping[str, Any]) -> list[bool]:
    """[G]: which targets have images, of ``epoch_stats``."""
    return [each["num_images"] > 0 or each["num_batches"] > 0 for each in stats["buckets"]]


def unreached_sizes(
    spec: PlanSpec, images: Images, is_occupied: Sequence[bool], *, with_unsought: bool = False
) -> list[int]:
    """The targets for which no image is wide, high and long enough, and that somebody would miss.

    ``is_occupied`` [G]: whether a target has images. One without counts only if it is the nearest, in its tier, to
    images that are elsewhere because they are too small or too short for it: that nothing has the aspect of some other
    bucket is no surprise. ``with_unsought``: count it all the same, for sizes that a user has listed one by one.

    Takes a pass over the images, or over their distinct sizes. Packs have no sizes of their own.
    """
    if spec.packing is not None:
        return []
    is_wanted = np.array(is_occupied, dtype=np.bool_)
    is_wanted |= True if with_unsought else _is_sought(spec, is_wanted)
    found: list[int] = np.flatnonzero(is_wanted & ~_is_reached(spec, images)).tolist()
    return found


def _is_reached(spec: PlanSpec, images: Images) -> _Flags:
    """bool[G]: whether an image is at least as wide, as high and as long as the target."""
    widths, heights = np.array(spec.targets, dtype=np.int64).T
    across, lengths = np.unique(widths), np.unique(spec.target_frames)
    # by width in pixels: how many of the targets' widths an image has; beyond the largest, all of them
    num_across = np.searchsorted(across, np.arange(int(across[-1]) + 1), side="right")
    is_still_apart = bool(spec.frame_buckets) and lengths[0] == 1  # no clip is taken for a still image
    # [length, width]: the highest image that has so many of the targets' lengths and widths
    highest = np.zeros((len(lengths) + 1, len(across) + 1), dtype=np.uint32)
    for begin in range(0, images.num_rows, chunked_passes.CHUNK):
        chunk = images.read(begin, min(begin + chunked_passes.CHUNK, images.num_rows))
        at = num_across[np.minimum(chunk.widths, across[-1])]
        frames = np.uint32(1) if chunk.num_frames is None else chunk.num_frames
        of_length = np.searchsorted(lengths, frames, side="right")
        if is_still_apart:
            of_length = np.where((of_length == 1) & (frames > 1), 0, of_length)
        np.maximum.at(highest.reshape(-1), at + of_length * highest.shape[1], chunk.heights)
    # an image that is wide enough for a target is so for narrower ones, a clip that is long enough for shorter ones
    _accumulate(highest, 1)
    _accumulate(highest[1 + is_still_apart :], 0)
    own = np.searchsorted(lengths, spec.target_frames) + 1, np.searchsorted(across, widths) + 1
    is_reached: _Flags = highest[own] >= heights
    return is_reached


def _accumulate(highest: NDArray[np.uint32], axis: int) -> None:
    """In place: at each place the maximum of it and those behind it."""
    backward = np.flip(highest, axis)
    np.maximum.accumulate(backward, axis, out=backward)


def _is_sought(spec: PlanSpec, is_occupied: _Flags) -> _Flags:
    """bool[G]: whether, within its section, the target has the nearest aspect to that of an occupied one of the same
    length; of a length without any image, all."""
    widths, heights = np.array(spec.targets, dtype=np.float64).T
    aspects = np.log(widths / heights)
    is_sought = np.zeros(len(aspects), dtype=np.bool_)
    for section in spec.sections:
        here = slice(section.first, section.first + len(section.ladder))
        occupied = aspects[is_occupied & (spec.target_frames == section.num_frames)]
        distinct, which = np.unique(aspects[here], return_inverse=True)
        nearest = np.searchsorted((distinct[1:] + distinct[:-1]) / 2, occupied)
        is_sought[here] = np.isin(which, nearest) if len(occupied) else True
    return is_sought
