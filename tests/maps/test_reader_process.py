"""Whatever happens to the process that reads a map, the coordinator continues, and says what happened."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bucketline_service.errors import BucketlineError, Invalid, StoreUnavailable, TooLarge
from bucketline_service.maps import MapStore
from tests.worlds import World

from .files import contents
from .readers import ROW, readers_of, stopped_readers, told

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes as Linux shows them")


def test_a_file_that_takes_too_long_is_refused_and_the_next_is_read(root: Path, tmp_path: Path) -> None:
    store = MapStore(root, timeout_s=0.05)
    with stopped_readers(MapStore(tmp_path / "other"), tmp_path / "file"):
        before = contents(root)
        with pytest.raises(TooLarge, match=r"must take at most .* map_timeout_s"):
            store.put("m", tmp_path / "file", "csv")
    assert contents(root) == before
    assert MapStore(root).put("m", tmp_path / "file", "csv")[1]


@pytest.mark.parametrize(
    ("number", "error", "words"),
    [
        (signal.SIGSEGV, Invalid, "cannot be read as csv: the parser crashed with SIGSEGV"),
        (signal.SIGKILL, TooLarge, "took more memory than is available"),
    ],
)
def test_a_parser_that_crashes_is_the_file_s_fault(
    root: Path, tmp_path: Path, number: signal.Signals, error: type[BucketlineError], words: str
) -> None:
    store = MapStore(root)
    with stopped_readers(store, tmp_path / "file") as pids, ThreadPoolExecutor(1) as threads:
        put = threads.submit(store.put, "m", tmp_path / "file", "csv")
        for pid in told(pids):
            os.kill(pid, number)
            os.kill(pid, signal.SIGCONT)
        with pytest.raises(error, match=words):
            put.result()
    assert store.put("m", tmp_path / "file", "csv")[1]


def test_a_coordinator_that_ends_waits_for_no_reader(tmp_path: Path) -> None:
    world = World(f"sqlite:///{tmp_path}/state.sqlite", tmp_path / "data")
    replica = world.replica()
    other = MapStore(tmp_path / "other")
    with stopped_readers(other, tmp_path / "file") as pids, ThreadPoolExecutor(1) as threads:
        headers = {"Content-Type": "text/csv"}
        put = threads.submit(replica.send, "PUT", "/v1/maps/m", content=ROW, headers=headers)
        told(pids)
        replica.coordinator.maps.close()
        answer = put.result()
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    assert "is shutting down" in answer.json()["detail"]
    world.close()


def test_a_store_that_is_closed_reads_nothing(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(ROW)
    store = MapStore(root)
    store.close()
    with pytest.raises(StoreUnavailable, match="is shutting down"):
        store.put("m", tmp_path / "file", "csv")


PUT_AND_WAIT = """
import sys
from pathlib import Path
from bucketline_service.maps import MapStore
MapStore(Path(sys.argv[1])).put("m", Path(sys.argv[2]), "csv")
print("put", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, *(pytest.param(each, marks=pytest.mark.exhaustive) for each in (signal.SIGTERM, None))],
)
def test_no_reader_outlives_its_coordinator(
    root: Path, tmp_path: Path, number: signal.Signals | None
) -> None:
    (tmp_path / "file").write_bytes(ROW)
    command = [sys.executable, "-c", PUT_AND_WAIT, str(root), str(tmp_path / "file")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == b"put\n"
    (reader,) = readers_of(process.pid)
    descriptor = os.pidfd_open(reader)
    if number is not None:
        process.send_signal(number)
    process.communicate()
    assert select.select([descriptor], [], [], 60)[0], "it is still there"
    os.close(descriptor)


def test_signals_to_the_group_are_the_coordinator_s(root: Path, tmp_path: Path) -> None:
    store = MapStore(root)
    with stopped_readers(store, tmp_path / "file") as pids, ThreadPoolExecutor(1) as threads:
        put = threads.submit(store.put, "m", tmp_path / "file", "csv")
        for pid in told(pids):
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGCONT)
        assert put.result()[0].num_images == 1
