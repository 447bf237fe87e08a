"""A run that is ready to be served: its spec, its plan and its present generation."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace
from functools import cached_property

from bucketline_service.planning.lockstep_plans import LockstepPlan
from bucketline_service.plans.plan_store import Plan
from bucketline_service.runs.run_document import RunDocument
from bucketline_service.runs.sharding import Sharding
from bucketline_service.spec.run_spec import RunSpec
from bucketline_service.store.port import Cursor, Generation


def new_birth() -> str:
    """A random id for a new generation; no other generation has it."""
    return secrets.token_hex(8)


@dataclass(frozen=True)
class Run:
    """A run with its plan, under one generation. ``encoded``: the document as the store has it.

    The run may have been deleted and created again since it was read. So results computed with it may only be passed
    to verbs of the store that compare the generation's id.
    """

    name: str
    document: RunDocument
    encoded: bytes
    plan: Plan
    generation: Generation

    @property
    def spec(self) -> RunSpec:
        return self.document.spec

    @cached_property
    def sharding(self) -> Sharding:
        """How the present generation shards each epoch. The first use may have to make a planner, which takes a while
        with thousands of image classes."""
        epoch = self.generation.origin.epoch
        return Sharding.of(
            self.laid(epoch + 1).planner, self.generation, self.spec.epochs, self.laid(epoch).planner
        )

    def lockstep_for(self, world_size: int) -> int:
        """The lockstep of an epoch that ``world_size`` ranks begin at its start."""
        return self.plan.locksteps.lockstep_for(world_size, self.spec.world_size)

    def laid(self, epoch: int) -> LockstepPlan:
        """The plan of the epoch's stream under the present generation: its spec, with its lockstep, and its planner."""
        lockstep = self.generation.lockstep
        if lockstep is not None and epoch != self.generation.origin.epoch:
            lockstep = self.lockstep_for(self.generation.world_size)
        return self.plan.locksteps.of(lockstep)

    def lockstep(self, epoch: int) -> int | None:
        """The lockstep of the epoch's stream; None if the planner has none."""
        return self.laid(epoch).spec.lockstep if self.spec.planner_kind.has_units else None

    def sharded_to(self, world_size: int | None) -> Run:
        """The run as ``world_size`` ranks would train it, each epoch from its start; None: under the present
        generation."""
        if world_size is None:
            return self
        lockstep = self.lockstep_for(world_size)
        start = replace(self.generation, world_size=world_size, origin=Cursor(0, 0), offset=0)
        return replace(self, generation=replace(start, lockstep=lockstep))
