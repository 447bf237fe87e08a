"""A worker process that trains the requested number of steps through the public client.

It reads one command a line, answers each with one JSON line, and logs everything that it does (record.py)::

    train N         N batches, and wait until they are acknowledged; {"done": cursor}
    train           to the end of the run
    start ARGUMENTS (JSON) of ``BucketClient.start_session``; {"done": generation}
    save            {"done": state dict}
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bucketline import BucketClient, EndOfRun, Fenced
from tests import warm
from tests.faults.record import Log

ROOT = Path(__file__).parents[2]
WINDOW = 4
"""Prefetched batches: few, so that it needs the coordinator soon."""


class Stepped:
    """The worker, seen from the test. A stopped worker carries out its commands when it continues."""

    def __init__(
        self, log_dir: Path, url: str, run: str, rank: int, holder: str, generation: int = 1
    ) -> None:
        about = [str(log_dir / f"{holder}.jsonl"), url, run, str(rank), holder, str(generation)]
        self._process = warm.Popen(
            [sys.executable, "-m", "tests.faults.stepped", *about],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=ROOT,
        )  # fmt: skip

    def send(self, command: str, *arguments: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(" ".join([command, *map(str, arguments)]) + "\n")

    def answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the worker has died"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, command: str, *arguments: object) -> Any:
        """What it is done with; a failure is the test's."""
        self.send(command, *arguments)
        answer = self.answer()
        assert "done" in answer, answer
        return answer["done"]

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def train(client: BucketClient, log: Log, rank: int, num: int | None) -> tuple[int, int] | None:
    """The cursor after the last step. Batches are written down before the next one is asked for."""
    cursor = None
    try:
        while num is None or num > 0:
            batch = client.next_batch(rank)
            place = {"epoch": batch.epoch, "step": batch.step}
            log.write("handed", **place, bucket=batch.bucket, width=batch.width, height=batch.height,
                      ids=batch.ids)  # fmt: skip
            log.write("trained", **place)
            cursor = batch.epoch, batch.step + 1
            num = None if num is None else num - 1
    except EndOfRun:
        pass
    client.ack(rank)
    client.flush()
    if cursor is not None:
        log.write("acked", epoch=cursor[0], step=cursor[1])
    return cursor


def do(client: BucketClient, log: Log, rank: int, command: str, rest: str) -> Any:
    if command == "start":
        return client.start_session(**json.loads(rest)).generation
    if command == "save":
        state = client.state_dict(rank)
        log.write("saved", state=state)
        return state
    return train(client, log, rank, int(rest) if rest else None)


def attempt(log: Log, action: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"done": action()}
    except Fenced as error:
        log.write("fenced")
        return {"fenced": str(error)}
    except Exception as error:
        log.write("exception", type=type(error).__name__, message=str(error))
        return {"failed": f"{type(error).__name__}: {error}"}


def main(path: str, url: str, run: str, rank: str, holder: str, generation: str) -> None:
    log = Log(Path(path), holder=holder, rank=int(rank), generation=int(generation))
    client = BucketClient(url, run, holder=holder, window=WINDOW, ack_interval_s=0.0, timeout_s=60.0)
    for line in sys.stdin:
        command, _, rest = line.strip().partition(" ")
        answer = attempt(log, lambda command=command, rest=rest: do(client, log, int(rank), command, rest))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
