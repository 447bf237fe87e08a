"""The ``line`` planner: everything per epoch is arithmetic on units of ``lockstep`` batches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning.assignment_stats import tails
from bucketline_service.planning.images import Images
from bucketline_service.planning.line import units
from bucketline_service.planning.line.image_classes import ImageClassifier
from bucketline_service.planning.line.planner import LinePlanner
from bucketline_service.planning.line.remainders import Layout
from bucketline_service.planning.line.sample_quotas import SampleQuotas
from bucketline_service.planning.pack_stats import pack_stats
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
        lambda counts: units.dealing_of(spec, counts),
        lockstep=spec.lockstep,
        seed=spec.seed,
        find=lambda row: prepared.find(classifier, images, row),
        shows_largest_first=spec.first == "largest",
        least_units=units.least_units(spec, quotas),
    )


def _flows(spec: PlanSpec, quotas: SampleQuotas, may_come: bool) -> Flows:
    units.check_units(spec, quotas, may_come)
    if spec.packing is not None:
        return []  # an image has its own size in every slot
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
    tape = planner.dealt(epoch).tape
    num_batches = planner.num_batches(epoch, world_size)
    num_dealt = num_batches - num_batches % world_size
    # every place of a stretch is served as often as any other, and every batch is dealt as often as any other
    shares = np.minimum(tape.served / np.maximum(tape.lengths, 1), 1.0) * num_dealt / num_batches
    # int64[F], of which shares[targets] are served
    buckets, targets, sizes = np.array(tape.flows(), dtype=np.int64).reshape(-1, 3).T
    made = EpochServed(
        planner.dealt(epoch).kinds.num_batches,
        tape.served,
        [],
        planner.num_served(epoch, num_dealt),
        int(tape.left_out.sum()) + planner.num_only_after(epoch, num_dealt),
        0,
        planner.imbalance(epoch, world_size),
    )
    if spec.packing is not None:
        served = np.bincount(buckets, sizes * shares[targets], minlength=spec.num_buckets).astype(np.float64)
        members = quotas.members(prepared.groups.counts)
        dealt, stream = planner.dealt(epoch), planner.stream(epoch)
        about = pack_stats(spec.packing, dealt, stream, world_size, served, members, prepared.summary)
        return made._replace(packs=about)
    assert isinstance(tape, Layout)
    is_spilled = targets != buckets
    return made._replace(
        num_batches=tape.num_batches,
        tails=tails(spec, tape, prepared.summary, units.in_service(spec, quotas)),
        spilled=round(float((sizes * shares[targets])[is_spilled].sum())),
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
