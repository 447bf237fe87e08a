"""Which bucket and size each image of a plan has, row by row, in blocks of a bounded number of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning import ledger
from bucketline_service.planning.geometry import Cuts, cover_each
from bucketline_service.planning.images import Images
from bucketline_service.planning.line.image_classes import ImageClassifier
from bucketline_service.planning.plan_spec import PlanSpec
from bucketline_service.planning.prepared_plan import Prepared

_I64 = NDArray[np.int64]


class Assignments(NamedTuple):
    """Rows of the map, all [n]: ``rows``; ``buckets`` that they are in; ``sizes`` int64[n, 2], (width, height) in
    pixels, and ``frames``, as they are served; ``cuts``: how they are brought to these sizes. A row that several
    buckets serve comes once for each of them."""

    rows: _I64
    buckets: _I64
    sizes: _I64
    frames: _I64
    cuts: Cuts


def assignments(
    spec: PlanSpec, prepared: Prepared, images: Images, is_valid: ledger.IsValid | None = None
) -> Iterator[Assignments]:
    """Those of all images that the plan has, ascending: with boundaries moved as the plan has them, but before any
    remainder spills. ``is_valid``: of rows, ascending, which of them ``valid_ids`` leaves in; None where that is all.
    """
    spec = prepared.planned(spec)
    classifier = ImageClassifier(spec, images)
    targets = np.array(spec.targets, dtype=np.int64)
    for begin in range(0, images.num_rows, ledger.BLOCK):
        chunk = images.read(begin, min(begin + ledger.BLOCK, images.num_rows))
        keys = prepared.move(classifier.keys(chunk)[0], begin)
        at = np.flatnonzero(keys >= 0)
        if is_valid is not None:
            at = at[is_valid(begin + at)]
        if not len(at):
            continue
        distinct, of = np.unique(keys[at], return_inverse=True)
        ways = [[bucket for bucket, _, _ in classifier.ways(key)] for key in distinct.tolist()]
        most = max(map(len, ways))
        # int64[keys, most]: the buckets of each key, -1 where it has no more
        table = np.array([[*each, *[-1] * (most - len(each))] for each in ways], dtype=np.int64)
        which, place = np.nonzero(table[of] >= 0)
        buckets, rows = table[of[which], place], at[which]
        own = np.stack([chunk.widths[rows], chunk.heights[rows]], axis=1).astype(np.int64)
        if spec.packing is None:
            sizes, frames = targets[buckets], spec.target_frames[buckets]
        else:
            sizes = np.stack(spec.packing.native.sizes(own[:, 0], own[:, 1]), axis=1)
            frames = classifier.frames_of(distinct)[of[which]]
        yield Assignments(begin + rows, buckets, sizes, frames, cover_each(own, sizes))
