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
        costs=spec.costs,
        shapes=units.shape_numbers(spec),
        lockstep=spec.lockstep,
        seed=spec.seed,
        find=lambda row: prepared.find(classifier, images, row),
        largest_first=units.largest_first(spec) if spec.first == "largest" else [],
        fills=spec.last_step == "fill",
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
        layout.num_batches,
        layout.served,
        tails(spec, layout, prepared.summary, units.in_service(spec, quotas)),
        planner.num_served(epoch, num_dealt),
        int(layout.left_out.sum()) + planner.num_only_after(epoch, num_dealt),
        round(spilled),
        planner.imbalance(epoch, world_size),
    )


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
