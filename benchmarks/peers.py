"""bucketline's planner compared with others, in one run: `make bench-peers`. benchmarks/peers/__init__.py lists them.

For each peer and number of images: what a run makes once (build), the time to the first batch of an epoch (start), the
time to the next batch at half of an epoch after a restart (resume), all of one rank of 8 with batches of 8, and for
peers that can start at any position the cost per id in blocks of 4,096. Each measurement runs in its own process, for
at most ``--limit`` seconds. Times are wall-clock times, medians if there was time for several runs; what precedes
(imports, reading the sizes, for start and resume also the build) is not included. Peak memory is the ``ru_maxrss`` of
the whole process. Nothing is downloaded; the same seeds give the same images and the same orders every time.

    python benchmarks/peers.py --sizes 1e5,1e6 --peers bucketline,torch --out peers.json
    python benchmarks/peers.py --read peers.json --plot peers.svg
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from peers import EPOCH, IDS, PEERS, QUANTITIES, Job, missing
from peers.table import table

# No numpy here: a child's ru_maxrss starts with what its parent has used (Linux keeps it over exec).

Row = dict[str, Any]

MAX_RUNS, ENOUGH_SECONDS = 15, 2.0


# One measurement, in its own process


def peak() -> int:
    """The most memory that this process has had so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def timed(run: Callable[[int], object]) -> dict[str, Any]:
    """Run several times, on another epoch each, where one run is short; the first is kept beside the median."""
    walls: list[float] = []
    cpus: list[float] = []
    while len(walls) < MAX_RUNS and sum(walls) < ENOUGH_SECONDS:
        begin, begin_cpu = time.perf_counter(), time.process_time()
        run(EPOCH + len(walls))
        walls.append(time.perf_counter() - begin)
        cpus.append(time.process_time() - begin_cpu)
    return {
        "seconds": statistics.median(walls),
        "cpu_seconds": statistics.median(cpus),
        "first_seconds": walls[0],
        "runs": len(walls),
    }


def measure(name: str, quantity: str, num: int, folder: Path, memory: float | None) -> Row:
    peer = PEERS[name]
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (int(memory * 1e9), int(memory * 1e9)))
    module = import_module(f"peers.{peer.module}")
    versions = {package: version(package) for package in peer.packages}
    imported = peak()
    job = Job(num, *sizes_of(folder, num)) if peer.sizes else Job(num)
    loaded = peak()
    if quantity == "build":
        figures = timed(lambda _: module.build(job))
    else:
        state = module.build(job)
        run = getattr(module, quantity)
        figures = timed(lambda epoch: run(state, epoch))
    if quantity == "ids":
        figures["ns_an_id"] = figures["seconds"] / IDS * 1e9
    memories = {"import_bytes": imported, "input_bytes": loaded - imported, "peak_bytes": peak()}
    return {"status": "ok", "versions": versions, **figures, **memories}


def sizes_of(folder: Path, num: int) -> tuple[Any, Any]:
    import numpy as np

    # past this the files stay files, so that the build finds memory
    mode = "r" if num > 3 * 10**8 else None
    widths, heights = (np.load(folder / f"{side}.npy", mmap_mode=mode) for side in ("widths", "heights"))
    return widths, heights


# All measurements


def child(arguments: list[str], limit: float | None) -> Row:
    """What a child measured, or why it did not."""
    command = [sys.executable, "-W", "ignore", __file__, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"status": "limit", "reason": f"> {limit:g} s"}
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    last = ([line for line in done.stderr.splitlines() if line.strip()] or ["no message"])[-1]
    if done.returncode < 0:
        last = f"killed by signal {-done.returncode}" + (" (no memory?)" if done.returncode == -9 else "")
    if "MemoryError" in last or "allocate memory" in last:
        return {"status": "memory", "reason": "out of memory"}
    return {"status": "failed", "reason": last[:200]}


def why_not(name: str, quantity: str, num: int, rows: list[Row]) -> str | None:
    """Why this is not measured."""
    peer = PEERS[name]
    if reason := missing(peer):
        return reason
    if num > peer.cap:
        return f"not run past {peer.cap:,}: {peer.why}"
    stuck = [
        row
        for row in rows
        if row["peer"] == name and row["quantity"] in ("build", quantity) and row["status"] != "ok"
    ]
    # what was too much for fewer images is not tried with more
    return f"{stuck[0]['reason']} at {stuck[0]['num']:,}" if stuck else None


def run_all(
    nums: list[int], names: list[str], limit: float, memory: float | None, save: Callable[[dict], None]
) -> dict:
    plain = Job(0)
    results: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "settings": {
            "world_size": plain.world_size,
            "batch_size": plain.batch_size,
            "seed": plain.seed,
            "limit_seconds": limit,
        },
        "rows": [],
    }
    rows: list[Row] = results["rows"]
    begin = time.monotonic()
    for num in sorted(nums):
        with tempfile.TemporaryDirectory() as folder:
            if any(PEERS[name].sizes and num <= PEERS[name].cap for name in names):
                made = child(["--measure", "images", str(num), folder], None)
                if made["status"] != "ok":
                    raise SystemExit(f"making {num:,} images failed: {made['reason']}")
            for name in names:
                for quantity in QUANTITIES if PEERS[name].ids else QUANTITIES[:3]:
                    reason = why_not(name, quantity, num, rows)
                    row = {"status": "skipped", "reason": reason}
                    if reason is None:
                        arguments = ["--measure", name, quantity, str(num), folder]
                        row = child(arguments + ([f"--memory={memory}"] if memory else []), limit)
                    rows.append({"peer": name, "num": num, "quantity": quantity, **row})
                    save(results)
                    said = f"{row['seconds']:.6f} s" if row["status"] == "ok" else row["reason"]
                    at = f"{time.monotonic() - begin:7.0f} s"
                    print(f"{at}  {num:>13,}  {name:<14} {quantity:<7} {said}", file=sys.stderr)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", type=sizes, default="1e5,1e6,1e7,1e8", help="numbers of images (%(default)s)"
    )
    parser.add_argument("--peers", type=peers, default=",".join(PEERS), help="which (%(default)s)")
    parser.add_argument("--limit", type=float, default=1200, help="seconds for a measurement (%(default)s)")
    parser.add_argument("--memory", type=float, help="GB of data for a measurement (no limit)")
    parser.add_argument("--out", type=Path, help="write the results here, as they come")
    parser.add_argument(
        "--read", type=Path, help="measure nothing: the table, and the plot, of these results"
    )
    parser.add_argument("--plot", type=Path, help="draw start and resume here (matplotlib)")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        what, *rest = options.measure
        if what == "images":
            num, folder = rest
            import_module("peers.images").write(Path(folder), int(num))
            print(json.dumps({"status": "ok"}))
        else:
            quantity, num, folder = rest
            print(json.dumps(measure(what, quantity, int(num), Path(folder), options.memory)))
        return

    def save(results: dict) -> None:
        if options.out:
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps(results, indent=1) + "\n")

    if options.read:
        results = json.loads(options.read.read_text())
    else:
        results = run_all(options.sizes, options.peers, options.limit, options.memory, save)
    print(table(results), end="")
    if options.plot:
        import_module("peers.plot").draw(results, options.plot)


def sizes(text: str) -> list[int]:
    nums = [int(float(part)) for part in text.split(",")]
    if min(nums) < 10**4:
        raise argparse.ArgumentTypeError("at least 10,000 images")
    return nums


def peers(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in PEERS]:
        raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}: take of {', '.join(PEERS)}")
    return names


if __name__ == "__main__":
    main()
