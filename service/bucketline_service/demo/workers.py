"""The demo's worker processes: starts them, reads their logs, kills one and restarts it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from bucketline_service.demo.proof import RankLog

VICTIM = 2
KILL_AT = 0.4
"""The share of the epoch's steps after which the victim is killed."""


class _Rank:
    """One rank's worker, and the thread that reads its log."""

    def __init__(self, command: list[str], num_steps: int, progress: Progress, task: TaskID) -> None:
        self.log = RankLog()
        self.kill_after: int | None = None
        self.status = -1
        self._process: subprocess.Popen[str] | None = None
        self._is_stopped = False
        self._lock = threading.Lock()
        self._command = command
        self._num_steps = num_steps
        self._progress = progress
        self._task = task
        self._thread = threading.Thread(target=self._follow)

    def start(self) -> None:
        self._thread.start()

    def join(self) -> None:
        if self._thread.ident is not None:
            self._thread.join()

    def stop(self) -> None:
        """Kill the worker, if there is one, and do not start another."""
        with self._lock:
            self._is_stopped = True
            if self._process is not None:
                self._process.kill()

    def _follow(self) -> None:
        """Run the worker to its end, and another one if it was killed."""
        self.status = self._run()
        if self.status == -signal.SIGKILL and not self._is_stopped:
            self._progress.update(self._task, description=f"{self._name()} [red]killed[/red], restarting")
            crashed_at = len(self.log.records)
            self.status = self._run()
            resumed = (
                self.log.records[crashed_at][0] if len(self.log.records) > crashed_at else self._num_steps
            )
            self.log.crashes.append((crashed_at, resumed))
            self._progress.update(self._task, description=f"{self._name()} resumed at step {resumed}")

    def _name(self) -> str:
        return f"rank {self._command[-2]}"

    def _run(self) -> int:
        with self._lock:
            if self._is_stopped:
                return -1
            self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        with self._process as process:
            assert process.stdout is not None
            for line in process.stdout:
                if not line.endswith("\n"):
                    break  # killed while writing
                step, width, height, ids = json.loads(line)
                self.log.records.append((step, width, height, ids))
                self._progress.update(self._task, completed=step + 1)
                if self.kill_after is not None and step >= self.kill_after:
                    self.kill_after = None
                    process.kill()
        return process.returncode


def run_epoch(
    console: Console, url: str, run: str, world_size: int, num_steps: int, step_s: float
) -> list[RankLog]:
    """Train one epoch on ``world_size`` processes, kill rank ``VICTIM`` on the way, and return the logs by rank."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console) as progress:
        ranks = []
        for rank in range(world_size):
            task = progress.add_task(f"rank {rank}", total=num_steps)
            module = "bucketline_service.demo.worker"
            command = [sys.executable, "-m", module, url, run, str(rank), str(step_s)]
            ranks.append(_Rank(command, num_steps, progress, task))
        ranks[VICTIM].kill_after = int(num_steps * KILL_AT)
        try:
            for each in ranks:
                each.start()
            for each in ranks:
                each.join()
        finally:  # also after a signal; workers that have ended are left alone
            for each in ranks:
                each.stop()
            for each in ranks:
                each.join()
    return [each.log for each in ranks]
