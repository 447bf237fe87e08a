"""A whole job that stops, continues elsewhere and stops again. Every start is the real coordinator's, and what it hands
out is compared with one number, the first position of the epoch's stream that nobody has had yet. The layout of that
stream is compared with that of another run, which was put with that lockstep."""

from __future__ import annotations

import asyncio
import csv
import io
import itertools
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from bucketline_service.coordinator import Coordinator, RunSpec
from bucketline_service.errors import Invalid
from bucketline_service.maps import MapStore, RequestedColumns
from bucketline_service.observability.metrics import Metrics
from bucketline_service.plans.plan_store import PlanStore
from bucketline_service.runs.delivery import NextRequest
from bucketline_service.runs.resume import StateDict, state_dict
from bucketline_service.runs.run import Run
from bucketline_service.runs.sessions import Session
from bucketline_service.runs.sharding import Span
from bucketline_service.store import open_store
from bucketline_service.store.port import Cursor

T = TypeVar("T")
Counts = NDArray[np.int64]


class Desk:
    """One coordinator without HTTP, and its runs. Image ids are row numbers."""

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.new_event_loop()
        metrics = Metrics()
        shelf = PlanStore(folder / "plans", metrics.plan_seconds.observe)
        store = open_store(f"sqlite:///{folder / 'state.sqlite'}")
        self.coordinator = Coordinator(store, MapStore(folder / "maps"), shelf, metrics)
        self._folder = folder
        self._runs: dict[str, str] = {}
        self._specs: dict[str, dict[str, Any]] = {}
        self._counts: dict[tuple[str, int, int], Counts] = {}
        self._names = map(str, itertools.count())

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(coroutine)

    def close(self) -> None:
        self.wait(self.coordinator.close())
        self._loop.close()

    def put_map(self, name: str, num_images: int) -> None:
        rows = (f"{i},{512 + 64 * (i % 7 % 4)},{512 + 64 * (i % 3)}\n" for i in range(num_images))
        path = self._folder / f"{name}.csv"
        path.write_text("id,width,height\n" + "".join(rows))
        self.wait(self.coordinator.put_map(name, path, "csv", RequestedColumns()))

    def run(self, **spec: Any) -> str:
        """The run of a spec; it is put when it is asked for first."""
        key = repr(sorted(spec.items()))
        if key not in self._runs:
            name = f"run-{len(self._specs)}"
            self.wait(self.coordinator.runs.put(name, RunSpec(**spec)))
            self._runs[key], self._specs[name] = name, spec
        return self._runs[key]

    def with_lockstep(self, run: str, lockstep: int) -> str:
        """A run that differs from another in that. Raises ``Invalid`` where there can be none."""
        spec = {**self._specs[run], "world_size": 1, "lockstep": lockstep}
        spec.pop("gradient_accumulation_steps", None)
        return self.run(**spec)

    def open(self, run: str) -> Run:
        return self.wait(self.coordinator.runs.open(run, wait_s=60.0))

    def start(self, run: str, world_size: int, resume: Literal["cursor", "start"] | StateDict) -> Session:
        """Under a new name. Every later call of the same start gets the same answer."""
        name = next(self._names)
        answers = [self.wait(self.coordinator.sessions.start(run, name, world_size, resume)) for _ in "12"]
        if isinstance(resume, dict):  # for a start at the cursor, what is rolled over is reported once
            assert answers[0].left_out_batches == answers[1].left_out_batches
            assert answers[0].rolled_over_batches == answers[1].rolled_over_batches
        alike = [replace(each, left_out_batches=0, rolled_over_batches=None, run=None) for each in answers]  # type: ignore[arg-type]
        assert alike[0] == alike[1]
        assert answers[0].run.generation == answers[1].run.generation
        return answers[0]

    def acknowledge(self, run: str, acks: Iterable[Cursor | None]) -> None:
        """The last step that each rank has done."""
        delivery = self.coordinator.delivery
        for rank, ack in enumerate(acks):
            lease = self.wait(delivery.lease(run, rank, "me", None)).record.lease
            self.wait(delivery.next(run, NextRequest(rank, lease, ack=ack)))

    def declared(self, run: str, epoch: int, world_size: int) -> Counts:
        """int64[N]: how often the epoch serves each image to so many ranks from its start on, as the ledger has it."""
        key = run, epoch, world_size
        if key not in self._counts:
            self._counts[key] = self._asked(run, epoch) + self._ledger(run, epoch, world_size)
        return self._counts[key]

    def declared_now(self, run: str, epoch: int) -> Counts:
        """The same to the ranks that the run has now, in the epoch's own layout."""
        return self._asked(run, epoch) + self._ledger(run, epoch, None)

    def _asked(self, run: str, epoch: int) -> Counts:
        opened = self.open(run)
        num_images = opened.plan.sources.images.num_images
        asked = np.ones(num_images, dtype=np.int64)
        if opened.spec.times != 1:  # one by one: the planner is asked of an image at a time
            asked[:] = [opened.plan.planner.num_asked(epoch, row) for row in range(num_images)]
        return asked

    def _ledger(self, run: str, epoch: int, world_size: int | None) -> Counts:
        sheet = self.wait(self.coordinator.ledger_export.get(run, epoch, epoch, world_size, "csv"))
        found = np.zeros(self.open(run).plan.sources.images.num_images, dtype=np.int64)
        for row in csv.DictReader(io.StringIO(b"".join(sheet.pieces).decode())):
            if row["what"] != "pruned":
                found[int(row["id"])] += int(row["num"]) * (1 if row["what"] == "repeated" else -1)
        return found


