"""A map of 10^8 or 10^9 images through the real service: put, planned, killed in between, read. `make bench-large`.

The map is made in chunks and read by the service from its file. Memory is the server's: anonymous, and the resident
part of the files it maps (Linux only). Linux reclaims the latter when other processes need memory.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
from planning import BATCH_SIZE, BLOCK, WORLD_SIZE, images

SPEC = {"world_size": WORLD_SIZE, "batch_size": BATCH_SIZE}
CHUNK = 1 << 20
LISTENING = re.compile(r"listening on (http://\S+)")


def make_map(path: Path, num: int) -> None:
    """Ids 3, 10, 17, …; sizes as in ``planning.images``, a hundred chunks of them over and over."""
    pool = [images(CHUNK, seed=seed) for seed in range(min(100, -(-num // CHUNK)))]
    names = ["id", "width", "height"]
    schema = pa.schema([("id", pa.int64()), ("width", pa.uint32()), ("height", pa.uint32())])
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
        for chunk, begin in enumerate(range(0, num, CHUNK)):
            here = min(CHUNK, num - begin)
            width, height = (side[:here] for side in pool[chunk % len(pool)])
            ids = np.arange(begin, begin + here) * 7 + 3
            writer.write_batch(pa.record_batch([ids, width, height], names=names))


class Server:
    """``bucketline serve`` on a folder; may be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.log = folder / "server.log"
        self.peak = {"anonymous": 0, "mapped": 0}
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "bucketline", "serve", "--port", "0"]
        command += ["--data-dir", str(self._folder / "data"), "--map-source", str(self._folder)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        found = LISTENING.search(self.process.stdout.readline())
        assert found, "the server did not start"
        self.client = httpx.Client(base_url=found[1], timeout=3600)
        threading.Thread(target=self._watch, args=(self.process.pid,), daemon=True).start()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    def _watch(self, pid: int) -> None:
        while True:
            try:
                text = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                return
            for name, field in (("anonymous", "RssAnon"), ("mapped", "RssFile")):
                found = re.search(rf"{field}:\s+(\d+) kB", text)
                self.peak[name] = max(self.peak[name], int(found[1]) * 1024 if found else 0)
            time.sleep(0.05)

    def ask(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        answer = self.client.request(method, path, **request)
        answer.raise_for_status()
        told: dict[str, Any] = answer.json()
        return told


def timed(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def plan(server: Server, kills: list[float]) -> tuple[float, list[float]]:
    """Seconds from the put to ready, and the progress reported right after the restart that follows each kill."""
    begin = time.perf_counter()
    server.ask("PUT", "/v1/runs/run", json={"map": "large", **SPEC})
    after: list[float] = []
    wants_first = False
    while True:
        told = server.ask("GET", "/v1/runs/run")
        if told["status"] != "planning":
            assert told["status"] == "ready", told
            return time.perf_counter() - begin, after
        if wants_first and told["progress"]:
            after.append(told["progress"])
            wants_first = False
        if kills and told["progress"] >= kills[0]:
            kills.pop(0)
            server.kill()
            server.start()
            wants_first = True
        time.sleep(0.05)


def blocks(server: Server, epoch: int, num_steps: int) -> dict[str, float]:
    """Median milliseconds of a rank's block of 64, at the first, middle and last steps of unseen epochs."""
    found = {}
    for where, step in (("first", 0), ("middle", num_steps // 2), ("last", num_steps - BLOCK)):
        taken = []
        for fresh in range(epoch, epoch + 20):
            params = {"epoch": fresh, "step": step, "rank": 3, "count": BLOCK}
            taken.append(timed(lambda: server.ask("GET", "/v1/runs/run/batches", params=params)))  # noqa: B023
        found[where] = statistics.median(taken) * 1e3
    return found


def read_through(path: Path, num_bytes: int) -> None:
    """Into the page cache: what a server that has run for a while has there, where the memory is enough."""
    with path.open("rb", buffering=0) as file:
        for _ in range(0, num_bytes, 1 << 24):
            file.read(1 << 24)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--num", type=float, default=1e8, help="images [1e8]")
    arguments.add_argument(
        "--folder", type=Path, default=Path(".benchmarks/large"), help="on a disk with 52 bytes an image"
    )
    arguments.add_argument(
        "--kills", default="", help="kill the server where planning is so far, e.g. 0.2,0.7"
    )
    arguments.add_argument("--keep", action="store_true", help="leave the map, and use the one that is there")
    given = arguments.parse_args()
    num, folder = int(given.num), given.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    about: dict[str, Any] = {"images": num, "cores": len(os.sched_getaffinity(0))}
    server = Server(folder)
    try:
        if "large" not in [each["map"] for each in server.ask("GET", "/v1/maps")["maps"]]:
            source = folder / "large.arrows"
            about["map file made, s"] = timed(lambda: make_map(source, num))
            put = {"uri": str(source)}
            about["map put, s"] = timed(lambda: server.ask("PUT", "/v1/maps/large", json=put))
            source.unlink()
            about["map put, peak"] = dict(server.peak)
        server.stop()
        server.peak = {"anonymous": 0, "mapped": 0}
        server.start()
        kills = [float(share) for share in given.kills.split(",") if share]
        about["kills"] = list(kills)
        about["ready, s"], about["progress after each kill"] = plan(server, kills)
        about["planning, peak"] = dict(server.peak)
        about["told in the log"] = server.log.read_text().count('"planning"')
        stats = server.ask("GET", "/v1/runs/run/stats")
        about["steps"] = stats["num_steps"]
        about["block of 64 batches, as planning left memory, ms"] = {
            epoch: blocks(server, epoch, stats["num_steps"]) for epoch in (0, 1000)
        }
        order = next((folder / "data" / "plans").glob("*/order.bin"))
        read_through(order, 4 * num)
        read_through(next((folder / "data" / "maps" / "objects").glob("*.arrow")), 8 * num)
        about["block of 64 batches, order and ids in memory, ms"] = {
            epoch: blocks(server, epoch, stats["num_steps"]) for epoch in (500, 2000)
        }
        image = {"epoch": 1000}
        about["where is an image, ms"] = 1e3 * timed(
            lambda: server.ask("GET", f"/v1/runs/run/images/{7 * (num // 3) + 3}", params=image)
        )
        previews = {"map": "large", "specs": [{**SPEC, "tails": tails} for tails in ("spill", "pad")]}
        about["preview of two specs, s"] = timed(lambda: server.ask("POST", "/v1/previews", json=previews))
        about["plan on disk, bytes an image"] = order.stat().st_size / num
        server.client.delete("/v1/runs/run?force=true")
    finally:
        server.stop()
        if not given.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(about, indent=2))


if __name__ == "__main__":
    main()
