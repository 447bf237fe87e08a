"""What the client costs a training process, against a real coordinator on this machine.

    python benchmarks/client.py [--batches 20000] [--batch-size 8]

Prints: importing; ``next_batch`` with prefetched batches (the budget is 20 µs, median) while the thread is idle;
batches per second through one client, with a window and without; the CPU time that both cost the training process; and
the round trip of one request.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bucketline import BucketClient, Operator

COCO = Path(__file__).parents[1] / "service" / "bucketline_service" / "data" / "coco-5k.csv"
WINDOW = 1024


def seconds_of(call: Callable[[], object], times: int) -> list[float]:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return sorted(taken)


def show(what: str, taken: list[float], unit: float = 1e6, name: str = "µs") -> None:
    median, p99 = statistics.median(taken) * unit, taken[int(len(taken) * 0.99)] * unit
    print(f"{what:<58} median {median:9.2f} {name}   p99 {p99:9.2f} {name}   n {len(taken)}")


def show_cpu(what: str, cpu_s: float, num_batches: int) -> None:
    print(f"  CPU of the training process, {what:<46} {cpu_s / num_batches * 1e6:9.2f} µs per batch")


def importing() -> None:
    def of(statement: str) -> list[float]:
        return seconds_of(lambda: subprocess.run([sys.executable, "-c", statement], check=True), 20)

    show("an interpreter", of("pass"), 1e3, "ms")
    show("  that imports bucketline", of("import bucketline"), 1e3, "ms")
    show("  that imports httpx (what the first call adds)", of("import httpx"), 1e3, "ms")


def at_hand(url: str, num_batches: int) -> None:
    """Only calls that find the window full: it is filled before, and left alone while it is read to the half."""
    taken: list[float] = []
    cpu_s = 0.0
    with BucketClient(url, "bench", window=WINDOW, ack_interval_s=3600) as client:
        while len(taken) < num_batches:
            client.next_batch(0)
            client.flush()  # also waits for the window to be topped up
            begin_s = time.thread_time()
            taken += seconds_of(lambda: client.next_batch(0), WINDOW // 2 - 8)
            cpu_s += time.thread_time() - begin_s
    show("next_batch, window full, thread idle", sorted(taken))
    show_cpu("window full", cpu_s, len(taken))


def through(url: str, window: int, num_batches: int) -> None:
    with BucketClient(url, "bench", window=window) as client:
        client.next_batch(0)
        started, cpu_s = time.perf_counter(), time.process_time()
        taken = seconds_of(lambda: client.next_batch(0), num_batches)
        rate = num_batches / (time.perf_counter() - started)
        cpu_s = time.process_time() - cpu_s
    show(f"next_batch in a loop that does nothing else, window {window}", taken)
    print(f"{'':<58} {rate:9.0f} batches/s")
    show_cpu("with its thread, fetching and acknowledging", cpu_s, num_batches)


def round_trip(url: str) -> None:
    with Operator(url) as operator:
        operator.runs()
        for count in (1, 64):
            taken = seconds_of(lambda count=count: operator.batches("bench", 0, 0, 0, count), 300)
            show(f"a request for {count} batches and its answer", taken, 1e3, "ms")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batches", type=int, default=20_000)
    parser.add_argument("--batch-size", type=int, default=8)
    given = parser.parse_args()
    importing()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "bucketline", "serve", "--port", "0", "--data-dir", folder]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[-1]
            with Operator(url) as operator:
                operator.put_map("coco", COCO)
                operator.put_run("bench", {"map": "coco", "world_size": 1, "batch_size": given.batch_size})
            at_hand(url, given.batches)
            through(url, 64, given.batches)
            through(url, 1, min(given.batches, 1000))
            round_trip(url)
        finally:
            server.terminate()
            server.communicate()


if __name__ == "__main__":
    main()
