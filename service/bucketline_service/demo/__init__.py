"""``bucketline demo``: trains an epoch on 4 worker processes, kills one of them on the way, and proves the result."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console

from bucketline import Operator
from bucketline_service.demo.proof import Proof, prove
from bucketline_service.demo.workers import run_epoch
from bucketline_service.errors import BucketlineError
from bucketline_service.terminal import plan_costs

WORLD_SIZE = 4
BATCH_SIZE = 8
RUN = "demo"
STEP_S = 0.01
MAP = files("bucketline_service") / "data" / "coco-5k.csv"


class DemoError(BucketlineError):
    """The demo could not run; the detail says why."""


def run(*, keep: bool, seed: int, step_s: float = STEP_S) -> int:
    """Run the demo and return the exit status, 0 only if the proof holds. A signal ends the demo and every process that
    it has started."""
    console = Console()
    with _orderly_end(), _own_environment(), _folder() as folder, _coordinator(folder) as url:
        with Operator(url) as operator:
            stats = _prepare(console, operator, url, seed)
            logs = run_epoch(console, url, RUN, WORLD_SIZE, stats["num_steps"], step_s)
            console.print()
            plan_costs.plan(console, stats)
            proof = prove(logs, _image_ids(), stats)
            _show(console, proof)
        if keep:
            _stay(console, url)
    return 0 if proof.holds else 1


def _prepare(console: Console, operator: Operator, url: str, seed: int) -> dict[str, Any]:
    console.print(f"coordinator on {url}, cursors in SQLite")
    stored = operator.put_map("coco", MAP.read_bytes(), format="csv")
    console.print(f"map coco: {stored['num_images']} images of COCO val2017")
    spec = {"map": "coco", "world_size": WORLD_SIZE, "batch_size": BATCH_SIZE, "seed": seed}
    operator.put_run(RUN, spec)
    stats: dict[str, Any] = operator.stats(RUN)
    console.print(f"run {RUN}: {WORLD_SIZE} ranks x {stats['num_steps']} steps x {BATCH_SIZE} images\n")
    return stats


def _image_ids() -> set[int]:
    return {int(row["id"]) for row in csv.DictReader(MAP.read_text().splitlines())}


def _show(console: Console, proof: Proof) -> None:
    console.print("\n[bold]proof[/bold], from the workers' own logs")
    lines = [
        (proof.once > 0, f"{proof.once} images counted once"),
        (proof.twice == 0, f"{proof.twice} images counted twice"),
        (
            proof.left_out == proof.left_out_planned,
            f"{proof.left_out} images left out, {proof.left_out_planned} planned",
        ),
        (
            proof.mixed_steps == proof.mixed_steps_planned,
            f"{proof.mixed_steps} of {proof.num_steps} steps of mixed shape, {proof.mixed_steps_planned} planned",
        ),
        (proof.gaps == 0, f"{proof.gaps} ranks with a gap"),
        (
            proof.again_differs == 0,
            f"{proof.again} batches were served again after the kill, "
            f"{'the same ones' if proof.again_differs == 0 else 'NOT the same ones'}",
        ),
    ]
    for good, line in lines:
        console.print(f"  {'[green]ok[/green]   ' if good else '[red]WRONG[/red]'} {line}")
    if proof.again:
        console.print(
            "        the killed worker had finished but not acknowledged them, and its training state"
        )
        console.print("        was lost with it: they count when they are served again")
    console.print("[green]the proof holds[/green]" if proof.holds else "[red]the proof does NOT hold[/red]")


def _stay(console: Console, url: str) -> None:
    console.print(
        f"\nstill running: {url}/docs, {url}/v1/runs/{RUN}/stats, bucketline run show {RUN} --url {url}"
    )
    console.print("Press Ctrl-C to stop")
    try:
        threading.Event().wait()
    except (KeyboardInterrupt, SystemExit):
        console.print("bye")


@contextmanager
def _orderly_end() -> Iterator[None]:
    """Let SIGTERM and SIGHUP unwind the stack as Ctrl-C does."""

    def end(number: int, _: object) -> NoReturn:
        for each in before:
            signal.signal(each, signal.SIG_IGN)  # it is ending already
        raise SystemExit(128 + number)

    before = {
        number: signal.signal(number, end)
        for number in (signal.SIGTERM, signal.SIGHUP)
        if signal.getsignal(number) is not signal.SIG_IGN  # nohup
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _own_environment() -> Iterator[None]:
    """Remove the user's settings from the environment of this process and its children: they name another coordinator,
    which the demo must not write to, or a proxy, which cannot reach the demo's coordinator."""
    kept = dict(os.environ)
    for name in kept:
        if name.startswith("BUCKETLINE_") or name.lower().endswith("_proxy"):
            del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(kept)


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bucketline-demo-") as folder:
        yield Path(folder)


@contextmanager
def _coordinator(folder: Path) -> Iterator[str]:
    """The demo's own coordinator, with its data in ``folder``; it ends with the demo."""
    log = folder / "coordinator.log"
    data = folder / "data"
    command = [
        *(sys.executable, "-m", "bucketline", "serve", "--host", "127.0.0.1", "--port", "0"),
        *("--data-dir", str(data), "--store", f"sqlite:///{data / 'state.sqlite'}"),
    ]
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    assert process.stdout is not None
    try:
        first = process.stdout.readline()
        if "listening on " not in first:
            raise DemoError(
                f"the coordinator did not start: {log.read_text()[-2000:] or 'it printed nothing'}"
            )
        yield first.split("listening on ")[1].strip()
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
