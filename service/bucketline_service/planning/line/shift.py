"""Which images ``tails: "shift"`` gives to another bucket than their own, found once, when a plan is built."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning import chunked_passes
from bucketline_service.planning.line import moved_boundaries
from bucketline_service.planning.line.boundary_images import BoundaryImages, Entries
from bucketline_service.planning.line.classify import Classification
from bucketline_service.planning.line.image_classes import ImageClasses
from bucketline_service.planning.line.moved_boundaries import Bins
from bucketline_service.planning.line.sample_quotas import SampleQuotas
from bucketline_service.planning.plan_spec import PlanSpec, Section

_I64 = NDArray[np.int64]
_FIRST_ROWS = 1 << 14  # looked at first, so that nearly none of all others has to be kept


class Moves(NamedTuple):
    """Images whose key is not the one that they were assigned, all int64[n]: ``rows``, ascending; how many images each
    stands for; the key that it had and the one that it has. ``num_moved``: images that have another bucket than their
    own, once for each tier in which they have; ``max_extra_crop``: the most that one of them loses more than in its
    own, a share of its pixels."""

    rows: _I64
    counts: _I64
    own_keys: _I64
    keys: _I64
    num_moved: int
    max_extra_crop: float


_NOTHING = np.empty(0, dtype=np.int64)
NO_MOVES = Moves(_NOTHING, _NOTHING, _NOTHING, _NOTHING, 0, 0.0)


class _Ways(NamedTuple):
    """Of each quota, in order of bucket and class: the bucket, the class, and how many samples each of its images has
    there, all int64[Q]."""

    buckets: _I64
    classes: _I64
    samples: _I64


def find(
    spec: PlanSpec, classification: Classification, classes: ImageClasses, quotas: SampleQuotas
) -> Moves | None:
    """``classes`` and ``quotas``: as assigned. None where it is not possible: where images come a fraction of a time,
    where buckets have no order of aspect, where no boundaries within reach make whole batches, or where the search over
    many buckets of large batches would take too long."""
    if spec.no_upscale is not None or quotas.is_thinned.any():
        return None
    ways = _Ways(quotas.buckets, quotas.groups, np.rint(quotas.ends - quotas.begins).astype(np.int64))
    unit_sizes = spec.batch_sizes * spec.multiple
    counts = quotas.members(classes.counts)
    reach = moved_boundaries.reach(
        unit_sizes,
        np.unique(ways.samples),
        classification.images.num_images,
        int(np.count_nonzero(counts)),
    )
    if reach is None:
        return None
    entries = _boundary_images(spec.num_buckets, reach, classification, classes, quotas)
    samples = ways.samples[
        np.searchsorted(
            ways.buckets * len(classes.keys) + ways.classes,
            entries.buckets * len(classes.keys) + entries.classes,
        )
    ]
    of_buckets = quotas.bucket_samples().astype(np.int64)
    found: list[tuple[Section, Entries, moved_boundaries.MovedImages]] = []
    for section in spec.sections:
        mine = section.first + np.flatnonzero(counts[section.first : section.first + len(section.ladder)])
        is_here = np.isin(entries.buckets, mine)
        ladder = section.ladder
        bins = Bins(
            mine,
            counts[mine],
            of_buckets[mine],
            unit_sizes[mine],
            ladder.widths[mine - section.first],
            ladder.heights[mine - section.first],
        )
        here = entries.at(is_here)
        moved = moved_boundaries.moved(bins, here, samples[is_here], reach)
        if moved is None:
            return None
        found.append((section, here, moved))
    return _combined(classification, classes, found)


def _boundary_images(
    num_buckets: int, reach: int, classification: Classification, classes: ImageClasses, quotas: SampleQuotas
) -> Entries:
    nearest = BoundaryImages(num_buckets, reach)
    ways = [np.where(way < 0, -1, quotas.buckets[way]) for way in quotas.ways()]

    def near(rows: slice) -> list[Entries]:
        chunk = rows.start // chunked_passes.CHUNK
        codes = classification.codes[rows]
        own = np.searchsorted(classes.keys, classification.chunks[chunk][0])
        of = classification.images.read(rows.start, rows.stop)
        return [
            nearest.near(codes, way[own], own, rows.start, (of.widths, of.heights), of.counts) for way in ways
        ]

    first, others = _parts(classification)
    for rows in first:
        for found in near(rows):
            nearest.add(found)
    for each in chunked_passes.in_order(near, others, classification.num_threads):
        for found in each:
            nearest.add(found)
    return nearest.entries()


def _parts(classification: Classification) -> tuple[list[slice], Iterator[slice]]:
    """The rows of the first chunk in parts that grow, and those of each other chunk."""
    first = classification.part(0)
    ends = [first.start]
    while ends[-1] < first.stop:
        ends.append(min(first.stop, max(_FIRST_ROWS, 4 * ends[-1])))
    parts = [slice(begin, end) for begin, end in pairwise(ends)]
    return parts, (classification.part(chunk) for chunk in range(1, classification.num_chunks))


def _combined(
    classification: Classification,
    classes: ImageClasses,
    found: list[tuple[Section, Entries, moved_boundaries.MovedImages]],
) -> Moves:
    """With the key that each image has after the moves of all sections: it may be in several."""
    # by row: how many of its images have which key, and which of these the section at hand has moved already
    keys: dict[int, dict[int, int]] = {}
    own_keys: dict[int, int] = {}
    for section, entries, moved in found:
        stride = classification.classifier.stride(section.tier)
        by_row: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        rows = entries.rows[moved.entries].tolist()
        steps = ((moved.buckets - entries.buckets[moved.entries]) * stride).tolist()
        totals = entries.counts[moved.entries].tolist()
        of = classes.keys[entries.classes[moved.entries]].tolist()
        for row, step, count, total, own in zip(rows, steps, moved.counts.tolist(), totals, of, strict=True):
            by_row[row].append((step, count, total))
            own_keys[row] = own
        for row, steps_of_row in by_row.items():
            before = keys.get(row) or {own_keys[row]: steps_of_row[0][2]}
            keys[row] = _moved_once(before, [(step, count) for step, count, _ in steps_of_row])
    table = [
        (row, count, own_keys[row], key)
        for row in sorted(keys)
        for key, count in sorted(keys[row].items())
        if key != own_keys[row]
    ]
    columns = np.array(table, dtype=np.int64).reshape(-1, 4).T
    extra = max((moved.max_extra_crop for _, _, moved in found), default=0.0)
    rows, counts, own, now = (column.copy() for column in columns)
    return Moves(rows, counts, own, now, sum(int(moved.counts.sum()) for _, _, moved in found), extra)


def _moved_once(before: dict[int, int], steps: list[tuple[int, int]]) -> dict[int, int]:
    """``before``: how many images have each key; ``steps``: (change of the key, how many images), each image at most
    once. Images that another section has moved come first."""
    after: dict[int, int] = defaultdict(int)
    waiting = [[key, count] for key, count in reversed(before.items())]
    for step, count in steps:
        while count:
            key, there = waiting[0]
            taken = min(count, there)
            after[key + step] += taken
            count -= taken
            waiting[0][1] -= taken
            if not waiting[0][1]:
                waiting.pop(0)
    for key, count in waiting:
        after[key] += count
    return dict(after)
