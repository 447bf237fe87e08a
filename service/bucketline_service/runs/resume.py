"""Where a session begins: from a state dict, the slowest rank's cursor or epoch 0 to the next generation. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypedDict

from bucketline_service.errors import Invalid
from bucketline_service.runs.registry import Run
from bucketline_service.store.port import MAX_WORLD_SIZE, Cursor, Generation


class _Place(TypedDict):
    run: str
    fingerprint: str
    epoch: int
    step: int
    offset: int
    world_size: int


class StateDict(_Place, total=False):
    """What a checkpoint keeps. ``offset``: batches of the epoch's stream that the whole job has consumed. ``lockstep``:
    with which that stream is laid out; the plan's own where it is not there, as in those that were saved before there
    was another. ``start``: the id of the generation in which it was saved, where that has one."""

    lockstep: int
    start: str


@dataclass(frozen=True)
class Start:
    """A generation that may begin. ``rolled_over``: where it begins with the epoch after the state's, how many batches
    of that were left, fewer than a step of all ranks; None where it does not."""

    generation: Generation
    rolled_over: int | None = None


def state_dict(run: Run, cursor: Cursor) -> StateDict:
    state = StateDict(
        run=run.name,
        fingerprint=run.document.fingerprint,
        epoch=cursor.epoch,
        step=cursor.step,
        offset=run.sharding.consumed(cursor),
        world_size=run.generation.world_size,
    )
    lockstep = run.lockstep(cursor.epoch)
    if lockstep is not None:
        state["lockstep"] = lockstep
    if run.generation.birth:
        state["start"] = run.generation.birth
    return state


def next_start(run: Run, session: str, world_size: int, state: StateDict | None, *, birth: str) -> Start:
    """The generation after the present one, beginning where ``state``, of the same plan, says, or at epoch 0.
    ``birth`` is the new generation's own."""
    check_size(run, world_size)
    own, after = run.plan.spec.lockstep, run.lockstep_for(world_size)

    def begin(origin: Cursor, offset: int = 0, lockstep: int = after) -> Generation:
        kept = None if lockstep == after == own else lockstep
        return Generation(run.generation.number + 1, session, world_size, origin, offset, birth, kept)

    if state is None:
        return Start(begin(Cursor(0, 0)))
    left = _check_state(run, state)
    origin, offset, before = Cursor(state["epoch"], state["step"]), state["offset"], state["world_size"]
    if left == 0:
        return Start(begin(Cursor(origin.epoch + 1, 0)), 0)
    is_other_deal = world_size != before or offset != origin.step * before
    if offset and is_other_deal and not run.spec.planner_kind.resizes_within_epoch:
        raise Invalid(
            "world_size",
            f"planner {run.spec.planner} deals an epoch to the ranks that it begins with, {before}, not {world_size}",
            f"Finish epoch {origin.epoch} with {before} ranks, or resume at its start (step 0, offset 0); "
            "planner line changes at any step",
        )
    # a stream that has begun stays as it is laid out; one that begins is laid out for these ranks
    new = begin(origin, offset, state.get("lockstep", own)) if offset else begin(origin)
    begins = replace(run, generation=new).sharding.normal(origin)
    if begins.epoch != origin.epoch:
        return Start(begin(begins), left)
    return Start(new)


def rolled_over(run: Run, state: StateDict) -> int | None:
    """``Start.rolled_over`` once more, for the present generation. It may have begun from another state: then these are
    as many as a step of all ranks, or more."""
    if run.generation.origin != Cursor(state["epoch"] + 1, 0):
        return None
    return _check_state(run, state)


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
    end = run.sharding.end_epoch
    if epoch > end or (epoch == end and (step or offset)):
        raise Invalid("resume.epoch", f"{epoch} is past the end of the run", f"It has {end} epochs")
    lockstep = state.get("lockstep")
    if lockstep is not None and not run.plan.locksteps.may_be(lockstep):
        hint = "Give the state dict as it was saved"
        raise Invalid("resume.lockstep", f"no epoch of this plan can have lockstep {lockstep}", hint)
    try:
        num = run.plan.locksteps.of(lockstep).planner.num_batches(epoch, state["world_size"])
    except Invalid as error:
        raise Invalid(f"resume.{error.field}", error.detail) from error
    if offset > num or offset < step or (step == 0) != (offset == 0):
        raise Invalid(
            "resume.offset",
            f"offset {offset} does not go with step {step} in an epoch of {num} batches",
            "Each step consumes world_size batches of the stream. Give the state dict as it was saved",
        )
    return num - offset
