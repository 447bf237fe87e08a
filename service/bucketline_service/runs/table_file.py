"""Tables of a run's images as CSV or Parquet, with ids for rows, one block at a time."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from bucketline_service.planning import ledger
from bucketline_service.plans.run_images import Sources

Format = Literal["csv", "parquet"]


@dataclass(frozen=True)
class TableFile:
    """``pieces``: the bytes of the file, computed while they are read. Do not iterate on the event loop."""

    name: str
    format: Format
    pieces: Iterator[bytes]


def id_fields(sources: Sources) -> list[tuple[str, Any]]:
    """The columns that name an image. Ids are integers if those of all maps are. ``map`` is present if the run has
    several maps."""
    is_int = all(image_map.id_kind == "int64" for image_map in sources.maps)
    fields = [("map", pa.string())] if sources.are_several else []
    return [*fields, ("id", pa.int64() if is_int else pa.string())]


def id_columns(rows: NDArray[np.int64], sources: Sources) -> dict[str, Any]:
    """The same columns, of these rows."""
    columns: dict[str, Any] = {}
    parts, inside = sources.images.place(rows)
    if sources.are_several:
        columns["map"] = pa.array(sources.names).take(pa.array(parts))
    # look up the ids map by map, then restore the order
    order = np.argsort(parts, kind="stable")
    bounds = np.searchsorted(parts[order], np.arange(len(sources.maps) + 1))
    columns["id"] = pa.concat_arrays(
        [
            image_map.id_column(inside[order[begin:end]]).cast(id_fields(sources)[-1][1])
            for image_map, begin, end in zip(sources.maps, bounds[:-1], bounds[1:], strict=True)
        ]
    ).take(pa.array(np.argsort(order, kind="stable")))
    return columns


class TableWriter(Protocol):
    def write_table(self, table: Any) -> None: ...

    def close(self) -> None: ...


def pieces(tables: Iterator[Any], schema: Any, format: Format) -> Iterator[bytes]:
    """The file's bytes. Tables are put together to such of ``ledger.BLOCK`` to twice as many rows, each a row group of
    Parquet."""
    sink = _Sink()
    sheet = _WRITERS[format](sink, schema)
    waiting: list[Any] = []
    num = 0
    for table in tables:
        waiting.append(table)
        num += len(table)
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
