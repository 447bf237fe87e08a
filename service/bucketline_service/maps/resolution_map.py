"""A stored map, opened: memory-mapped arrays, and lookups from ids to rows and back.

The file is an uncompressed Arrow IPC file of one record batch, so that each column is one range of bytes: ``id`` int64
or large_string (64-bit offsets, since 10^9 ids are more than 2 GB of text), ``width`` and ``height`` uint32, and
``by_id`` uint32: the rows in the order of their ids, for binary search. It has those optional columns
(``optional_columns.STORED``) in which an image differs from the default: ``num_repeats`` as uint8 codes of a dictionary
of float64, ``num_frames`` as uint32. A JSON sidecar has the expected size of the file, the histogram, and summaries of
the optional columns."""

from __future__ import annotations

import copy
import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bucketline_service.errors import Invalid, StoreUnavailable
from bucketline_service.maps import lazy_compute as pc
from bucketline_service.maps.column_names import ResolvedColumns
from bucketline_service.maps.digest import content_digest
from bucketline_service.maps.file_source import MAX_ID_BYTES, is_utf8, show
from bucketline_service.maps.optional_columns import STORED, Summaries
from bucketline_service.maps.sidecar import damaged, read_sidecar
from bucketline_service.maps.spool import IdKind

_INT64 = range(-(2**63), 2**63)
_CANONICAL = re.compile(r"0|-?[1-9][0-9]{0,18}")
_STEP = 1 << 20


class FileStamp(NamedTuple):
    """Detects without reading a file whether it was changed, also while no process ran: a program can reset the time of
    the last change of the content (mtime), but not that of the inode (ctime). A copy of a file is a different file."""

    num_bytes: int
    mtime_ns: int
    inode: int
    ctime_ns: int

    @classmethod
    def of(cls, path: Path) -> FileStamp:
        """``FileNotFoundError`` where the file does not exist."""
        stat = path.stat()
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns)


def is_untouched(path: Path, stamp: FileStamp) -> bool:
    """Whether the file is unchanged, at the cost of one stat. A deleted file remains as it is for processes that have
    it mapped."""
    try:
        return FileStamp.of(path) == stamp
    except FileNotFoundError:
        return True


