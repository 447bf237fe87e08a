"""A whole job that stops, goes on elsewhere and stops again: every start is the real coordinator's, and what it was
dealt is held against one number, the first position of the epoch's stream that nobody has had yet."""

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
from numpy.typing import NDArray

from bucketline_service.coordinator import Coordinator, RunSpec
from bucketline_service.coordinator.deal import Span
from bucketline_service.coordinator.plans import PlanShelf
from bucketline_service.coordinator.resume import StateDict, state_dict
from bucketline_service.coordinator.runs import Run
from bucketline_service.coordinator.sessions import Session
from bucketline_service.maps import Columns, MapStore
from bucketline_service.metrics import Metrics
from bucketline_service.state import open_store
from bucketline_service.state.port import Cursor

T = TypeVar("T")
Counts = NDArray[np.int64]


class Desk:
    """One coordinator without HTTP, and its runs. Image ids are row numbers."""

    def __init__(self, folder: Path) -> None:
        self._loop = asyncio.new_event_loop()
        metrics = Metrics()
        shelf = PlanShelf(folder / "plans", metrics.plan_seconds.observe)
        store = open_store(f"sqlite:///{folder / 'state.sqlite'}")
        self.coordinator = Coordinator(store, MapStore(folder / "maps"), shelf, metrics)
        self._folder = folder
        self._runs: dict[str, str] = {}
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
        self.wait(self.coordinator.put_map(name, path, "csv", Columns()))

    def run(self, **spec: Any) -> str:
        """The run of a spec; it is put when it is asked for first."""
        key = repr(sorted(spec.items()))
        if key not in self._runs:
            self._runs[key] = f"run-{len(self._runs)}"
            self.wait(self.coordinator.runs.put(self._runs[key], RunSpec(**spec)))
        return self._runs[key]

    def open(self, run: str) -> Run:
        return self.wait(self.coordinator.runs.open(run, wait_s=60.0))

    def start(self, run: str, world_size: int, resume: Literal["cursor", "start"] | StateDict) -> Session:
        """Under a name of its own. Every later call of the same start is answered alike."""
        name = next(self._names)
        answers = [self.wait(self.coordinator.sessions.start(run, name, world_size, resume)) for _ in "12"]
        if isinstance(resume, dict):  # of a start at the cursor, what is rolled over is told once
            assert answers[0].left_out_batches == answers[1].left_out_batches
        assert replace(answers[0], left_out_batches=0, run=answers[1].run) == replace(
            answers[1], left_out_batches=0
        )
        assert answers[0].run.generation == answers[1].run.generation
        return answers[0]

    def acknowledge(self, run: str, acks: Iterable[Cursor | None]) -> None:
        """The last step that each rank has done."""
        delivery = self.coordinator.delivery
        for rank, ack in enumerate(acks):
            lease = self.wait(delivery.lease(run, rank, "me", None)).record.lease
            self.wait(delivery.next(run, rank, lease, ack=ack))

    def declared(self, run: str, epoch: int, world_size: int) -> Counts:
        """int64[N]: how often the epoch serves each image to so many ranks from its start on, as the ledger has it."""
        key = run, epoch, world_size
        if key not in self._counts:
            opened = self.open(run)
            num_images = opened.plan.sources.images.num_images
            asked = np.ones(num_images, dtype=np.int64)
            if opened.spec.times != 1:  # one by one: the planner is asked of an image at a time
                asked[:] = [opened.plan.planner.num_asked(epoch, row) for row in range(num_images)]
            self._counts[key] = asked + self._ledger(run, epoch, world_size, num_images)
        return self._counts[key]

    def _ledger(self, run: str, epoch: int, world_size: int, num_images: int) -> Counts:
        sheet = self.wait(self.coordinator.ledgers.get(run, epoch, epoch, world_size, "csv"))
        found = np.zeros(num_images, dtype=np.int64)
        for row in csv.DictReader(io.StringIO(b"".join(sheet.pieces).decode())):
            if row["what"] != "pruned":
                found[int(row["id"])] += int(row["num"]) * (1 if row["what"] == "repeated" else -1)
        return found


