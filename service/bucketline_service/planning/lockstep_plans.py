"""One plan under several locksteps. The order of its rows depends on none, so that another planner is arithmetic; but
boundaries that were moved for units of one shape are those of its own lockstep."""

from __future__ import annotations

import threading
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

from cachetools import LRUCache

from bucketline_service.planning.build_plan import new_planner
from bucketline_service.planning.images import Images
from bucketline_service.planning.line.image_classes import ImageClassifier
from bucketline_service.planning.line.sample_quotas import SampleQuotas
from bucketline_service.planning.line.units import least_units
from bucketline_service.planning.plan_spec import MAX_LOCKSTEP, PlanSpec
from bucketline_service.planning.planner_kinds import PLANNERS
from bucketline_service.planning.planner_port import Planner
from bucketline_service.planning.prepared_plan import Prepared

NUM_KEPT = 8
"""Planners that are cached, besides the plan's own."""


class LockstepPlan(NamedTuple):
    """A plan under one lockstep, ``spec.lockstep``, and its planner."""

    spec: PlanSpec
    planner: Planner


def pure_lockstep(world_size: int, own: int, planned_for: int) -> int:
    """The lockstep with which each step of ``world_size`` ranks has one shape, where ``own``, in batches, is meant for
    ``planned_for`` ranks: as many steps of one shape as these have. ``own`` where that does, and where not even the
    ranks that it is meant for have one shape a step."""
    if own % world_size == 0 or own % planned_for:
        return own
    return world_size * (own // planned_for)


class Locksteps:
    """``own``: the planner of ``spec`` itself. Answers depend on the plan and the arguments alone. Thread-safe."""

    def __init__(self, spec: PlanSpec, prepared: Prepared, images: Images, own: Planner) -> None:
        self._own = LockstepPlan(prepared.planned(spec), own)
        self._prepared = prepared
        self._images = images
        self._kept: LRUCache[int, LockstepPlan] = LRUCache(NUM_KEPT)
        self._may: dict[int, bool] = {}
        self._lock = threading.Lock()

    def lockstep_for(self, world_size: int, planned_for: int) -> int:
        """Of an epoch that so many ranks deal from its start, of a plan that is meant for ``planned_for`` ranks: the
        one of ``pure_lockstep``, but the plan's own where such an epoch cannot be planned."""
        spec = self._own.spec
        if not PLANNERS[spec.planner].has_units:
            return spec.lockstep
        if spec.steps == "balanced" and spec.lockstep == planned_for:
            lockstep = world_size  # so that fewer batches than a step are left out
        else:
            lockstep = pure_lockstep(world_size, spec.lockstep, planned_for)
        return lockstep if self.may_be(lockstep) else spec.lockstep

    def may_be(self, lockstep: int) -> bool:
        """Whether every epoch has a unit of so many batches."""
        spec = self._own.spec
        if lockstep == spec.lockstep:
            return True
        if not PLANNERS[spec.planner].has_units or lockstep > MAX_LOCKSTEP:
            return False
        found = self._may.get(lockstep)
        if found is None:
            found = self._may[lockstep] = least_units(self._with(lockstep), self._quotas) > 0
        return found

    def of(self, lockstep: int | None) -> LockstepPlan:
        """None: the plan's own. One that ``may_be``."""
        if lockstep in (None, self._own.spec.lockstep):
            return self._own
        assert lockstep is not None
        with self._lock:
            laid = self._kept.get(lockstep)
            if laid is not None:
                return laid
        spec = self._with(lockstep)
        laid = LockstepPlan(spec, new_planner(spec, self._prepared, self._images))
        with self._lock:
            return self._kept.setdefault(lockstep, laid)

    def _with(self, lockstep: int) -> PlanSpec:
        """The spec with another lockstep. Boundaries that were moved for whole units of the own one make none of it, so
        that what fills no unit has to spill."""
        spec = replace(self._own.spec, lockstep=lockstep)
        return replace(spec, tails="spill") if spec.tails == "shift" and spec.multiple > 1 else spec

    @cached_property
    def _quotas(self) -> SampleQuotas:
        spec = self._own.spec
        return SampleQuotas.of(ImageClassifier(spec, self._images), self._prepared.groups, spec.num_buckets)
