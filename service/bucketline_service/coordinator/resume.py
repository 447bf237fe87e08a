"""Where a session begins: from a state dict, the slowest rank's cursor or epoch 0 to the next generation. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

from bucketline_service.coordinator.deal import Deal
from bucketline_service.coordinator.runs import Run
from bucketline_service.errors import Invalid
from bucketline_service.state.port import MAX_WORLD_SIZE, Cursor, Generation


class StateDict(TypedDict):
    """What a checkpoint keeps. ``offset``: batches of the epoch's stream that the whole job has consumed."""

    run: str
    fingerprint: str
    epoch: int
    step: int
    offset: int
    world_size: int


@dataclass(frozen=True)
class Start:
    """A generation that may begin. ``rolled_over``: batches of the state's epoch that were fewer than a step of all
    ranks, so that the generation begins in the next epoch."""

    generation: Generation
    rolled_over: int


def state_dict(run: Run, cursor: Cursor) -> StateDict:
    return StateDict(
        run=run.name,
        fingerprint=run.document.fingerprint,
        epoch=cursor.epoch,
        step=cursor.step,
        offset=run.deal.consumed(cursor),
        world_size=run.generation.world_size,
    )


def next_start(run: Run, session: str, world_size: int, state: StateDict | None) -> Start:
    """The generation after the present one, beginning where ``state``, of the same plan, says, or at epoch 0."""
    check_size(run, world_size)

    def begin(origin: Cursor, offset: int) -> Generation:
        return Generation(
            run.generation.number + 1, session, world_size, origin, offset, run.generation.birth
        )

    if state is None:
        return Start(begin(Cursor(0, 0), 0), 0)
    left = _check_state(run, state)
    origin, offset, before = Cursor(state["epoch"], state["step"]), state["offset"], state["world_size"]
    if left == 0:
        return Start(begin(Cursor(origin.epoch + 1, 0), 0), 0)
    if run.spec.planner == "novelai" and offset and (world_size != before or offset != origin.step * before):
        raise Invalid(
            "world_size",
            f"planner novelai deals an epoch to the ranks that it begins with, {before}, not {world_size}",
            f"Finish epoch {origin.epoch} with {before} ranks, or resume at its start (step 0, offset 0); "
            "planner line changes at any step",
        )
    new = begin(origin, offset)
    begins = Deal.of(run.plan.planner, new, run.spec.epochs).normal(origin)
    if begins.epoch != origin.epoch:
        return Start(begin(begins, 0), left)
    return Start(new, 0)


def rolled_over(run: Run, state: StateDict) -> int:
    """``Start.rolled_over`` once more, for the present generation, where it began from this state."""
    if run.generation.origin != Cursor(state["epoch"] + 1, 0):
        return 0
    left = _check_state(run, state)
    return left if left < run.generation.world_size else 0


def check_size(run: Run, world_size: int) -> None:
    num = run.plan.planner.least_batches(world_size)
    if not 0 < world_size <= min(num, MAX_WORLD_SIZE):
        raise Invalid(
            "world_size",
            f"{world_size} ranks, and an epoch has {num} batches",
            f"It may be 1 to {min(num, MAX_WORLD_SIZE)}",
        )


def _check_state(run: Run, state: StateDict) -> int:
    """How many batches of its epoch's stream a state leaves. Raises where it can not be one of this run."""
    epoch, step, offset = state["epoch"], state["step"], state["offset"]
    end = run.deal.end_epoch
    if epoch > end or (epoch == end and (step or offset)):
        raise Invalid("resume.epoch", f"{epoch} is past the end of the run", f"It has {end} epochs")
    try:
        num = run.plan.planner.num_batches(epoch, state["world_size"])
    except Invalid as error:
        raise Invalid(f"resume.{error.field}", error.detail) from error
    if offset > num or offset < step or (step == 0) != (offset == 0):
        raise Invalid(
            "resume.offset",
            f"offset {offset} does not go with step {step} in an epoch of {num} batches",
            "Each step consumes world_size batches of the stream. Give the state dict as it was saved",
        )
    return num - offset
