"""Batch kinds: what the batches of a stream are made of.

A kind is a target and a number of images: all batches of a kind have that many images of that target. Most targets
have one kind, their whole batches; where a target's last batch may be short it is a kind of its own, and so are the
empty batches that fill the last unit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning.line.remainders import Layout

_I64 = NDArray[np.int64]


class BatchKinds(NamedTuple):
    """K kinds, all [K]. ``targets`` that batches are drawn from; ``sizes``: images of a batch; ``firsts``: which of the
    images that its target serves is the first of the kind's first batch; ``costs`` of a batch; ``num_batches`` that an
    epoch deals."""

    targets: _I64
    sizes: _I64
    firsts: _I64
    costs: NDArray[np.float64]
    num_batches: _I64

    @classmethod
    def of(cls, layout: Layout, costs: NDArray[np.float64], num_batches: _I64, lockstep: int) -> BatchKinds:
        """``costs`` float64[G] of a whole batch of each target, of which an epoch deals ``num_batches`` int64[G]. A
        short batch is taken to cost its share of a whole one. With ``layout.is_short`` kind g is that of target g's
        whole batches, kind G + g its short one, and the last the empty ones, as many as the last unit lacks."""
        num_targets = len(num_batches)
        targets = np.arange(num_targets)
        if not layout.is_short:
            return cls(targets, layout.batch_sizes, np.zeros_like(targets), costs, num_batches)
        whole, rests = np.divmod(layout.lengths, layout.batch_sizes)
        num_empty = -int(num_batches.sum()) % lockstep
        cheapest = int(np.argmin(np.where(num_batches > 0, costs, np.inf)))
        return cls(
            np.concatenate([targets, targets, [cheapest]]),
            np.concatenate([layout.batch_sizes, rests, [0]]),
            np.concatenate([np.zeros_like(targets), whole * layout.batch_sizes, [0]]),
            np.concatenate([costs, costs * rests / layout.batch_sizes, [0.0]]),
            np.concatenate([whole, rests > 0, [num_empty]]).astype(np.int64),
        )

    @property
    def num_empty(self) -> int:
        """Batches without an image."""
        return int(self.num_batches[self.sizes == 0].sum())

    def by_shape(self, targets: Sequence[Sequence[int]]) -> list[list[int]]:
        """The kinds of each shape, whose ``targets`` these are, in that order; those of whole batches first."""
        has_images = self.sizes > 0
        return [
            [
                kind
                for target in each
                for kind in np.flatnonzero((self.targets == target) & has_images).tolist()
            ]
            for each in targets
        ]

    def of_images(self, targets: _I64, served: _I64) -> tuple[_I64, _I64, _I64]:
        """Of the images at index ``served[i]`` of what ``targets[i]`` serves: the kinds of their batches, the numbers
        of these, and the places of the images in them."""
        numbers, slots = np.divmod(served, self.sizes[targets])
        kinds = targets
        is_short = numbers >= self.num_batches[targets]
        if is_short.any():
            kinds = np.where(is_short, targets + (len(self.sizes) - 1) // 2, targets)
            numbers = np.where(is_short, 0, numbers)
        return kinds, numbers, slots
