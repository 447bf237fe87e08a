"""Export of the ledger (planning/ledger.py) as CSV or Parquet, with ids for rows, one block at a time."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from bucketline_service.errors import Invalid
from bucketline_service.maps import MapStore
from bucketline_service.planning import ledger
from bucketline_service.planning.ledger import Entries, Ledger
from bucketline_service.plans.run_images import Sources
from bucketline_service.runs.registry import Runs
from bucketline_service.runs.resume import check_size
from bucketline_service.runs.run import Run
from bucketline_service.runs.sessions import Sessions
from bucketline_service.runs.valid_ids import of_valid_ids

Format = Literal["csv", "parquet"]
Rows = NDArray[np.int64]

MAX_EPOCHS = 1000
"""The most epochs in one answer."""


@dataclass(frozen=True)
class LedgerFile:
    """``pieces``: the bytes of the file, computed while they are read. Do not iterate on the event loop."""

    name: str
    format: Format
    pieces: Iterator[bytes]


class LedgerExport:
    """No export moves a cursor."""

    def __init__(self, runs: Runs, sessions: Sessions, maps: MapStore) -> None:
        self._runs = runs
        self._sessions = sessions
        self._maps = maps

    async def get(
        self, name: str, first: int | None, last: int | None, world_size: int | None, format: Format
    ) -> LedgerFile:
        """The ledger of epochs ``first`` (default: the present one) to ``last`` (default: ``first``), each as
        ``world_size`` ranks (default: the run's) train it from its start. Every error is raised here, before the first
        piece: ``Invalid`` if the run has no such epochs or ranks, or if they are too many."""
        run = await self._runs.open(name)
        if first is None:
            run, state = await self._sessions.state(run)
            first = min(state["epoch"], run.sharding.end_epoch - 1)
        last = first if last is None else last
        _check_epochs(run, first, last)
        if world_size is not None:
            check_size(run, world_size)
        pieces = await asyncio.to_thread(self._open, run, range(first, last + 1), world_size, format)
        return LedgerFile(f"{name}-epochs-{first}-{last}.{format}", format, pieces)

    def _open(self, run: Run, epochs: range, num_ranks: int | None, format: Format) -> Iterator[bytes]:
        run = run.sharded_to(num_ranks)
        plan, world_size = run.plan, run.generation.world_size
        valid = of_valid_ids(run, self._maps)
        made: dict[int, Ledger] = {}
        # all epochs have the same lockstep, except the one in which the generation began
        for epoch in (epochs[0], run.generation.origin.epoch, epochs[-1]):
            spec, planner = run.laid(epoch)
            if epoch in epochs and spec.lockstep not in made:
                made[spec.lockstep] = Ledger(
                    spec, plan.prepared, plan.sources.images, planner, world_size, valid
                )
        for each in made.values():
            each.join(made.values())
        # an epoch that cannot be planned must raise now, not in the middle of the answer
        run.laid(epochs[0]).planner.batches(epochs[0], np.empty(0, dtype=np.int64), world_size)
        always = next(iter(made.values())).always()
        entries = (entry for epoch in epochs for entry in made[run.laid(epoch).spec.lockstep].epoch(epoch))
        return pieces(chain(always, entries), plan.sources, format)


def _check_epochs(run: Run, first: int, last: int) -> None:
    if last < first:
        raise Invalid("to", f"must be at least from, {first}, got {last}")
    if last - first >= MAX_EPOCHS:
        detail = f"must be at most {first + MAX_EPOCHS - 1}, got {last}: one answer has up to {MAX_EPOCHS:,} epochs"
        raise Invalid("to", detail)
    if last >= run.sharding.end_epoch:
        field = "from" if first == last else "to"
        end = run.sharding.end_epoch
        raise Invalid(field, f"must be less than {end}, the number of epochs of the run, got {last}")


# --- from rows of maps to tables ----------------------------------------------------------------------------------


def _schema(sources: Sources) -> Any:
    """Ids are integers if those of all maps are. ``map`` is present if the run has several maps."""
    is_int = all(image_map.id_kind == "int64" for image_map in sources.maps)
    fields = [("epoch", pa.int64()), ("what", pa.string()), ("reason", pa.string())]
    fields += [("map", pa.string())] if sources.are_several else []
    fields += [("id", pa.int64() if is_int else pa.string()), ("num", pa.int64())]
    return pa.schema(fields)


def _table(entries: Entries, sources: Sources, schema: Any) -> Any:
    num = len(entries.rows)
    columns = {
        "epoch": pa.repeat(pa.scalar(entries.epoch, pa.int64()), num),
        "what": pa.repeat(entries.what, num),
        "reason": pa.repeat(entries.reason, num),
        "num": pa.array(entries.nums),
    }
    parts, inside = sources.images.place(entries.rows)
    if sources.are_several:
        columns["map"] = pa.array(sources.names).take(pa.array(parts))
    # look up the ids map by map, then restore the order
    order = np.argsort(parts, kind="stable")
    bounds = np.searchsorted(parts[order], np.arange(len(sources.maps) + 1))
    columns["id"] = pa.concat_arrays(
        [
            image_map.id_column(inside[order[begin:end]]).cast(schema.field("id").type)
            for image_map, begin, end in zip(sources.maps, bounds[:-1], bounds[1:], strict=True)
        ]
    ).take(pa.array(np.argsort(order, kind="stable")))
    return pa.table(columns, schema=schema)


class TableWriter(Protocol):
    def write_table(self, table: Any) -> None: ...

    def close(self) -> None: ...


def pieces(entries: Iterator[Entries], sources: Sources, format: Format) -> Iterator[bytes]:
    """The file's bytes. Entries are collected into tables of ``ledger.BLOCK`` to twice as many rows, each a row group
    of Parquet."""
    schema = _schema(sources)
    sink = _Sink()
    sheet = _WRITERS[format](sink, schema)
    waiting: list[Any] = []
    num = 0
    for each in entries:
        waiting.append(_table(each, sources, schema))
        num += len(each.rows)
        if num >= ledger.BLOCK:
            sheet.write_table(pa.concat_tables(waiting).combine_chunks())
            waiting, num = [], 0
            yield sink.take()
    if waiting:
        sheet.write_table(pa.concat_tables(waiting).combine_chunks())
    sheet.close()
    yield sink.take()


_WRITERS: dict[Format, Callable[[Any, Any], TableWriter]] = {
    "csv": pyarrow.csv.CSVWriter,
    "parquet": pyarrow.parquet.ParquetWriter,
}


class _Sink(io.RawIOBase):
    """A buffer that is emptied while it is written."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._num_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._num_bytes += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._num_bytes

    def take(self) -> bytes:
        """What was written since the last call."""
        taken, self._pieces = b"".join(self._pieces), []
        return taken
