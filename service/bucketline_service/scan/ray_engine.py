"""The scan over a Ray cluster, by Ray Data. Every node needs ``bucketline[service,scan]``, and must reach what is
scanned by the same paths."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator, Iterable
from itertools import islice

import pyarrow as pa

from bucketline_service.errors import Invalid
from bucketline_service.scan.engines import chunks
from bucketline_service.scan.units import Kind, Result, Row, Unit
from bucketline_service.scan.work import Reader, Setting

ROUND = 1024
"""Chunks that a cluster is given at a time: what is on its way stays small, and what is done is noted."""


def on_a_cluster(setting: Setting, units: Iterable[Unit]) -> Generator[list[Result], None, None]:
    """On the cluster of ``RAY_ADDRESS``, or on one that is started here."""
    try:
        import ray
        import ray.data
    except ImportError as exc:
        raise Invalid(
            "--engine", "ray is not installed", "pip install 'bucketline[service,scan-ray]'"
        ) from exc
    work = chunks(units)
    first = next(work, None)
    if first is None:
        return
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not ray.is_initialized():
        ray.init(log_to_driver=False, logging_level="error")
    ray.data.DataContext.get_current().enable_progress_bars = False
    some: list[list[Unit]] = [first, *islice(work, ROUND - 1)]
    while some:
        # a block for each chunk, so that a cluster of any size has work
        blocks = ray.data.from_arrow([_table(chunk) for chunk in some])
        opened = blocks.map_batches(_opened, fn_args=(setting,), batch_size=None, batch_format="pyarrow")
        for batch in opened.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield [_result(text) for text in batch.column("result").to_pylist()]
        some = list(islice(work, ROUND))


def _opened(table: pa.Table, setting: Setting) -> pa.Table:
    """In a worker of the cluster: a table of units in, a table of results out."""
    units = [Unit(row["unit"], row["place"], Kind(row["kind"])) for row in table.to_pylist()]
    return pa.table({"result": [json.dumps(result) for result in Reader(setting).read(units)]})


def _table(chunk: list[Unit]) -> pa.Table:
    return pa.table(
        {
            "unit": [unit.unit for unit in chunk],
            "place": [unit.place for unit in chunk],
            "kind": [int(unit.kind) for unit in chunk],
        }
    )


def _result(text: str) -> Result:
    unit, rows, reason, again = json.loads(text)
    return Result(unit, [Row._make(row) for row in rows], reason, again)
