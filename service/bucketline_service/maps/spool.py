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


class Spool:
    """Columns in ``directory``: widths and heights uint32, ids int64, or UTF-8 bytes with int64 ends; and any others,
    each a file of its own, that ``write`` fills and ``column`` looks at."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.num_images = 0
        self.id_kind: IdKind | None = None
        self._stack = stack
        self._files: dict[str, IO[bytes]] = {}
        self._num_bytes = 0

    @property
    def num_bytes(self) -> int:
        """Of all columns so far, on disk or on their way there."""
        return sum(file.tell() for file in self._files.values())

    def append_sizes(self, widths: NDArray[np.uint32], heights: NDArray[np.uint32]) -> None:
        """Of as many images as there are ids."""
        self.write("widths", widths)
        self.write("heights", heights)
        self.num_images += len(widths)

    def append_ids(self, ids: Any) -> None:
        """An int64 or large_string array. The kind of the first one is the kind of all."""
        if self.id_kind is None:
            self.id_kind = "int64" if pa.types.is_int64(ids.type) else "string"
        if self.id_kind == "int64":
            self.write("ids", ids.to_numpy())
            return
        if not self._num_bytes:
            self.write("ends", np.zeros(1, np.int64))
        _, offsets_buffer, data = ids.cast(pa.large_string()).buffers()
        offsets = np.frombuffer(offsets_buffer, np.int64)[ids.offset : ids.offset + len(ids) + 1]
        self.write("ends", offsets[1:] - offsets[0] + self._num_bytes)
        self.write("bytes", memoryview(data)[int(offsets[0]) : int(offsets[-1])])
        self._num_bytes += int(offsets[-1] - offsets[0])

    def make_ids_strings(self) -> None:
        """What was taken for numbers is text after all: the canonical form of each is what stood in the
        file."""
        numbers = self.ids()
        self._close("ids")
        self.id_kind = "string"
        for start in range(0, len(numbers), 1 << 20):
            self.append_ids(numbers.slice(start, 1 << 20).cast(pa.large_string()))
        del numbers
        (self.directory / "ids").unlink()

    def ids(self) -> Any:
        """All ids so far, over the memory map."""
        if self.id_kind == "int64":
            return self.column("ids", pa.int64())
        return pa.LargeStringArray.from_buffers(
            self._rows("ends", 8) - 1, self._map("ends"), self._map("bytes")
        )

    def column(self, name: str, kind: Any) -> Any:
        """What was written under that name, over the memory map. ``kind``: its arrow type."""
        return pa.Array.from_buffers(kind, self._rows(name, kind.bit_width // 8), [None, self._map(name)])

    def write(self, name: str, data: Any) -> None:
        """Append an array to the column of that name."""
        if name not in self._files:
            self._files[name] = self._stack.enter_context((self.directory / name).open("wb"))
        self._files[name].write(memoryview(data).cast("B"))

    def _rows(self, name: str, width_bytes: int) -> int:
        return self._files[name].tell() // width_bytes

    def _map(self, name: str) -> Any:
        self._files[name].flush()
        return pa.memory_map(str(self.directory / name)).read_buffer()

    def _close(self, name: str) -> None:
        self._files.pop(name).close()
