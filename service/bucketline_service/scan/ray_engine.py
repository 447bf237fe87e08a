"""The scan over a Ray cluster, by Ray Data. Every node needs ``bucketline[service,scan]``, and must reach what is
scanned by the same paths."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Generator, Iterable, Iterator
from itertools import islice

import pyarrow as pa

from bucketline_service.errors import BucketlineError, Invalid
from bucketline_service.scan.engines import chunks
from bucketline_service.scan.scan_files import FileKind, FileResult, ImageRow, ScanFile
from bucketline_service.scan.worker import FileReader, ReadOptions

ROUND = 1024
"""Chunks that a cluster is given at a time: what is on its way stays small."""
CHUNK = 4096
"""Files: to hand out a chunk takes Ray longer than it takes to open a hundred."""


CONNECT_TIMEOUT_S = 10.0


def on_a_cluster(setting: ReadOptions, units: Iterable[ScanFile]) -> Generator[list[FileResult], None, None]:
    """On the cluster of ``RAY_ADDRESS``, or on one that is started here."""
    try:
        import ray
        import ray.data
    except ImportError as exc:
        raise Invalid(
            "--engine", "ray is not installed", "pip install 'bucketline[service,scan-ray]'"
        ) from exc
    work = chunks(units, CHUNK)
    first = next(work, None)
    if first is None:
        return
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not ray.is_initialized():
        _check_answers(os.environ.get("RAY_ADDRESS", ""))
        try:
            ray.init(log_to_driver=False, logging_level="error")
        except (ConnectionError, RuntimeError, ValueError) as exc:
            raise Invalid("RAY_ADDRESS", f"no Ray cluster can be used there: {_line(exc)}") from exc
    ray.data.DataContext.get_current().enable_progress_bars = False
    some: list[list[ScanFile]] = [first, *islice(work, ROUND - 1)]
    while some:
        # a block for each chunk, so that a cluster of any size has work
        blocks = ray.data.from_arrow([_table(chunk) for chunk in some])
        opened = blocks.map_batches(_opened, fn_args=(setting,), batch_size=None, batch_format="pyarrow")
        batches = iter(opened.iter_batches(batch_size=None, batch_format="pyarrow"))
        while (batch := _next(batches)) is not None:
            yield [_result(text) for text in batch.column("result").to_pylist()]
        some = list(islice(work, ROUND))


def _check_answers(address: str) -> None:
    """Ray itself would go on asking for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), CONNECT_TIMEOUT_S).close()
        except OSError as exc:
            raise Invalid(
                "RAY_ADDRESS", f"nothing answers at {address}: {exc}", "Start Ray, or unset it"
            ) from exc


def _next(batches: Iterator[pa.Table]) -> pa.Table | None:
    """None at their end."""
    from ray.exceptions import RayError

    try:
        return next(batches, None)
    except RayError as exc:
        raise BucketlineError(
            f"the Ray cluster has failed: {_line(exc)}. What is done is kept: the same command goes on"
        ) from exc


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _opened(table: pa.Table, setting: ReadOptions) -> pa.Table:
    """In a worker of the cluster: a table of units in, a table of results out."""
    units = [ScanFile(row["unit"], row["place"], FileKind(row["kind"])) for row in table.to_pylist()]
    return pa.table({"result": [json.dumps(result) for result in FileReader(setting).read(units)]})


def _table(chunk: list[ScanFile]) -> pa.Table:
    return pa.table(
        {
            "unit": [unit.unit for unit in chunk],
            "place": [unit.place for unit in chunk],
            "kind": [int(unit.kind) for unit in chunk],
        }
    )


def _result(text: str) -> FileResult:
    unit, rows, reason, again = json.loads(text)
    return FileResult(unit, [ImageRow._make(row) for row in rows], reason, again)
