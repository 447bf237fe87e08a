"""From a spec and the sizes of images to a planner: assign once, sort once, then everything is arithmetic."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bucketline_service.errors import Invalid
from bucketline_service.planning import chunked_passes
from bucketline_service.planning.assignment_stats import Summary
from bucketline_service.planning.geometry import crop_loss
from bucketline_service.planning.images import Chunk, Images
from bucketline_service.planning.line import shift
from bucketline_service.planning.line.classify import Arrays, Checkpoint, Classification, NoCheckpoint
from bucketline_service.planning.line.image_classes import ImageClasses, ImageClassifier, none_left
from bucketline_service.planning.line.sample_quotas import SampleQuotas
from bucketline_service.planning.line.shift import NO_MOVES, Moves
from bucketline_service.planning.plan_spec import PlanSpec
from bucketline_service.planning.planner_kinds import DEFAULT, PLANNERS
from bucketline_service.planning.planner_port import Planner
from bucketline_service.planning.prepared_plan import Prepared

VERSION = 2
"""Part of every fingerprint: raise it where the same spec would plan otherwise."""

VERSION_BY_SIZE = 3
"""The same for plans that choose among buckets of one aspect by size (``PlanSpec.same_aspect``). Those of before took
the first, and are of ``VERSION``."""

VERSION_OF_STEPS = 4
"""The same for plans with balanced steps or moved boundaries."""

INSTEAD_OF_SHIFT = "spill"
"""The tails of a plan where ``shift`` is not possible."""

_I64 = NDArray[np.int64]


def prepare(
    spec: PlanSpec,
    images: Images,
    *,
    valid_rows: _I64 | None = None,
    checkpoint: Checkpoint | None = None,
    num_threads: int = 1,
) -> Prepared:
    """Assign every image and sort the rows by group, in two passes over chunks of rows: besides the result, that takes
    2 bytes per image. ``num_threads`` changes only the time.

    Errors: ``Invalid`` where no image is left, or too few for a single unit.
    """
    checkpoint = checkpoint or NoCheckpoint()
    if not PLANNERS[spec.planner].takes_repeats and (images.repeats != 1).any():
        detail = f"{spec.planner} serves every image once per epoch, but the map has a num_repeats column"
        hint = f"Use planner: {DEFAULT.name}, or put the map without its num_repeats column"
        raise Invalid("planner", detail, hint)
    classification = Classification(spec, images, valid_rows, checkpoint, num_threads)
    classification.run()
    classes = classified(spec, images, classification, classification.pruned)
    classification.move(classes.moves.rows, classes.moves.keys)
    order = checkpoint.array("order", int(classes.members.counts.sum()), np.uint32)
    _sort(classification, classes, order)
    about = {"num_images": images.num_images, "pruned": classification.pruned, **classes.about(images)}
    return Prepared(classes.members, order, about, classes.moves.rows, classes.moves.keys)


@dataclass(frozen=True)
class Classes:
    """``assigned``: the images of each class as they were assigned, which may be none; ``members``: as they are
    planned, after ``moves``, none of them empty. ``tails``: those that the plan has. ``summary``: of the images as they
    were assigned, still to be added."""

    assigned: ImageClasses
    members: ImageClasses
    quotas: SampleQuotas
    moves: Moves
    tails: str
    summary: Summary
    classifier: ImageClassifier

    def about(self, images: Images) -> dict[str, Any]:
        """The share of the stats that takes a pass over the images, JSON-able."""
        moved = {
            "tails": self.tails,
            "moved": self.moves.num_moved,
            "max_extra_crop": self.moves.max_extra_crop,
        }
        found = self.summary.to_json() | moved
        if self.tails == "shift":
            found["flow_crop_loss"] = self._served_losses(images)
        return found

    def _served_losses(self, images: Images) -> dict[str, float]:
        """The mean crop loss of what each bucket has after the moves, as ``Summary`` has that of flows."""
        sums = self.summary.sums.copy()
        sizes = self.summary.sizes
        widths, heights = images.at(self.moves.rows)
        for sign, keys in ((-1, self.moves.own_keys), (1, self.moves.keys)):
            for key in np.unique(keys).tolist():
                is_here = keys == key
                samples = self.assigned.samples[np.searchsorted(self.assigned.keys, key)]
                for bucket, begin, end in self.classifier.ways(key):
                    lost = crop_loss(widths[is_here], heights[is_here], *sizes[bucket])
                    of_all = lost * self.moves.counts[is_here]
                    sums[bucket] += sign * (end - begin) * samples * float(of_all.sum())
        samples_of = self.quotas.bucket_samples()
        return {
            f"{bucket}:{bucket}": max(0.0, float(sums[bucket] / samples_of[bucket]))
            for bucket in np.flatnonzero(samples_of).tolist()
        }


def classified(
    spec: PlanSpec, images: Images, classification: Classification, pruned: dict[str, int]
) -> Classes:
    """The classes of these images, and which images are moved to another. ``pruned``: of all reasons. Raises
    ``Invalid`` where they make no epoch."""
    classifier = classification.classifier
    keys = classification.keys()
    if not len(keys):
        raise none_left(pruned, spec.frame_buckets, images)
    assigned = classifier.groups(keys, classification.counts(keys))
    quotas = SampleQuotas.of(classifier, assigned, spec.num_buckets)
    moves = shift.find(spec, classification, assigned, quotas) if spec.tails == "shift" else None
    if spec.tails == "shift" and moves is None:
        spec = replace(spec, tails=INSTEAD_OF_SHIFT)
    members, of_members = assigned, quotas
    moves = moves or NO_MOVES
    if len(moves.rows):
        keys = np.union1d(keys, moves.keys)
        counts = classification.counts(keys)
        assigned = classifier.groups(keys, counts)
        quotas = SampleQuotas.of(classifier, assigned, spec.num_buckets)
        counts = counts.copy()
        np.subtract.at(counts, np.searchsorted(keys, moves.own_keys), moves.counts)
        np.add.at(counts, np.searchsorted(keys, moves.keys), moves.counts)
        is_there = counts > 0
        members = classifier.groups(keys[is_there], counts[is_there])
        of_members = SampleQuotas.of(classifier, members, spec.num_buckets)
    may_come = bool((members.samples * members.counts >= 1).any())
    flows = PLANNERS[spec.planner].flows(spec, of_members, may_come)
    frames = classifier.frames_of(assigned.keys)[quotas.groups]
    summary = Summary(spec, quotas, [] if spec.tails == "shift" else flows, frames)
    return Classes(assigned, members, of_members, moves, spec.tails, summary, classifier)


def _sort(classification: Classification, classes: Classes, order: NDArray[np.uint32]) -> None:
    """The second pass, a counting sort: each chunk knows from the first where its rows go, so that it does not matter
    in which order, or how often, they are written."""
    begins: list[_I64] = []  # of each chunk and of each of its keys, where its rows go
    members, summary = classes.members, classes.summary
    ends = members.starts
    for chunk in range(classification.num_chunks):
        keys, counts = classification.members(chunk)
        is_there = counts > 0
        at = np.searchsorted(members.keys, keys[is_there])
        begin = np.zeros(len(keys), dtype=np.int64)
        begin[is_there] = ends[at]
        begins.append(begin)
        ends[at] += counts[is_there]

    def fill(chunk: int) -> Summary:
        part = classification.part(chunk)
        rows, keys, sizes = classification.by_key(chunk)
        numbers = (rows + part.start).astype(np.uint32)
        done = 0
        for begin, size in zip(begins[chunk].tolist(), sizes.tolist(), strict=True):
            order[begin : begin + size] = numbers[done : done + size]
            done += size
        of = classification.images.read(part.start, part.stop)
        found = summary.blank()
        _add_as_assigned(found, classes, of, part.start, (rows, keys, sizes))
        return found

    checkpoint = classification.checkpoint
    first = 0
    if "sorted" in classification.state:
        first = int(classification.state["sorted"][0])
        summary.restore(classification.state)
    for done, found in enumerate(
        chunked_passes.in_order(fill, range(first, classification.num_chunks), classification.num_threads),
        first + 1,
    ):
        summary.merge(found)
        progress = {"sorted": np.array([done])}
        checkpoint.keep(partial(_state, classification, summary, progress))
        checkpoint.tell(0.5 + 0.5 * done / classification.num_chunks)


def _state(classification: Classification, summary: Summary, progress: Arrays) -> Arrays:
    return {**classification.arrays(), **summary.arrays(), **progress}


def _add_as_assigned(
    summary: Summary, classes: Classes, chunk: Chunk, begin: int, by_key: tuple[_I64, _I64, _I64]
) -> None:
    """Add the images of a chunk, whose first row is ``begin``, to the summary. ``by_key``: of the classification, after
    the moves: those that moved are few, and are put back among their own."""
    rows, keys, sizes = by_key
    moves = classes.moves
    first, last = np.searchsorted(moves.rows, (begin, begin + len(chunk.widths))).tolist()
    if first < last:
        moved, own, now = moves.rows[first:last] - begin, moves.own_keys[first:last], moves.keys[first:last]
        ends = np.cumsum(sizes)
        places = []
        for index in np.flatnonzero(np.isin(keys, now)).tolist():
            start = int(ends[index] - sizes[index])
            here = moved[now == keys[index]]
            places.append(start + np.searchsorted(rows[start : ends[index]], here))
            sizes[index] -= len(here)
        rows = np.delete(rows, np.concatenate(places))
        order = np.argsort(own, kind="stable")
        own_keys, own_sizes = np.unique(own, return_counts=True)
        of_own = np.searchsorted(classes.assigned.keys, own_keys)
        summary.add(chunk.widths[moved[order]], chunk.heights[moved[order]], of_own, own_sizes)
    is_there = sizes > 0
    at = np.searchsorted(classes.assigned.keys, keys[is_there])
    summary.add(chunk.widths[rows], chunk.heights[rows], at, sizes[is_there])


def check_world_size(planner: Planner, world_size: int) -> None:
    """Raise ``Invalid`` where an epoch has no step for so many ranks."""
    num = planner.least_batches(world_size)
    if num < world_size:
        detail = (
            f"{world_size} ranks are too many: an epoch has {'' if planner.is_steady else 'at least '}{num} "
        )
        detail += "batch" if num == 1 else "batches"
        sure = "" if planner.is_steady else ", the number of batches that every epoch has"
        raise Invalid("world_size", detail, f"It may be at most {num}{sure}")


def new_planner(
    spec: PlanSpec,
    prepared: Prepared,
    images: Images,
    int_ids: NDArray[np.int64] | None = None,
    checkpoints: MutableMapping[tuple[int, int], bytes] | None = None,
) -> Planner:
    """The planner of prepared rows. ``int_ids`` int64 of every row, None where ids are not integers or of several maps;
    ``checkpoints``: where a planner may keep, by (world_size, epoch), what saves it time."""
    return PLANNERS[spec.planner].new(prepared.planned(spec), prepared, images, int_ids, checkpoints)
