"""What packs cost: how full they are, and which images an epoch leaves out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning.packing.lengths import length_classes
from bucketline_service.planning.packing.pack_kinds import PackKinds
from bucketline_service.planning.packing.slots import left_out

_I64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PackStats:
    """Means over epochs in which every pack is served. ``num_images`` int64[S]: images of each length.

    ``fill``, ``padding`` and ``unused`` are shares of the tokens of all packs, and 1 together: tokens of images; tokens
    of slots that their images have not; tokens in no slot. ``left_out`` float64[S]: of the images of each length, how
    many have no slot.
    """

    num_images: _I64
    fill: float
    padding: float
    unused: float
    left_out: NDArray[np.float64]

    @property
    def left_out_share(self) -> float:
        """Of all images."""
        return float(self.left_out.sum() / self.num_images.sum())


def pack_stats(packs: PackKinds, tokens: _I64, counts: _I64) -> PackStats:
    """Those of images of ``tokens`` int64[D]; ``counts`` int64[D]: how many images have so many. They are the images
    that the packs were fitted to, or others of which as many fit into the slots (``slots.stretches``)."""
    of = length_classes(tokens[counts > 0], packs.lengths)
    of_length = {
        what: np.bincount(of, weights=weights[counts > 0], minlength=len(packs.lengths))
        for what, weights in (("images", counts), ("tokens", counts * tokens))
    }
    images = of_length["images"].astype(np.int64)
    out = left_out(packs.slots, images)
    served = float(((images - out) * of_length["tokens"] / np.maximum(images, 1)).sum())
    reserved = float(packs.slots @ packs.lengths)
    total = float(packs.num_packs * packs.max_tokens)
    return PackStats(images, served / total, (reserved - served) / total, 1 - reserved / total, out)
