"""The columns on their way in: appended chunk by chunk to plain files, then looked at through a memory map,
so that an upload's size is the disk's business and not the heap's."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

IdKind = Literal["int64", "string"]


class Staging:
    """Columns in ``directory``: widths and heights uint32, ids int64, or UTF-8 bytes with int64 ends."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.num_images = 0
        self.id_kind: IdKind | None = None
        self._stack = stack
        self._files: dict[str, IO[bytes]] = {}
        self._num_bytes = 0

    def append(self, ids: Any, widths: NDArray[np.uint32], heights: NDArray[np.uint32]) -> None:
        """``ids`` an int64 or large_string array. The kind of the first chunk is the kind of all."""
        self._write("widths", widths)
        self._write("heights", heights)
        self._append_ids(ids)
        self.num_images += len(widths)

    def _append_ids(self, ids: Any) -> None:
        if self.id_kind is None:
            self.id_kind = "int64" if pa.types.is_int64(ids.type) else "string"
        if self.id_kind == "int64":
            self._write("ids", ids.to_numpy())
            return
        if not self._num_bytes:
            self._write("ends", np.zeros(1, np.int64))
        _, offsets_buffer, data = ids.cast(pa.large_string()).buffers()
        offsets = np.frombuffer(offsets_buffer, np.int64)[ids.offset : ids.offset + len(ids) + 1]
        self._write("ends", offsets[1:] - offsets[0] + self._num_bytes)
        self._write("bytes", memoryview(data)[int(offsets[0]) : int(offsets[-1])])
        self._num_bytes += int(offsets[-1] - offsets[0])

    def make_ids_strings(self) -> None:
        """What was taken for numbers is text after all: the canonical form of each is what stood in the
        file."""
        numbers = self.ids()
        self._close("ids")
        self.id_kind = "string"
        for start in range(0, len(numbers), 1 << 20):
            self._append_ids(numbers.slice(start, 1 << 20).cast(pa.large_string()))
        del numbers
        (self.directory / "ids").unlink()

    def ids(self) -> Any:
        """All ids so far, over the memory map."""
        if self.id_kind == "int64":
            return pa.Array.from_buffers(pa.int64(), self._rows("ids", 8), [None, self._map("ids")])
        return pa.LargeStringArray.from_buffers(
            self._rows("ends", 8) - 1, self._map("ends"), self._map("bytes")
        )

    def sides(self, which: Literal["widths", "heights"]) -> Any:
        return pa.Array.from_buffers(pa.uint32(), self.num_images, [None, self._map(which)])

    def _rows(self, name: str, width_bytes: int) -> int:
        return self._files[name].tell() // width_bytes

    def _map(self, name: str) -> Any:
        self._files[name].flush()
        return pa.memory_map(str(self.directory / name)).read_buffer()

    def _write(self, name: str, data: Any) -> None:
        if name not in self._files:
            self._files[name] = self._stack.enter_context((self.directory / name).open("wb"))
        self._files[name].write(memoryview(data).cast("B"))

    def _close(self, name: str) -> None:
        self._files.pop(name).close()
