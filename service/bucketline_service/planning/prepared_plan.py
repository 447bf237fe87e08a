"""What planning keeps of a plan: the images by class, the order of their rows, and the share of the stats that takes a
pass over the images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning.images import Images
from bucketline_service.planning.line.image_classes import ImageClasses, ImageClassifier

_I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Prepared:
    """What is kept of a plan. ``order`` uint32[N]: rows by group; ``summary``: JSON, the share of the stats that costs
    a pass over the images."""

    groups: ImageClasses
    order: NDArray[np.uint32]
    summary: dict[str, Any]

    @cached_property
    def starts(self) -> _I64:
        """int64[G]: where each group begins in ``order``."""
        return self.groups.starts

    def find(self, classifier: ImageClassifier, images: Images, row: int) -> tuple[int, int] | None:
        """The group of a row and its place there; None where the row is in none."""
        keys, _ = classifier.keys(images.read(row, row + 1))
        group = int(np.searchsorted(self.groups.keys, keys[0]))
        if keys[0] < 0 or group == len(self.groups.keys) or self.groups.keys[group] != keys[0]:
            return None
        begin = int(self.starts[group])
        # the rows of a group are ascending
        mine = self.order[begin : begin + int(self.groups.counts[group])]
        # of their own type: a wider one would copy them all
        at = int(np.searchsorted(mine, np.uint32(row)))
        return (group, at) if at < len(mine) and int(mine[at]) == row else None
