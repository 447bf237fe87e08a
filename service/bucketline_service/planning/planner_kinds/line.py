"""The ``line`` planner: everything per epoch is arithmetic on units of ``lockstep`` batches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning.assignment_stats import tails
from bucketline_service.planning.images import Images
from bucketline_service.planning.line import units
from bucketline_service.planning.line.image_classes import ImageClassifier
from bucketline_service.planning.line.planner import LinePlanner
from bucketline_service.planning.line.sample_quotas import SampleQuotas
from bucketline_service.planning.plan_spec import PlanSpec
from bucketline_service.planning.planner_kinds.kind import Checkpoints, EpochServed, Flows, PlannerKind
from bucketline_service.planning.planner_port import Planner
from bucketline_service.planning.prepared_plan import Prepared

_I64 = NDArray[np.int64]


def _new(
    spec: PlanSpec, prepared: Prepared, images: Images, int_ids: _I64 | None, checkpoints: Checkpoints | None
) -> Planner:
    classifier = ImageClassifier(spec, images)
    quotas = SampleQuotas.of(classifier, prepared.groups, spec.num_buckets)
    return LinePlanner(
        prepared.order,
        prepared.groups,
        quotas,
        lambda counts: units.layout_of(spec, counts),
        batch_sizes=spec.batch_sizes,
        lockstep=spec.lockstep,
        seed=spec.seed,
        find=lambda row: prepared.find(classifier, images, row),
        largest_first=units.largest_first(spec) if spec.first == "largest" else [],
        least_units=units.least_units(spec, quotas),
    )


def _flows(spec: PlanSpec, quotas: SampleQuotas, may_come: bool) -> Flows:
    units.check_units(spec, quotas, may_come)
    return units.layout_of(spec, quotas.cuts(spec.seed, 0).counts).flows()


def _served(
    spec: PlanSpec,
    prepared: Prepared,
    images: Images,
    quotas: SampleQuotas,
    planner: Planner,
    epoch: int,
    world_size: int,
) -> EpochServed:
    assert isinstance(planner, LinePlanner)
    layout = planner.layout(epoch)
    num_batches = planner.num_batches(epoch, world_size)
    num_dealt = num_batches - num_batches % world_size
    # every place of a stretch is served as often as any other, and every batch is dealt as often as any other
    shares = np.minimum(layout.served / np.maximum(layout.lengths, 1), 1.0) * num_dealt / num_batches
    spilled = sum(size * float(shares[target]) for bucket, target, size in layout.flows() if target != bucket)
    return EpochServed(
        layout.num_units * spec.lockstep,
        tails(spec.num_buckets, layout, prepared.summary, spec.targets, units.in_service(spec, quotas)),
        planner.num_served(epoch, num_dealt),
        planner.num_only_after(epoch, num_dealt) if spec.tails == "pad" else None,
        round(spilled),
        expected_imbalance(spec.pixels, layout.num_units, planner.spans(epoch, 0, world_size)),
    )


def expected_imbalance(pixels: _I64, num_units: _I64, spans: _I64) -> float:
    """``step_imbalance`` of units in uniformly random order. ``pixels`` int64[G] of a batch and ``num_units`` int64[G]
    of each target; ``spans[k]``: how many steps span k units.

    A step's slowest rank has the largest of the k units. These are any k of the n, and with c units of p pixels or
    fewer the chance that none is larger is C(c, k) / C(n, k).
    """
    there = num_units > 0
    values, at = np.unique(pixels[there], return_inverse=True)
    below = np.cumsum(np.bincount(at, weights=num_units[there])).astype(np.int64)
    num = int(below[-1])
    mean = float((pixels * num_units).sum() / num)
    if len(values) == 1 or not spans[2:].any():
        return 1.0
    largest = 0.0
    for k in np.flatnonzero(spans).tolist():
        drawn = np.arange(k)
        chances = [float(np.prod(np.maximum(c - drawn, 0) / (num - drawn))) for c in below.tolist()]
        largest += int(spans[k]) * float((np.diff(chances, prepend=0.0) * values).sum())
    return largest / (mean * int(spans.sum()))


LINE = PlannerKind(
    name="line",
    new=_new,
    flows=_flows,
    served=_served,
    has_units=True,
    takes_repeats=True,
    takes_several_maps=True,
    resizes_within_epoch=True,
    counts_from_sizes=True,
    keeps_ladder_order=False,
)
