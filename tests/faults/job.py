"""A job of several ranks on worker processes, and its driver: starts, replaces, stops and restarts them, and waits."""

from __future__ import annotations

import csv
import io
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from bucketline import BucketClient
from tests.faults.board import (
    ACKS,
    EPOCH,
    FOR_EVER,
    PROGRESS,
    STOP_EPOCH,
    Board,
)
from tests.faults.record import (
    Log,
    Place,
    place_of,
    read,
)
from tests.faults.worker import Orders, work
from tests.faults.world import MAP, NUM_IMAGES, World

BATCH_SIZE, LOCKSTEP = 4, 12
"""12: worlds of 2, 3 and 4 ranks all have one shape at a step."""

PATIENT_S, SHORT_S = 120.0, 1.0
"""How long clients wait; the second for faults that are to last longer."""

DEADLINE_S, EVERY_S = 100.0, 0.005

# A process each, forked from one that has loaded what they all need.
processes = get_context("forkserver")
processes.set_forkserver_preload(["tests.faults.worker"])


class Job:
    """One run from its birth to the end of an epoch. Its workers know ``num_replicas`` coordinators. ``log`` is the
    driver's."""

    def __init__(self, world: World, folder: Path, run: str, num_replicas: int) -> None:
        folder.mkdir()
        self.world = world
        self.folder = folder
        self.num_replicas = num_replicas
        self.log = Log(folder / "driver.jsonl")
        self.board: Board
        self.workers: dict[int, BaseProcess] = {}
        self.generation = self.world_size = 0
        self.run = run
        self._names = iter(range(1, 1_000_000))
        self._began: Any = "start"
        self._all: list[BaseProcess] = []
        self._timeout_s = PATIENT_S
        spec = {"map": MAP, "batch_size": BATCH_SIZE, "world_size": 2, "lockstep": LOCKSTEP}
        world.operator.put_run(run, spec)

    # --- the workers ----------------------------------------------------------------------------------------

    def begin(self, resume: Any, world_size: int, timeout_s: float = PATIENT_S) -> None:
        """Start a generation, and a worker for each rank."""
        session = f"start-{next(self._names)}"
        with BucketClient(self.world.direct_urls, self.run, timeout_s=DEADLINE_S) as client:
            answer = client.start_session(world_size, resume, session=session)
        self.generation, self.world_size = answer.generation, world_size
        self._session, self._began, self._timeout_s = session, resume, timeout_s
        self.log.write(
            "session",
            generation=answer.generation, session=session, resume=resume, world_size=answer.world_size,
            origin=answer.deal.origin, offset=answer.deal.offset, mixed_steps=answer.mixed_steps,
        )  # fmt: skip
        self._board_path = self.folder / f"board-{answer.generation}"
        self.board = Board(self._board_path, world_size)
        self.board.put(0, STOP_EPOCH, FOR_EVER)
        for rank in range(world_size):
            # they are not to wait for one that has yet to come
            self.board.put(
                rank, PROGRESS, answer.deal.origin[0] * self._steps_per_epoch + answer.deal.origin[1]
            )
        for rank in range(world_size):
            self.start_worker(rank, resume)

    @property
    def _steps_per_epoch(self) -> int:
        return NUM_IMAGES // BATCH_SIZE // self.world_size

    def start_worker(self, rank: int, resume: Any = "cursor") -> None:
        holder = f"g{self.generation}-r{rank}-{next(self._names)}"
        urls = self.world.urls[: self.num_replicas]
        orders = Orders(
            self.folder, self._board_path, urls, self.run, self._session, self._began, resume,
            self.generation, self.world_size, rank, holder, self._timeout_s, self._steps_per_epoch,
        )  # fmt: skip
        self.log.write("started", holder=holder, rank=rank, generation=self.generation)
        # a process is reported by its name
        self.workers[rank] = processes.Process(target=work, args=(orders,), name=holder, daemon=True)
        self.workers[rank].start()
        self._all.append(self.workers[rank])

    def kill(self, rank: int) -> None:
        worker = self.workers.pop(rank)
        worker.kill()
        worker.join()
        self.log.write("killed", holder=worker.name)

    def stop(self, rank: int) -> BaseProcess:
        """SIGSTOP: its place is free for another one."""
        worker = self.workers.pop(rank)
        _signal(worker, signal.SIGSTOP)
        return worker

    def go_on(self, worker: BaseProcess) -> None:
        """SIGCONT, and wait until it has ended by itself."""
        _signal(worker, signal.SIGCONT)
        self.wait(f"{worker.name} has ended", lambda: not worker.is_alive())

    def checkpoint(self, age: int = 0) -> Any:
        """The newest state that the present workers of all ranks have passed, or ``age`` older; if it does not exist,
        what this generation itself was resumed from."""
        mine = [event for event in read(self.folder) if event.get("generation") == self.generation]
        done: dict[tuple[int, str], Place] = {}
        for event in mine:
            if event["what"] == "trained":
                done[event["rank"], event["holder"]] = event["epoch"], event["step"] + 1
        passed = [done.get((rank, worker.name), (-1, 0)) for rank, worker in self.workers.items()]
        states = {place_of(event["state"]): event["state"] for event in mine if event["what"] == "saved"}
        usable = sorted(place for place in states if place <= min(passed))
        return states[usable[max(0, len(usable) - 1 - age)]] if usable else self._began

    def restart(
        self, resume: Any, world_size: int, timeout_s: float = PATIENT_S, zombie: int | None = None
    ) -> BaseProcess | None:
        """End all workers except one that is only stopped, and begin again."""
        stopped = self.stop(zombie) if zombie is not None else None
        for rank in list(self.workers):
            self.kill(rank)
        old = self.board
        self.begin(resume, world_size, timeout_s)
        for rank in range(old.world_size):  # a stopped one is not to wait for the dead
            old.put(rank, PROGRESS, FOR_EVER)
        old.close()
        return stopped

    # --- waiting --------------------------------------------------------------------------------------------

    def wait(self, what: str, condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while not condition():
            ended = [worker.name for worker in self.workers.values() if not worker.is_alive()]
            if ended and self.board.get(0, STOP_EPOCH) == FOR_EVER:
                raise AssertionError(f"{ended} ended before its time: {self._last_words(ended[0])}")
            if time.monotonic() > deadline_s:
                raise AssertionError(f"after {DEADLINE_S:g} s it does not hold that {what}")
            time.sleep(EVERY_S)

    def grown(self, column: int, num: int = 1, ranks: list[int] | None = None) -> Callable[[], bool]:
        """Whether a number of every rank is larger by so many than now."""
        ranks = list(range(self.world_size)) if ranks is None else ranks
        before = {rank: self.board.get(rank, column) for rank in ranks}
        return lambda: all(self.board.get(rank, column) >= old + num for rank, old in before.items())

    def recover(self) -> None:
        """Return when every rank has committed another step; ask the coordinator for its cursors."""
        self.wait("every rank has committed a step", self.grown(ACKS))
        self.observe("observed")

    @contextmanager
    def fault(self, name: str, kind: str, outlasts_deadline: bool = False) -> Iterator[None]:
        self.log.write("fault", id=name, kind=kind, outlasts_deadline=outlasts_deadline)
        yield
        self.log.write("healed", id=name)

    def observe(self, what: str) -> None:
        asked_at = time.monotonic()
        for rank in self.world.operator.ranks(self.run):
            about = {name: rank[name] for name in ("rank", "holder", "epoch", "step")}
            self.log.write(what, generation=self.generation, asked_at=asked_at, **about)

    def _last_words(self, holder: str) -> str:
        with suppress(OSError, IndexError):
            return (self.folder / f"{holder}.jsonl").read_text().splitlines()[-1]
        return "it said nothing"

    # --- the end --------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Let all ranks come to the end of an epoch, and put down the plan of all that was trained."""
        end = max(self.board.column(EPOCH)) + 2
        self.board.put(0, STOP_EPOCH, end)
        self.wait("every rank has ended", lambda: not any(w.is_alive() for w in self.workers.values()))
        self.observe("final")
        operator = self.world.operator
        ledger = io.BytesIO()
        operator.ledger(self.run, ledger, from_epoch=0, to_epoch=end, world_size=1, format="csv")
        rows = list(csv.DictReader(io.StringIO(ledger.getvalue().decode())))
        for epoch in range(end + 1):
            planned = operator.batches(self.run, epoch, 0, 0, 1024, world_size=1)
            batches = [[b.bucket, b.width, b.height, b.ids] for b in planned if b.epoch == epoch]
            gone = [row for row in rows if row["epoch"] in ("", str(epoch))]
            left_out = [int(row["id"]) for row in gone for _ in range(int(row["num"]))]
            self.log.write("plan", epoch=epoch, batches=batches, left_out=left_out)
        num_images = operator.map(MAP)["num_images"]
        self.log.write("run", lockstep=LOCKSTEP, epochs=None, image_ids=list(range(num_images)))

    def close(self) -> None:
        """Leave no process behind, whatever has happened."""
        for worker in self._all:
            worker.kill()
            worker.join()
        self.log.close()


def _signal(worker: BaseProcess, number: signal.Signals) -> None:
    assert worker.pid is not None
    os.kill(worker.pid, number)
