"""Columns of a map that is being read: appended to plain files chunk by chunk, then memory-mapped, so that an upload
takes disk space and not memory."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

IdKind = Literal["int64", "string"]

_STEP = 1 << 20


class Spool:
    """Columns in ``directory``, a file each: widths and heights as uint32, ids as int64, or as UTF-8 bytes and the
    int64 end of each; and any other column that ``write`` appends to and ``column`` reads."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.num_images = 0
        self.id_kind: IdKind | None = None
        self._stack = stack
        self._files: dict[str, IO[bytes]] = {}
        self._num_id_bytes = 0

    @property
    def num_bytes(self) -> int:
        """The size of all columns so far."""
        return sum(file.tell() for file in self._files.values())

    def append_sizes(self, widths: NDArray[np.uint32], heights: NDArray[np.uint32]) -> None:
        """Append as many sizes as ids."""
        self.write("widths", widths)
        self.write("heights", heights)
        self.num_images += len(widths)

    def append_ids(self, ids: Any) -> None:
        """Append an int64 or large_string array. The first one decides the kind of all ids."""
        if self.id_kind is None:
            self.id_kind = "int64" if pa.types.is_int64(ids.type) else "string"
        if self.id_kind == "int64":
            self.write("ids", ids.to_numpy())
            return
        if not self._num_id_bytes:
            self.write("ends", np.zeros(1, np.int64))
        _, offsets_buffer, data = ids.cast(pa.large_string()).buffers()
        offsets = np.frombuffer(offsets_buffer, np.int64)[ids.offset : ids.offset + len(ids) + 1]
        self.write("ends", offsets[1:] - offsets[0] + self._num_id_bytes)
        self.write("bytes", memoryview(data)[int(offsets[0]) : int(offsets[-1])])
        self._num_id_bytes += int(offsets[-1] - offsets[0])

    def make_ids_strings(self) -> None:
        """Convert ids read as integers so far to strings: their canonical decimal form is what the file has."""
        numbers = self.ids()
        self._files.pop("ids").close()
        self.id_kind = "string"
        for start in range(0, len(numbers), _STEP):
            self.append_ids(numbers.slice(start, _STEP).cast(pa.large_string()))
        del numbers
        (self.directory / "ids").unlink()

    def ids(self) -> Any:
        """All ids so far, memory-mapped."""
        if self.id_kind == "int64":
            return self.column("ids", pa.int64())
        num = self._files["ends"].tell() // 8 - 1
        return pa.LargeStringArray.from_buffers(num, self._map("ends"), self._map("bytes"))

    def column(self, name: str, kind: Any) -> Any:
        """The column of that name as an array of the Arrow type ``kind``, memory-mapped."""
        buffer = self._map(name)
        return pa.Array.from_buffers(kind, len(buffer) // (kind.bit_width // 8), [None, buffer])

    def write(self, name: str, data: Any) -> None:
        """Append an array to the column of that name."""
        if name not in self._files:
            self._files[name] = self._stack.enter_context((self.directory / name).open("wb"))
        self._files[name].write(memoryview(data).cast("B"))

    def _map(self, name: str) -> Any:
        self._files[name].flush()
        return pa.memory_map(str(self.directory / name)).read_buffer()
