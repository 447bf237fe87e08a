"""How workers report their progress to the driver without messages: a few numbers per rank in a shared file."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

PROGRESS, EPOCH, ACKS, UNAVAILABLE, STOP_EPOCH = range(5)
"""Steps trained since epoch 0 (about, over changes of the world size); the epoch of the last; times that a cursor was
confirmed; deadlines that have passed; the epoch before which to stop, which the driver writes in rank 0's row."""

FOR_EVER = 2**62
NUMBER = struct.Struct("=q")
NUM_COLUMNS = 5


class Board:
    """A row for each rank. One process writes a number at a time, and a whole one is what others read."""

    def __init__(self, path: Path, world_size: int) -> None:
        self.world_size = world_size
        num_bytes = world_size * NUM_COLUMNS * NUMBER.size
        if not path.exists():
            path.write_bytes(bytes(num_bytes))
        with path.open("r+b") as file:
            self._numbers = mmap.mmap(file.fileno(), num_bytes)

    def get(self, rank: int, column: int) -> int:
        (number,) = NUMBER.unpack_from(self._numbers, self._offset(rank, column))
        return int(number)

    def put(self, rank: int, column: int, number: int) -> None:
        NUMBER.pack_into(self._numbers, self._offset(rank, column), number)

    def add(self, rank: int, column: int) -> None:
        self.put(rank, column, self.get(rank, column) + 1)

    def column(self, column: int) -> list[int]:
        return [self.get(rank, column) for rank in range(self.world_size)]

    def close(self) -> None:
        self._numbers.close()

    def _offset(self, rank: int, column: int) -> int:
        return (rank * NUM_COLUMNS + column) * NUMBER.size
