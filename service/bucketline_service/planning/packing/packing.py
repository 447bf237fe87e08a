"""The packing of a plan: which native size and which length each image has, and the packs that hold them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning.buckets.pruning import NO_BUCKET, Limits, Targets, prune
from bucketline_service.planning.packing.native_sizes import NativeSizes
from bucketline_service.planning.packing.pack_kinds import PackKinds

_I64 = NDArray[np.int64]
_CHUNK = 1 << 17  # rows at a time: the working arrays stay in the cache


@dataclass(frozen=True, eq=False)
class Packing:
    """``native``: the images' sizes; ``frame_stride``: frames of one token; ``packs``: what the images are packed into.
    The images of one length are a bucket: bucket b has the b-th longest."""

    native: NativeSizes
    frame_stride: int
    packs: PackKinds

    @property
    def num_buckets(self) -> int:
        return len(self.packs.lengths)

    @property
    def lengths(self) -> _I64:
        """int64[B]: tokens of a slot of each bucket, the longest first."""
        return self.packs.lengths[::-1]

    def assign(
        self,
        widths: NDArray[np.integer],
        heights: NDArray[np.integer],
        num_frames: _I64 | int,
        limits: Limits,
    ) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
        """The bucket of each image, int32[n], -1 where it is pruned, and why, uint8[n]: as ``assignment.assign``.
        ``num_frames`` as served, int64[n] or one for all. An image longer than all lengths has no bucket."""
        tokens, reasons = native_tokens(self.native, self.frame_stride, widths, heights, num_frames, limits)
        shorter = np.searchsorted(self.packs.lengths, tokens)
        reasons[(reasons == 0) & (shorter == self.num_buckets)] = NO_BUCKET
        buckets = np.where(reasons > 0, -1, self.num_buckets - 1 - shorter)
        return buckets.astype(np.int32), reasons

    def slot_buckets(self, kind: int) -> list[int]:
        """The bucket of each slot of a pack of that kind, the longest first."""
        buckets: list[int] = np.repeat(np.arange(self.num_buckets), self.packs.kinds[kind, ::-1]).tolist()
        return buckets

    def slot_lengths(self, kind: int) -> list[int]:
        """Tokens of each of the same slots."""
        lengths: list[int] = self.lengths[self.slot_buckets(kind)].tolist()
        return lengths


def native_tokens(
    native: NativeSizes,
    frame_stride: int,
    widths: NDArray[np.integer],
    heights: NDArray[np.integer],
    num_frames: _I64 | int,
    limits: Limits,
) -> tuple[_I64, NDArray[np.uint8]]:
    """The tokens of each image at its native size, int64[n], 0 where it has none; and why it is pruned, uint8[n], an
    index of ``pruning.REASONS``."""
    tokens = np.empty(len(widths), dtype=np.int64)
    reasons = np.empty(len(widths), dtype=np.uint8)
    frames = np.broadcast_to(np.asarray(num_frames, dtype=np.int64), len(widths))
    for begin in range(0, len(widths), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        across, down = widths[part].astype(np.int64), heights[part].astype(np.int64)
        at_width, at_height = native.sizes(across, down)
        tokens[part] = native.tokens(at_width, at_height, frames[part], frame_stride)
        has_none = at_width == 0
        # one without a size is compared with its own, so that of the limits min_size alone has a say
        at_width, at_height = np.where(has_none, across, at_width), np.where(has_none, down, at_height)
        targets = Targets(at_width, at_height, at_width / at_height)
        found = prune(across, down, across / down, targets, slice(None), limits)
        found[has_none & (found == 0)] = NO_BUCKET
        reasons[part] = found
    return tokens, reasons
