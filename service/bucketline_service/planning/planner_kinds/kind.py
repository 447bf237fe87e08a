"""What a registered planner states about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning.images import Images
from bucketline_service.planning.line.sample_quotas import SampleQuotas
from bucketline_service.planning.plan_spec import PlanSpec
from bucketline_service.planning.planner_port import Planner
from bucketline_service.planning.prepared_plan import Prepared

_I64 = NDArray[np.int64]
Checkpoints = MutableMapping[tuple[int, int], bytes]
Flows = list[tuple[int, int, int]]


class EpochServed(NamedTuple):
    """What an epoch serves, as an epoch is dealt from its start. ``num_batches``, ``num_images`` int64[G] of each
    target; ``tails``: of each target what becomes of its bucket's remainder, JSON-able. ``num_served``: samples dealt;
    ``dropped``: samples not served, None: all others. ``spilled``: images served outside their own bucket. ``packs``:
    what the epoch's packs are and hold, JSON-able, None without packs; with them ``num_batches`` is int64[J] of each
    kind, and there are no ``tails``."""

    num_batches: _I64
    num_images: _I64
    tails: list[dict[str, Any]]
    num_served: int
    dropped: int | None
    spilled: int
    step_imbalance: float
    packs: dict[str, Any] | None = None


@dataclass(frozen=True)
class PlannerKind:
    """One planner. Functions take the plan spec first.

    ``new``: the planner of prepared rows, with ``int_ids`` int64 of every row where there are such, and a mapping from
    (world_size, epoch) in which it may keep what saves time.
    ``flows``: (bucket, target, samples) of epoch 0, empty where that is known only once an epoch is planned; the flag
    says whether every epoch would have an image if all lengths kept all of their clips. Raises ``Invalid`` where an
    epoch may have no batch.
    ``served``: what an epoch serves, for so many ranks.
    """

    name: str
    new: Callable[[PlanSpec, Prepared, Images, _I64 | None, Checkpoints | None], Planner]
    flows: Callable[[PlanSpec, SampleQuotas, bool], Flows]
    served: Callable[[PlanSpec, Prepared, Images, SampleQuotas, Planner, int, int], EpochServed]

    has_units: bool
    """Whether the stream consists of units of ``lockstep`` batches, so that the same rows make a plan of any lockstep.
    """
    takes_repeats: bool
    """Whether images may come more or less often than once in an epoch."""
    takes_several_maps: bool
    resizes_within_epoch: bool
    """Whether another number of ranks can resume inside an epoch."""
    counts_from_sizes: bool
    """Whether the stats of an epoch need only the distinct sizes of the images, and no ids."""
    keeps_ladder_order: bool
    """Whether buckets keep the order of their ladder, where of those of one aspect the first is taken; otherwise they
    are sorted by aspect."""

    implies: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the run spec that have one value with this planner, which may be left out. Any other is refused."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the run spec whose default is this planner's own."""
