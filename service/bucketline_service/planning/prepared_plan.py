"""What planning keeps of a plan: the images by class, the order of their rows, and the share of the stats that takes a
pass over the images."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning.images import Images
from bucketline_service.planning.line.image_classes import ImageClasses, ImageClassifier
from bucketline_service.planning.plan_spec import PlanSpec

_I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Prepared:
    """What is kept of a plan. ``order`` uint32[N]: rows by group; ``summary``: JSON, the share of the stats that costs
    a pass over the images. ``moved_rows`` int64[M], ascending: images that have another key than their own, and
    ``moved_keys`` int64[M]: which."""

    groups: ImageClasses
    order: NDArray[np.uint32]
    summary: dict[str, Any]
    moved_rows: _I64 = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    moved_keys: _I64 = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def planned(self, spec: PlanSpec) -> PlanSpec:
        """The spec with the tails that the plan has: ``shift`` is not possible for all images."""
        return replace(spec, tails=self.summary["tails"]) if spec.tails == "shift" else spec

    def move(self, keys: _I64, begin: int) -> _I64:
        """The keys that the rows from ``begin`` on have in the plan, where they were assigned ``keys`` int64[n]."""
        first, last = np.searchsorted(self.moved_rows, (begin, begin + len(keys))).tolist()
        if first < last:
            keys = keys.copy()
            keys[self.moved_rows[first:last] - begin] = self.moved_keys[first:last]
        return keys

    @cached_property
    def starts(self) -> _I64:
        """int64[G]: where each group begins in ``order``."""
        return self.groups.starts

    def find(self, classifier: ImageClassifier, images: Images, row: int) -> tuple[int, int] | None:
        """The group of a row and its place there; None where the row is in none."""
        keys, _ = classifier.keys(images.read(row, row + 1))
        keys = self.move(keys, row)
        group = int(np.searchsorted(self.groups.keys, keys[0]))
        if keys[0] < 0 or group == len(self.groups.keys) or self.groups.keys[group] != keys[0]:
            return None
        begin = int(self.starts[group])
        # the rows of a group are ascending
        mine = self.order[begin : begin + int(self.groups.counts[group])]
        # of their own type: a wider one would copy them all
        at = int(np.searchsorted(mine, np.uint32(row)))
        return (group, at) if at < len(mine) and int(mine[at]) == row else None