class ResolutionMap:
    """Immutable, and safe to share between threads. It remains readable after the map is deleted.

    All arrays are in row order. ``widths``, ``heights``: uint32[num_images], pixels. ``repeat_codes``:
    uint8[num_images], the index of each image's num_repeats in ``repeat_values``, float64[at most 256], distinct and
    ascending; None, and ``[1.0]``, where every image occurs once. ``num_frames``: uint32[num_images], None where every
    image is still. ``optional``: summaries of the optional columns that the map has. ``stamp``: of the file, from
    before it was mapped. ``names``: the columns that it was read from, where it was just put."""

    names: ResolvedColumns | None = None

    def __init__(
        self,
        path: Path,
        stamp: FileStamp,
        digest: str,
        batch: Any,
        histogram: dict[str, Any],
        optional: Summaries,
    ) -> None:
        self._path = path
        self.stamp = stamp
        self.digest = digest
        self.num_images: int = batch.num_rows
        self._ids = batch.column("id")
        self.id_kind: IdKind = "int64" if pa.types.is_int64(self._ids.type) else "string"
        self.widths: NDArray[np.uint32] = batch.column("width").to_numpy()
        self.heights: NDArray[np.uint32] = batch.column("height").to_numpy()
        self._by_id: NDArray[np.uint32] = batch.column("by_id").to_numpy()
        self._int_ids: NDArray[np.int64] | None = self._ids.to_numpy() if self.id_kind == "int64" else None
        self._histogram = histogram
        self.optional_arrays = {kind: batch.column(kind) for kind in STORED if kind in batch.schema.names}
        self.optional = optional
        repeats, frames = (self.optional_arrays.get(kind) for kind in ("num_repeats", "num_frames"))
        self.repeat_codes: NDArray[np.uint8] | None = None if repeats is None else repeats.indices.to_numpy()
        self.repeat_values: NDArray[np.float64] = (
            np.ones(1) if repeats is None else repeats.dictionary.to_numpy()
        )
        self.num_frames: NDArray[np.uint32] | None = None if frames is None else frames.to_numpy()

    @classmethod
    def open(cls, path: Path, digest: str) -> ResolutionMap:
        """Memory-map the object file at ``path``. ``StoreUnavailable`` where it is truncated, changed, or in another
        layout."""
        about = read_sidecar(path, digest)
        stamp, batch = map_batch(path, about["num_bytes"])
        expected = (about["num_images"], about["id_kind"])
        found = (batch.num_rows, "int64" if pa.types.is_int64(batch.schema.field("id").type) else "string")
        if found != expected:
            raise damaged(
                path, f"it has {found[0]:,} {found[1]} ids instead of {expected[0]:,} {expected[1]} ids"
            )
        if set(about["optional"]) != STORED.keys() & set(batch.schema.names):
            raise damaged(path, f"it does not have the columns {', '.join(about['optional']) or 'of a map'}")
        return cls(path, stamp, digest, batch, about["histogram"], about["optional"])

    def read_from(self, names: ResolvedColumns) -> ResolutionMap:
        """The same map, with the columns of the file that it was read from."""
        found = copy.copy(self)
        found.names = names
        return found

    @property
    def is_whole(self) -> bool:
        """False where the file was changed since it was opened: its content may differ, and reading past its new end
        would crash the process. A deleted file remains readable."""
        return is_untouched(self._path, self.stamp)

    @property
    def int_ids(self) -> NDArray[np.int64]:
        """int64[num_images], in row order."""
        if self._int_ids is None:
            raise Invalid("id", "must be integers, got a map with string ids", "Use a map with integer ids")
        return self._int_ids

    def ids(self, rows: NDArray[np.int64]) -> list[int] | list[str]:
        """The ids of ``rows``, in that order."""
        if self._int_ids is not None:
            return cast("list[int]", self._int_ids[rows].tolist())
        return cast("list[str]", self._ids.take(pa.array(rows, pa.int64())).to_pylist())

    def id_column(self, rows: NDArray[np.int64]) -> Any:
        """The ids of ``rows`` as an Arrow array, int64 or large_string."""
        return self._ids.take(pa.array(rows, pa.int64()))

    def find(self, image_id: int | str) -> int | None:
        """The row of an image, or None. An integer and its decimal form are the same id, since URLs only have text."""
        key = self._key(image_id)
        if key is None:
            return None
        place = bisect_left(self._by_id, key, key=self._id)
        if place == self.num_images:
            return None
        row = int(self._by_id[place])
        return row if self._id(row) == key else None

    def _id(self, row: int | np.integer[Any]) -> Any:
        """Strings compare by code point, which is the order of their UTF-8 bytes."""
        return self._ids[int(row)].as_py() if self._int_ids is None else self._int_ids[row]

    def find_many(self, ids: Sequence[int | str] | NDArray[Any]) -> NDArray[np.int64]:
        """The rows of ``ids``, int64[len(ids)], in that order; ``Invalid`` lists the first few that are not in the
        map."""
        listed: list[Any] = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
        rows = self._rows_of(listed)
        missing = np.flatnonzero(rows < 0)
        if len(missing):
            few = ", ".join(show(listed[index]) for index in missing[:5].tolist())
            more = f" and {len(missing) - 5:,} more" if len(missing) > 5 else ""
            of_other_kind = str if self._int_ids is not None else int
            is_other = any(isinstance(listed[index], of_other_kind) for index in missing.tolist())
            kind = "integers" if self._int_ids is not None else "strings"
            hint = f"The ids of this map are {kind}" if is_other else None
            raise Invalid(
                "ids", f"must be in the map; missing are {few}{more}", hint, num_missing=len(missing)
            )
        return rows

    def has_many(self, ids: Sequence[int | str]) -> NDArray[np.bool_]:
        """bool[len(ids)]: whether the map has each, in the sense of ``find``."""
        return self._rows_of(ids) >= 0

    def _rows_of(self, ids: Sequence[Any]) -> NDArray[np.int64]:
        """The rows of ``ids``, int64[len(ids)], -1 where an id is not in the map."""
        keys = [self._key(image_id) for image_id in ids]
        rows = np.full(len(keys), -1, np.int64)
        asked = np.array([key is not None for key in keys], np.bool_)
        rows[asked] = self._search([key for key in keys if key is not None])
        return rows

    def histogram(self) -> dict[str, Any]:
        """The histogram of sizes and aspects; see ``size_histogram.Histogram.as_json``."""
        return copy.deepcopy(self._histogram)

    def verify(self) -> None:
        """Read the whole map and compare it with its digest: ``StoreUnavailable`` where it differs."""
        try:
            self._ids.validate(full=True)
            digest = content_digest(self._ids, self.widths, self.heights, self.optional_arrays)
            sound = digest == self.digest and self._is_sorted()
        except (pa.ArrowException, IndexError, ValueError):
            sound = False
        if not sound:
            raise damaged(self._path, "its content has changed")

    def _is_sorted(self) -> bool:
        """Whether ``by_id`` is the order of the ids: if they increase strictly, its rows are all different."""
        for start in range(0, self.num_images, _STEP):
            keys = self._ids.take(pa.array(self._by_id[start : start + _STEP + 1]))
            if len(keys) > 1 and not pc.all(pc.less(keys.slice(0, len(keys) - 1), keys.slice(1))).as_py():
                return False
        return True

    def _key(self, image_id: Any) -> int | str | None:
        """``image_id`` as this map stores ids, or None where no map of this kind can have it."""
        if isinstance(image_id, np.integer):
            image_id = int(image_id)
        if type(image_id) is int:
            if self._int_ids is None:
                return str(image_id) if image_id.bit_length() <= 256 else None
            return image_id if image_id in _INT64 else None
        if type(image_id) is not str or len(image_id) > MAX_ID_BYTES:
            return None
        if self._int_ids is not None:
            return int(image_id) if _CANONICAL.fullmatch(image_id) and int(image_id) in _INT64 else None
        return image_id if image_id.isascii() or is_utf8(image_id) else None

    def _search(self, keys: list[Any]) -> NDArray[np.int64]:
        """The rows of ``keys``, -1 for ids that are not in the map, by one binary search for all of them."""
        wanted = np.array(keys, np.int64) if self._int_ids is not None else pa.array(keys, pa.large_string())
        low = np.zeros(len(keys), np.int64)
        high = np.full(len(keys), self.num_images, np.int64)
        for _ in range(self.num_images.bit_length()):
            middle = (low + high) >> 1
            is_open = low < high
            below = self._compare(pc.less, np.less, middle, wanted)
            low = np.where(is_open & below, middle + 1, low)
            high = np.where(is_open & ~below, middle, high)
        found = (low < self.num_images) & self._compare(pc.equal, np.equal, low, wanted)
        return np.where(found, self._by_id[np.minimum(low, self.num_images - 1)].astype(np.int64), -1)

    def _compare(self, arrow: Any, numpy: Any, places: NDArray[np.int64], wanted: Any) -> NDArray[np.bool_]:
        """Compare the ids at ``places`` of the sorted order with ``wanted``."""
        rows = self._by_id[np.minimum(places, self.num_images - 1)]
        if self._int_ids is not None:
            return cast("NDArray[np.bool_]", numpy(self._int_ids[rows], wanted))
        result = arrow(self._ids.take(pa.array(rows)), wanted)
        return cast("NDArray[np.bool_]", result.to_numpy(zero_copy_only=False))


