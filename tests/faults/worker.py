"""A worker of a job under faults: the public client, and a log of everything that it does."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx  # noqa: F401 - in the process that workers are forked from, where it is loaded once

from bucketline import Batch, BucketClient, CoordinatorUnavailable, EndOfRun, Fenced
from tests.faults.board import (
    ACKS,
    EPOCH,
    FOR_EVER,
    PROGRESS,
    STOP_EPOCH,
    UNAVAILABLE,
    Board,
)
from tests.faults.record import Log

STEP_S = 0.01
"""How long a step of training takes."""

FLUSH_EVERY, SAVE_EVERY = 5, 7
"""Steps. In between, steps are acknowledged in the background."""

WINDOW = 6
LEAD = 12
"""Steps that a rank may be ahead of the slowest one. Real ranks wait at every step; with some lead, faults find them at
different places."""


@dataclass(frozen=True)
class Orders:
    """A worker's instructions. ``began`` is what the session was resumed from, ``resume`` the same, but "cursor" for a
    worker that takes over a rank."""

    folder: Path
    board: Path
    urls: list[str]
    run: str
    session: str
    began: Any
    resume: Any
    generation: int
    world_size: int
    rank: int
    holder: str
    timeout_s: float
    steps_per_epoch: int


def work(orders: Orders) -> None:
    """The process's whole life."""
    about = {"holder": orders.holder, "rank": orders.rank, "generation": orders.generation}
    logging.getLogger("bucketline").addHandler(
        logging.NullHandler()
    )  # what it warns of is made on purpose here
    log = Log(orders.folder / f"{orders.holder}.jsonl", **about)
    try:
        Worker(orders, log).train()
        log.write("ended")
    except Fenced:
        log.write("fenced")
    except Exception as error:
        log.write("exception", type=type(error).__name__, message=str(error))


class Worker:
    def __init__(self, orders: Orders, log: Log) -> None:
        self._orders = orders
        self._log = log
        self._rank = orders.rank
        self._board = Board(orders.board, orders.world_size)
        self._parent = os.getppid()
        self._client = BucketClient(
            orders.urls, orders.run, holder=orders.holder, session=orders.session, window=WINDOW,
            timeout_s=orders.timeout_s, request_timeout_s=1.5, ack_interval_s=0.1,
        )  # fmt: skip

    def train(self) -> None:
        self._start()
        while (batch := self._next()) is not None and batch.epoch < self._stop_epoch:
            about = {"bucket": batch.bucket, "width": batch.width, "height": batch.height, "ids": batch.ids}
            self._log.write("handed", epoch=batch.epoch, step=batch.step, **about)
            self._step(batch)
            self._log.write("trained", epoch=batch.epoch, step=batch.step)
            if batch.step % SAVE_EVERY == SAVE_EVERY - 1:
                self._log.write("saved", state=self._client.state_dict(self._rank))
            if batch.step % FLUSH_EVERY == FLUSH_EVERY - 1:
                self._client.ack(self._rank)
                if self._flush():
                    self._confirmed(batch.epoch, batch.step + 1)
        while not self._flush():
            pass
        self._client.close()

    @property
    def _stop_epoch(self) -> int:
        return self._board.get(0, STOP_EPOCH)

    def _start(self) -> None:
        orders = self._orders
        while True:
            try:
                started = self._client.start_session(orders.world_size, orders.resume)
            except CoordinatorUnavailable as error:
                self._unavailable(error)
                continue
            self._log.write(
                "session",
                session=orders.session,
                generation=started.generation,
                resume=orders.began,
                world_size=started.world_size,
                origin=started.deal.origin,
                offset=started.deal.offset,
                mixed_steps=started.mixed_steps,
            )
            return

    def _next(self) -> Batch | None:
        """As a training loop would: a passed deadline is not a reason to end."""
        while True:
            try:
                return self._client.next_batch(self._rank)
            except CoordinatorUnavailable as error:
                self._unavailable(error)
            except EndOfRun:
                return None

    def _flush(self) -> bool:
        try:
            self._client.flush()
        except CoordinatorUnavailable as error:
            self._unavailable(error)
            return False
        return True

    def _unavailable(self, error: CoordinatorUnavailable) -> None:
        self._log.write("unavailable", waited_s=error.waited_s)
        self._board.add(self._rank, UNAVAILABLE)
        self._end_with_the_driver()

    def _confirmed(self, epoch: int, step: int) -> None:
        self._log.write("acked", epoch=epoch, step=step)
        self._board.add(self._rank, ACKS)

    def _step(self, batch: Batch) -> None:
        """Where a real worker would train. Whoever is far ahead waits, as for an all-reduce."""
        done = batch.epoch * self._orders.steps_per_epoch + batch.step
        self._board.put(self._rank, EPOCH, batch.epoch)
        self._board.put(self._rank, PROGRESS, done)
        if self._stop_epoch == FOR_EVER:  # towards the end there is nothing to wait for
            time.sleep(STEP_S)
        # an epoch may have fewer steps than the first: who is in a later one need not be far ahead
        while done > min(self._board.column(PROGRESS)) + LEAD and self._is_far_ahead(batch):
            self._end_with_the_driver()
            time.sleep(STEP_S)

    def _is_far_ahead(self, batch: Batch) -> bool:
        epoch, step = divmod(min(self._board.column(PROGRESS)), self._orders.steps_per_epoch)
        num_steps = self._client.num_steps(self._rank, epoch) if epoch < batch.epoch else 0
        return batch.epoch > epoch + 1 or batch.step + (num_steps or 0) > step + LEAD

    def _end_with_the_driver(self) -> None:
        """Without the driver, nobody would end this process."""
        if os.getppid() != self._parent:
            os._exit(1)
