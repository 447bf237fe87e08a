"""How fast batches are handed out: the server on one core, the load and Redis on another. `make bench`.

    python benchmarks/serving.py [--seconds 10] [--ranks 10000 --minutes 10]

A closed loop of ``next`` with acknowledgements, on a real Redis that writes each to disk before it answers, compared
with a bare Starlette endpoint in the same run. With ``--ranks``, the long run: that many ranks at one step per second.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import uvloop
from planning import images
from serving import machines
from serving.load import Load, Rank, leases
from serving.machines import Machine

from bucketline import Operator

SERVER_CORE, LOAD_CORE = 0, 1
BATCH_SIZE = 8
CONNECTIONS = 64
HALF_WINDOW = 32
"""What a client asks for at a time: half of its window of 64."""
TOKEN, OPERATOR_TOKEN = "bench-worker", "bench-operator"
FLOOR = Path(__file__).parent / "serving" / "floor.py"


@contextmanager
def coordinator(store: Machine, world_size: int, num_images: int) -> Iterator[Machine]:
    """A coordinator with the run ``bench``, ready."""
    with tempfile.TemporaryDirectory(prefix="bucketline-serving-") as folder:
        source = Path(folder) / "images.arrows"
        width, height = images(num_images)
        table = pa.table({"id": np.arange(num_images) * 7 + 3, "width": width, "height": height})
        with pa.OSFile(str(source), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
        flags = ["--port", "0", "--data-dir", f"{folder}/data", "--map-source", folder]
        flags += ["--store", f"redis://127.0.0.1:{store.port}/0"]
        tokens = {"BUCKETLINE_WORKER_TOKEN": TOKEN, "BUCKETLINE_OPERATOR_TOKEN": OPERATOR_TOKEN}
        with machines.python(SERVER_CORE, "-m", "bucketline", "serve", *flags, **tokens) as server:
            with Operator(server.url, token=OPERATOR_TOKEN) as operator:
                operator.put_map("images", source)
                operator.put_run(
                    "bench", {"map": "images", "world_size": world_size, "batch_size": BATCH_SIZE}
                )
            yield server


def measured(name: str, server: Machine, store: Machine | None, load: Load, num_connections: int) -> float:
    """Prints a line, and answers how many requests a second."""
    before, store_before = server.cpu_s(), store.cpu_s() if store else 0.0
    took_s = uvloop.run(load.run(num_connections))
    assert not load.num_errors, load.first_error
    cpu_us = (server.cpu_s() - before) / load.num_requests * 1e6
    store_us = (store.cpu_s() - store_before) / load.num_requests * 1e6 if store else 0.0
    taken = np.sort(load.taken_s) * 1e3
    rate = load.num_requests / took_s
    print(
        f"{name:<28} {num_connections:>5} {rate:>10,.0f} {rate * load.count:>12,.0f} {cpu_us:>9.0f} {store_us:>8.0f}"
        f" {statistics.median(taken):>8.2f} {taken[int(len(taken) * 0.99)]:>8.2f}",
        flush=True,
    )
    return rate


def short_runs(seconds: float, counts: Sequence[int], connections: Sequence[int]) -> None:
    columns = (
        ("conns", 5),
        ("requests/s", 10),
        ("batches/s", 12),
        ("CPU µs", 9),
        ("Redis µs", 8),
        ("p50 ms", 8),
        ("p99 ms", 8),
    )
    print(f"{'':<28}", *(f"{name:>{width}}" for name, width in columns))
    floor: dict[int, float] = {}
    with machines.python(SERVER_CORE, str(FLOOR)) as server:
        for num in connections:
            load = Load(server.port, TOKEN, [Rank(n, 1, 1) for n in range(num)], 1, seconds)
            floor[num] = measured("bare Starlette", server, None, load, num)
    with machines.redis(LOAD_CORE) as store, coordinator(store, max(connections), 1_000_000) as server:
        ranks = uvloop.run(leases(server.port, TOKEN, max(connections)))
        for num in connections:
            for count in counts:
                load = Load(server.port, TOKEN, ranks[:num], count, seconds)
                rate = measured(f"next, {count} batches of {BATCH_SIZE}", server, store, load, num)
                if count == 1:
                    print(f"{'':<28} {'':>5} {rate / floor[num]:>10.2f} of the bare endpoint")


def long_run(num_ranks: int, minutes: float) -> None:
    """Each rank does a step a second; its client asks for half a window when half of it is used up."""
    with machines.redis(LOAD_CORE) as store, coordinator(store, num_ranks, 10_000_000) as server:
        ranks = uvloop.run(leases(server.port, TOKEN, num_ranks))
        load = Load(server.port, TOKEN, ranks, HALF_WINDOW, minutes * 60, every_s=HALF_WINDOW)
        rss = [server.rss_bytes()]
        sampler = threading.Thread(target=_sample, args=(server, rss, minutes * 60), daemon=True)
        sampler.start()
        measured(f"{num_ranks:,} ranks, a step a second", server, store, load, CONNECTIONS)
        print("RSS, MB, a sample a minute:", *(f"{each / 1e6:.0f}" for each in [*rss, server.rss_bytes()]))
        with Operator(server.url, token=TOKEN) as operator:
            told = {each["rank"]: (each["epoch"], each["step"]) for each in operator.ranks("bench")}
        behind = [rank.number for rank in ranks if told[rank.number] != rank.cursor]
        print(f"cursors that are not where their rank acknowledged: {len(behind)} of {len(ranks)}")


def _sample(server: Machine, rss: list[int], seconds: float) -> None:
    for _ in range(int(seconds // 60)):
        time.sleep(60)
        rss.append(server.rss_bytes())


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=10, help="of each measurement [10]")
    arguments.add_argument("--counts", type=int, nargs="*", default=[1, 8, 32, 64], help="batches a request")
    arguments.add_argument("--connections", type=int, nargs="*", default=[16, 64])
    arguments.add_argument("--ranks", type=int, default=0, help="the long run, with so many ranks")
    arguments.add_argument("--minutes", type=float, default=10, help="of the long run [10]")
    given = arguments.parse_args()
    os.sched_setaffinity(0, {LOAD_CORE})
    if given.ranks:
        long_run(given.ranks, given.minutes)
    else:
        short_runs(given.seconds, given.counts, given.connections)


if __name__ == "__main__":
    main()
