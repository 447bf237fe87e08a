"""Where a session resumes: from a state dict or the slowest rank's cursor to the next generation. Pure arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypedDict

from bucketline_service.errors import Invalid
from bucketline_service.runs.run import Run
from bucketline_service.store.port import MAX_WORLD_SIZE, Cursor, Generation

_AS_SAVED = "Pass the state dict as it was saved"


class _Place(TypedDict):
    run: str
    fingerprint: str
    epoch: int
    step: int
    offset: int
    world_size: int


class StateDict(_Place, total=False):
    """What a checkpoint keeps. ``offset``: batches of the epoch's stream that the whole job has consumed. ``lockstep``:
    that of the stream; absent in older state dicts, for which it is the plan's own. ``start``: the id of the generation
    in which it was saved, if that has one."""

    lockstep: int
    start: str


@dataclass(frozen=True)
class Start:
    """A generation that may begin. ``rolled_over``: if it begins with the epoch after the state dict's, how many
    batches of the state dict's epoch were left, fewer than a step of all ranks; else None."""

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
    """The generation after the present one. It begins where ``state``, of the same plan, stands, or at epoch 0.
    ``birth``: the id of the new generation. Raises ``Invalid`` if it cannot begin there with ``world_size`` ranks."""
    check_size(run, world_size)
    own, fresh = run.plan.spec.lockstep, run.lockstep_for(world_size)

    def begin(origin: Cursor, offset: int = 0, lockstep: int = fresh) -> Generation:
        stored = None if lockstep == fresh == own else lockstep
        return Generation(run.generation.number + 1, session, world_size, origin, offset, birth, stored)

    if state is None:
        return Start(begin(Cursor(0, 0)))
    num_left = _check_state(run, state)
    origin, offset = Cursor(state["epoch"], state["step"]), state["offset"]
    if num_left == 0:
        return Start(begin(Cursor(origin.epoch + 1, 0)), rolled_over=0)
    if not offset:
        generation = begin(origin)
    else:
        _check_resizable(run, state, world_size)
        # a stream that has begun keeps its lockstep; the epochs after it have that of the new number of ranks
        generation = begin(origin, offset, state.get("lockstep", own))
    first = replace(run, generation=generation).sharding.normal(origin)
    if first.epoch != origin.epoch:  # what is left does not fill a step
        return Start(begin(first), rolled_over=num_left)
    return Start(generation)


def _check_resizable(run: Run, state: StateDict, world_size: int) -> None:
    """Raise ``Invalid`` if the planner shards an epoch by its number of ranks and that changes within the epoch."""
    before, is_changed = state["world_size"], state["offset"] != state["step"] * state["world_size"]
    if (world_size != before or is_changed) and not run.spec.planner_kind.resizes_within_epoch:
        raise Invalid(
            "world_size",
            f"must be {before} until epoch {state['epoch']} ends, got {world_size}: planner {run.spec.planner} shards "
            "an epoch by the number of ranks that begin it",
            f"Finish epoch {state['epoch']} with {before} ranks, or resume at its start (step 0, offset 0). Planner "
            "line accepts another number of ranks at any step",
        )


def rolled_over(run: Run, state: StateDict) -> int | None:
    """``Start.rolled_over``, computed again for the present generation. The generation may have begun from another
    state dict: then the result may be as large as a step of all ranks, or larger."""
    if run.generation.origin != Cursor(state["epoch"] + 1, 0):
        return None
    return _check_state(run, state)


def check_size(run: Run, world_size: int) -> None:
    """Raise ``Invalid`` unless every epoch has a step with so many ranks."""
    most = min(run.plan.planner.least_batches(world_size), MAX_WORLD_SIZE)
    if not 0 < world_size <= most:
        raise Invalid(
            "world_size", f"must be 1 to {most}, the number of batches in an epoch, got {world_size}"
        )


def _check_state(run: Run, state: StateDict) -> int:
    """How many batches of its epoch's stream a state dict leaves. Raises ``Invalid`` if it cannot be of this run."""
    epoch, step, offset = state["epoch"], state["step"], state["offset"]
    end = run.sharding.end_epoch
    if epoch > end or (epoch == end and (step or offset)):
        raise Invalid("resume.epoch", f"must be at most {end}, the number of epochs of the run, got {epoch}")
    lockstep = state.get("lockstep")
    if lockstep is not None and not run.plan.locksteps.may_be(lockstep):
        raise Invalid("resume.lockstep", f"no epoch of this plan can have lockstep {lockstep}", _AS_SAVED)
    try:
        num = run.plan.locksteps.of(lockstep).planner.num_batches(epoch, state["world_size"])
    except Invalid as error:
        raise Invalid(f"resume.{error.field}", error.detail) from error
    if offset > num or offset < step or (step == 0) != (offset == 0):
        raise Invalid(
            "resume.offset",
            f"offset {offset} does not match step {step} in an epoch of {num} batches",
            f"Each step consumes world_size batches of the stream. {_AS_SAVED}",
        )
    return num - offset
