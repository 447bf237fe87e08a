"""From a spec and the sizes of images to a planner: assign once, sort once, then everything is arithmetic."""

from __future__ import annotations

from collections.abc import MutableMapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bucketline_service.errors import Invalid
from bucketline_service.planning import chunked_passes
from bucketline_service.planning.assignment_stats import Summary
from bucketline_service.planning.images import Images
from bucketline_service.planning.line.classify import Arrays, Checkpoint, Classification, NoCheckpoint
from bucketline_service.planning.line.image_classes import ImageClasses, ImageClassifier, none_left
from bucketline_service.planning.line.sample_quotas import SampleQuotas
from bucketline_service.planning.plan_spec import PlanSpec
from bucketline_service.planning.planner_kinds import DEFAULT, PLANNERS
from bucketline_service.planning.planner_port import Planner
from bucketline_service.planning.prepared_plan import Prepared

VERSION = 2
"""Part of every fingerprint: raise it where the same spec would plan otherwise."""

VERSION_BY_SIZE = 3
"""The same for plans that choose among buckets of one aspect by size (``PlanSpec.same_aspect``). Those of before took
the first, and are of ``VERSION``."""

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
    groups = classification.classifier.groups(classification.keys, classification.counts)
    summary = new_summary(spec, images, classification.classifier, groups, classification.pruned)
    order = checkpoint.array("order", int(groups.counts.sum()), np.uint32)
    _sort(classification, groups, summary, order)
    about = {"num_images": images.num_images, "pruned": classification.pruned, **summary.to_json()}
    return Prepared(groups, order, about)


def _sort(
    classification: Classification, groups: ImageClasses, summary: Summary, order: NDArray[np.uint32]
) -> None:
    """The second pass, a counting sort: each chunk knows from the first where its rows go, so that it does not matter
    in which order, or how often, they are written."""
    begins: list[_I64] = []
    ends = groups.starts
    for keys, counts in classification.chunks:
        at = np.searchsorted(groups.keys, keys)
        begins.append(ends[at])
        ends[at] += counts

    def fill(chunk: int) -> Summary:
        part = classification.part(chunk)
        rows, at, sizes = classification.by_group(chunk)
        numbers = (rows + part.start).astype(np.uint32)
        begin = 0
        for first, size in zip(begins[chunk].tolist(), sizes.tolist(), strict=True):
            order[first : first + size] = numbers[begin : begin + size]
            begin += size
        of = classification.images.read(part.start, part.stop)
        found = summary.blank()
        found.add(of.widths[rows], of.heights[rows], at, sizes)
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


def new_summary(
    spec: PlanSpec, images: Images, classifier: ImageClassifier, groups: ImageClasses, pruned: dict[str, int]
) -> Summary:
    """What sums up these images. Raises ``Invalid`` where they make no epoch."""
    if not len(groups.keys):
        raise none_left(pruned, spec.frame_buckets, images)
    quotas = SampleQuotas.of(classifier, groups, spec.num_buckets)
    may_come = bool((groups.samples * groups.counts >= 1).any())
    flows = PLANNERS[spec.planner].flows(spec, quotas, may_come)
    return Summary(spec.targets, spec.aspects, quotas, flows)


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
    return PLANNERS[spec.planner].new(spec, prepared, images, int_ids, checkpoints)