@dataclass(frozen=True)
class Tape:
    """What of the stream the job has had, by the checkpoints that counted. ``position``: the first of ``epoch`` that
    nobody had. ``lockstep``: of those who began the epoch. ``had``: positions in order, by epoch. ``ended``: of each
    epoch that is over, how many batches its last start had declared that it would leave out, to how many ranks that
    was, and its lockstep."""

    epoch: int = 0
    step: int = 0
    position: int = 0
    lockstep: int = 0
    had: dict[int, list[Counts]] = field(default_factory=dict)
    ended: dict[int, tuple[int, int, int]] = field(default_factory=dict)

    def on(self, positions: Counts, num_steps: int) -> Tape:
        had = {**self.had, self.epoch: [*self.had.get(self.epoch, []), positions]}
        return replace(self, step=self.step + num_steps, position=self.position + len(positions), had=had)

    def end(self, left_out: int, world_size: int) -> Tape:
        """The epoch is over."""
        ended = {**self.ended, self.epoch: (left_out, world_size, self.lockstep)}
        return replace(self, epoch=self.epoch + 1, step=0, position=0, lockstep=0, ended=ended)


class Job:
    """``tape`` after each ``start`` and ``go``; ``run`` is the run under the start's generation."""

    def __init__(self, desk: Desk, name: str) -> None:
        self._desk = desk
        self.name = name
        self.tape = Tape()
        self.start(desk.open(name).spec.world_size, "start", Tape())

    @property
    def planner(self) -> Any:
        return self.run.plan.planner

    @property
    def is_over(self) -> bool:
        return self.tape.epoch == self.run.spec.epochs

    @property
    def steps_left(self) -> int:
        """Of the epoch, under the present start."""
        return (self._num(self.tape) - self.tape.position) // self.world_size

    def _num(self, tape: Tape) -> int:
        return int(self._planner(tape.lockstep).num_batches(tape.epoch, self.world_size))

    def _planner(self, lockstep: int) -> Any:
        """That of a plan that was made with this lockstep; 0: the run's own."""
        if lockstep in (0, self.run.plan.spec.lockstep):
            return self.planner
        return self._desk.open(self._desk.with_lockstep(self.name, lockstep)).plan.planner

    def _begin(self, tape: Tape) -> Tape:
        """At an epoch's start: with the lockstep that makes its steps pure, or of about one cost."""
        own, size, spec = self.run.plan.spec.lockstep, self.world_size, self.run.spec
        lockstep = self.run.lockstep(tape.epoch)
        if spec.planner == "novelai":
            assert lockstep is None
            return tape
        units, rest = divmod(own, spec.world_size)
        is_apt = own % size == 0 and (spec.steps == "same_shape" or own != spec.world_size)
        wanted = own if rest or is_apt else size * units
        if lockstep != wanted:
            assert lockstep == own
            # an epoch has as many batches as a step has ranks, so that balanced steps have a unit of as many
            assert spec.steps == "same_shape" or units != 1
            with pytest.raises(Invalid):  # there is no such plan
                self._desk.with_lockstep(self.name, wanted)
        return replace(tape, lockstep=lockstep)

    def start(self, world_size: int, resume: Literal["cursor", "start"] | StateDict, tape: Tape) -> None:
        """Go on from where ``tape`` says, and hold the answer against it."""
        session = self._desk.start(self.name, world_size, resume)
        # an epoch that has begun is as long as those have it who began it
        of = (
            self.world_size if resume == "cursor" else resume["world_size"] if isinstance(resume, dict) else 1
        )
        self.run, self.session, self.world_size = session.run, session, world_size
        begun = self._planner(tape.lockstep).num_batches(tape.epoch, of) if tape.position else world_size
        left = begun - tape.position
        over = tape.epoch == self.run.spec.epochs
        rolled_over = left if left < world_size and not over else 0
        self._left_out = session.left_out_batches - rolled_over
        if left < world_size and not over:
            tape = tape.end(rolled_over, of)
        if not tape.position:
            tape = self._begin(tape)
        elif tape.lockstep:
            assert session.run.lockstep(tape.epoch) == tape.lockstep
        self.tape = self.origin = tape
        assert session.cursor == session.run.generation.origin == (tape.epoch, tape.step)
        assert session.run.generation.offset == tape.position
        assert session.run.generation.world_size == world_size
        if self.is_over:
            assert (session.left_out_batches, session.mixed_steps) == (rolled_over, 0)
        else:
            self._check_shapes()

    def go(self, num_steps: int) -> None:
        """So many steps of all ranks, within the epoch; past its last one the next begins."""
        tape, size = self.tape, self.world_size
        positions = self._dealt(tape.epoch, tape.step, num_steps)
        assert np.array_equal(positions, np.arange(tape.position, tape.position + num_steps * size))
        served, planned = (
            planner.batches(tape.epoch, positions, size)
            for planner in (self.run.sharding.planner_of(tape.epoch), self._planner(tape.lockstep))
        )
        assert np.array_equal(served.rows, planned.rows)
        assert np.array_equal(served.buckets, planned.buckets)
        self.tape = tape.on(positions, num_steps)

    def turn(self) -> None:
        """Into the next epoch, at the end of one."""
        assert self.steps_left == 0
        is_first = self.tape.epoch == self.session.run.generation.origin.epoch
        left_out = self._left_out if is_first else self._num(self.tape) % self.world_size
        assert self.run.sharding.normal(Cursor(self.tape.epoch, self.tape.step)) == (self.tape.epoch + 1, 0)
        self.tape = self._begin(self.tape.end(left_out, self.world_size))

    def state(self) -> StateDict:
        """As a client has it; behind an epoch's last step, too."""
        state = state_dict(self.run, Cursor(self.tape.epoch, self.tape.step))
        assert state["offset"] == self.tape.position
        assert state.get("lockstep", 0) == self.tape.lockstep
        return state

    def stand(self, ahead: int) -> None:
        """The coordinator hears where the ranks stand: rank 0 at the tape, the others further on."""
        tape = self.tape
        here = self._before(tape.step)
        further = self._before(tape.step + min(ahead, self.steps_left))
        self._desk.acknowledge(self.name, [here, *[further] * (self.world_size - 1)])

    def _before(self, step: int) -> Cursor | None:
        """The last step of this start before ``step`` of the tape's epoch."""
        tape, origin = self.tape, self.origin
        if (tape.epoch, step) == (origin.epoch, origin.step):
            return None
        return (
            Cursor(tape.epoch, step - 1)
            if step
            else Cursor(tape.epoch - 1, self.run.sharding.num_steps(tape.epoch - 1) - 1)
        )

    def _dealt(self, epoch: int, step: int, num_steps: int) -> Counts:
        """int64[num_steps * world_size]: positions in the order of steps and ranks."""
        sharding, span = self.run.sharding, Span(epoch, step, num_steps)
        ranks = range(self.world_size) if self.world_size <= 16 else (0, 1, self.world_size - 1)
        first = sharding.positions(span, 0)
        table = first[:, None] + np.arange(self.world_size)
        for rank in ranks:
            assert np.array_equal(sharding.positions(span, rank), table[:, rank])
        return table.ravel()

    # --- what it amounts to -----------------------------------------------------------------------------------------

    def _check_shapes(self) -> None:
        """Of all steps that this start deals of its first epoch, and of the epoch after it."""
        tape, size = self.tape, self.world_size
        begins = tape.position + size * np.arange(self.steps_left)
        differs = self._differs(tape, len(begins))
        if self.run.spec.planner == "novelai":
            assert differs.sum() == self.session.mixed_steps
            return
        is_spanning = begins // tape.lockstep != (begins + size - 1) // tape.lockstep
        assert self.session.mixed_steps == (is_spanning | differs).sum()
        has_one_shape = self.run.spec.steps == "same_shape"
        if has_one_shape:
            assert not (differs & ~is_spanning).any()
            if tape.lockstep % size == 0 and tape.position % size == 0:
                assert self.session.mixed_steps == 0
        after = self._begin(Tape(tape.epoch + 1))
        if after.lockstep % size == 0:
            num = self._num(after)
            assert num > 0
            assert num % size == 0
            mixed = self._differs(after, num // size).sum()
            planner = self.run.sharding.planner_of(after.epoch)
            assert planner.mixed_steps(after.epoch, 0, size) == mixed
            assert not has_one_shape or mixed == 0

    def _differs(self, tape: Tape, num_steps: int) -> NDArray[np.bool_]:
        """bool[num_steps]: of the steps from there on, whether their batches really differ in size."""
        positions = tape.position + np.arange(num_steps * self.world_size)
        planner = self._planner(tape.lockstep)
        buckets = planner.batches(tape.epoch, positions, self.world_size).buckets
        sizes = np.array(self._targets())[buckets].reshape(num_steps, self.world_size, 2)
        differs: NDArray[np.bool_] = (sizes != sizes[:, :1]).any(axis=(1, 2))
        return differs

    def _targets(self) -> list[tuple[int, int]]:
        """What makes a batch's shape; with packs, the kind."""
        spec = self.run.plan.spec
        if spec.packing is not None:
            return [(kind, 0) for kind in range(len(spec.packing.packs.counts))]
        return list(spec.targets)

    def check(self) -> None:
        """Every finished epoch: each position once, except as many of the last as were declared; each image as often as
        the ledger says, except those in these positions."""
        for epoch, (left_out, world_size, lockstep) in self.tape.ended.items():
            pieces = [np.empty(0, dtype=np.int64), *self.tape.had.get(epoch, [])]
            positions = np.concatenate(pieces)
            num = int(self._planner(lockstep).num_batches(epoch, world_size))
            assert np.array_equal(positions, np.arange(num - left_out))
            undealt = self._images(epoch, np.arange(len(positions), num), world_size, lockstep)
            served = self._images(epoch, positions, world_size, lockstep)
            # the run itself, dealt to one rank, may have units of one batch
            name = self._desk.with_lockstep(self.name, lockstep) if lockstep else self.name
            of = world_size if self.run.spec.planner == "novelai" else 1
            assert np.array_equal(served + undealt, self._desk.declared(name, epoch, of))

    def check_declared(self, epoch: int) -> None:
        """Of one that was dealt from its start: the ledger tells all, the last step's rest among it."""
        lockstep = self.tape.ended[epoch][2]
        served = self._images(epoch, np.concatenate(self.tape.had[epoch]), self.world_size, lockstep)
        assert np.array_equal(served, self._desk.declared(self.name, epoch, self.world_size))
        if lockstep:
            assert np.array_equal(served, self._desk.declared_now(self.name, epoch))

    def check_told(self) -> None:
        """The present epoch, as if these ranks had it from its start: laid out as those have it who began it."""
        if self.tape.lockstep:
            dealt = np.arange(self._num(self.tape) // self.world_size * self.world_size)
            served = self._images(self.tape.epoch, dealt, self.world_size, self.tape.lockstep)
            assert np.array_equal(served, self._desk.declared_now(self.name, self.tape.epoch))

    def _images(self, epoch: int, positions: Counts, world_size: int, lockstep: int) -> Counts:
        rows = self._planner(lockstep).batches(epoch, positions, world_size).rows
        return np.bincount(rows, minlength=self.run.plan.sources.images.num_images)