@dataclass(frozen=True)
class Tape:
    """What of the stream the job has had, by the checkpoints that counted. ``position``: the first of ``epoch`` that
    nobody had. ``had``: positions in order, by epoch. ``ended``: of each epoch that is over, how many batches its last
    start had declared that it would leave out, and to how many ranks that was."""

    epoch: int = 0
    step: int = 0
    position: int = 0
    had: dict[int, list[Counts]] = field(default_factory=dict)
    ended: dict[int, tuple[int, int]] = field(default_factory=dict)

    def on(self, positions: Counts, num_steps: int) -> Tape:
        had = {**self.had, self.epoch: [*self.had.get(self.epoch, []), positions]}
        return replace(self, step=self.step + num_steps, position=self.position + len(positions), had=had)

    def end(self, left_out: int, world_size: int) -> Tape:
        """The epoch is over."""
        ended = {**self.ended, self.epoch: (left_out, world_size)}
        return replace(self, epoch=self.epoch + 1, step=0, position=0, ended=ended)


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
        return int(self.planner.num_batches(tape.epoch, self.world_size))

    def start(self, world_size: int, resume: Literal["cursor", "start"] | StateDict, tape: Tape) -> None:
        """Go on from where ``tape`` says, and hold the answer against it."""
        session = self._desk.start(self.name, world_size, resume)
        # an epoch that has begun is as long as those have it who began it
        of = (
            self.world_size if resume == "cursor" else resume["world_size"] if isinstance(resume, dict) else 1
        )
        self.run, self.session, self.world_size = session.run, session, world_size
        left = self.planner.num_batches(tape.epoch, of if tape.position else world_size) - tape.position
        over = tape.epoch == self.run.spec.epochs
        rolled_over = left if left < world_size and not over else 0
        self._left_out = session.left_out_batches - rolled_over
        if left < world_size and not over:
            tape = tape.end(rolled_over, of)
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
        self.tape = tape.on(positions, num_steps)

    def turn(self) -> None:
        """Into the next epoch, at the end of one."""
        assert self.steps_left == 0
        is_first = self.tape.epoch == self.session.run.generation.origin.epoch
        left_out = self._left_out if is_first else self._num(self.tape) % self.world_size
        assert self.run.deal.normal(Cursor(self.tape.epoch, self.tape.step)) == (self.tape.epoch + 1, 0)
        self.tape = self.tape.end(left_out, self.world_size)

    def state(self) -> StateDict:
        """As a client has it; behind an epoch's last step, too."""
        state = state_dict(self.run, Cursor(self.tape.epoch, self.tape.step))
        assert state["offset"] == self.tape.position
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
            else Cursor(tape.epoch - 1, self.run.deal.num_steps(tape.epoch - 1) - 1)
        )

    def _dealt(self, epoch: int, step: int, num_steps: int) -> Counts:
        """int64[num_steps * world_size]: positions in the order of steps and ranks."""
        deal, span = self.run.deal, Span(epoch, step, num_steps)
        ranks = range(self.world_size) if self.world_size <= 16 else (0, 1, self.world_size - 1)
        first = deal.positions(span, 0)
        table = first[:, None] + np.arange(self.world_size)
        for rank in ranks:
            assert np.array_equal(deal.positions(span, rank), table[:, rank])
        return table.ravel()

    # --- what it amounts to -----------------------------------------------------------------------------------------

    def _check_shapes(self) -> None:
        """Of all steps that this start deals of its first epoch, and of the epoch after it."""
        tape, lockstep = self.tape, self.run.spec.lockstep
        begins = tape.position + self.world_size * np.arange(self.steps_left)
        mixed = self._mixed(tape.epoch, tape.position, len(begins))
        if self.run.spec.planner == "novelai":
            assert mixed == self.session.mixed_steps
            return
        assert lockstep is not None
        spanning = begins // lockstep != (begins + self.world_size - 1) // lockstep
        assert mixed <= self.session.mixed_steps == spanning.sum()
        if lockstep % self.world_size == 0:
            if tape.position % self.world_size == 0:
                assert self.session.mixed_steps == 0
            num = self.planner.num_batches(tape.epoch + 1, self.world_size) // self.world_size
            assert (
                self._mixed(tape.epoch + 1, 0, num)
                == 0
                == self.planner.mixed_steps(tape.epoch + 1, 0, self.world_size)
            )

    def _mixed(self, epoch: int, position: int, num_steps: int) -> int:
        """Steps whose batches really differ in size."""
        positions = position + np.arange(num_steps * self.world_size)
        buckets = self.planner.batches(epoch, positions, self.world_size).buckets
        sizes = np.array(self._targets())[buckets].reshape(num_steps, self.world_size, 2)
        return int((sizes != sizes[:, :1]).any(axis=(1, 2)).sum())

    def _targets(self) -> list[tuple[int, int]]:
        return list(self.run.plan.spec.targets)

    def check(self) -> None:
        """Every epoch that is over: each position once but for the last, as many as were declared; each image as often
        as the ledger says, but for those in these."""
        for epoch, (left_out, world_size) in self.tape.ended.items():
            pieces = [np.empty(0, dtype=np.int64), *self.tape.had.get(epoch, [])]
            positions = np.concatenate(pieces)
            num = int(self.planner.num_batches(epoch, world_size))
            assert np.array_equal(positions, np.arange(num - left_out))
            undealt = self._images(epoch, np.arange(len(positions), num), world_size)
            served = self._images(epoch, positions, world_size)
            of = world_size if self.run.spec.planner == "novelai" else 1
            assert np.array_equal(served + undealt, self._desk.declared(self.name, epoch, of))

    def check_declared(self, epoch: int) -> None:
        """Of one that was dealt from its start: the ledger tells all, the last step's rest among it."""
        served = self._images(epoch, np.concatenate(self.tape.had[epoch]), self.world_size)
        assert np.array_equal(served, self._desk.declared(self.name, epoch, self.world_size))

    def _images(self, epoch: int, positions: Counts, world_size: int) -> Counts:
        rows = self.planner.batches(epoch, positions, world_size).rows
        return np.bincount(rows, minlength=self.run.plan.sources.images.num_images)