def map_batch(path: Path, num_bytes: int) -> tuple[FileStamp, Any]:
    """Memory-map an object file of that size. ``StoreUnavailable`` where it does not have the columns of a map."""
    try:
        stamp = FileStamp.of(path)
        if stamp.num_bytes != num_bytes:
            raise damaged(path, f"it has {stamp.num_bytes:,} bytes instead of {num_bytes:,}")
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if reader.num_record_batches != 1 or reader.schema.field("id").type not in (
            pa.int64(),
            pa.large_string(),
        ):
            raise damaged(path, "it does not have the columns of a map")
        batch = reader.get_batch(0)
        batch.validate()
        # without schema.names, which raises where a damaged name is not UTF-8
        optional = [kind for kind in STORED if batch.schema.get_field_index(kind) >= 0]
        if batch.schema != schema(batch.schema.field("id").type, optional):
            raise damaged(path, "it does not have the columns of a map")
        return stamp, batch
    except FileNotFoundError as exc:
        raise damaged(path, "it is missing") from exc
    except pa.ArrowException as exc:
        raise damaged(path, str(exc).splitlines()[0]) from exc
    except OSError as exc:
        if exc.errno is None:  # raised by Arrow for a damaged file
            raise damaged(path, str(exc).splitlines()[0]) from exc
        raise StoreUnavailable(f"cannot read {path}: {exc.strerror}") from exc
    except KeyError as exc:
        raise damaged(path, "it does not have the columns of a map") from exc


def schema(id_type: Any, optional: Iterable[str]) -> Any:
    """The Arrow schema of an object file with these optional columns."""
    columns = {"id": id_type, "width": pa.uint32(), "height": pa.uint32(), "by_id": pa.uint32()}
    columns |= {kind: STORED[kind] for kind in optional}
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])
