"""Tables of a run's images as files: the ledger, and the assignments."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from .. import _wire
from .._checks import seconds
from .._errors import CoordinatorUnavailable, UsageError
from ._connection import Connection, given_params
from ._map_files import CONTENT_TYPES, SUFFIXES

TABLE_FORMATS = ("csv", "parquet")


class TableCalls(Connection):
    def ledger(
        self,
        run: str,
        target: str | os.PathLike[str] | BinaryIO,
        *,
        from_epoch: int | None = None,
        to_epoch: int | None = None,
        world_size: int | None = None,
        format: str | None = None,
        timeout_s: float = 600.0,
    ) -> int:
        """Write which images epochs leave out, repeat or never serve.

        A file appears once it is whole, and is requested again if the answer breaks off. A binary stream is written as
        the answer arrives.

        ```python
        operator.ledger("sdxl-base", "ledger.parquet", from_epoch=0, to_epoch=9)
        ```

        Args:
            run: the run's name.
            target: the path of a file, or a binary stream.
            from_epoch: the first epoch; the current one unless given.
            to_epoch: the last epoch, inclusive; `from_epoch` unless given.
            world_size: the number of ranks; the current one unless given.
            format: `csv` or `parquet`; unless given it follows from the file's suffix.
            timeout_s: the limit of the whole call, and how long the coordinator may be silent, in seconds.

        Returns:
            The number of bytes written.

        Raises:
            CoordinatorUnavailable: if there was no answer in time, or if the answer to a stream broke off.
        """
        params = {"from": from_epoch, "to": to_epoch, "world_size": world_size}
        return self._write_table(_wire.run_path(run, "ledger"), params, target, format, timeout_s)

    def assignments(
        self,
        run: str,
        target: str | os.PathLike[str] | BinaryIO,
        *,
        format: str | None = None,
        timeout_s: float = 600.0,
    ) -> int:
        """Write the bucket of every image, the size at which it is served, and how it is resized and cropped for it.

        With the default plan an image has the same size in all epochs, so that this is what a cache of latents needs.

        ```python
        operator.assignments("sdxl-base", "assignments.parquet")
        ```

        Args:
            run: the run's name.
            target: the path of a file, or a binary stream; as of `ledger`.
            format: `csv` or `parquet`; unless given it follows from the file's suffix.
            timeout_s: the limit of the whole call, and how long the coordinator may be silent, in seconds.

        Returns:
            The number of bytes written.

        Raises:
            CoordinatorUnavailable: if there was no answer in time, or if the answer to a stream broke off.
        """
        return self._write_table(_wire.run_path(run, "assignments"), {}, target, format, timeout_s)

    def _write_table(
        self,
        what: str,
        params: dict[str, Any],
        target: str | os.PathLike[str] | BinaryIO,
        format: str | None,
        timeout_s: float,
    ) -> int:
        timeout_s = seconds("timeout_s", timeout_s)
        path = Path(target) if isinstance(target, (str, os.PathLike)) else None
        if format is None:
            format = SUFFIXES.get(path.suffix.lower()) if path else "csv"
        if format not in TABLE_FORMATS:
            given = f"got {format!r}" if format else f"and the name {path} ends in neither"
            raise UsageError(f"format must be {' or '.join(TABLE_FORMATS)}, {given}")
        all_params = given_params({**params, "format": format})
        request = _wire.download(what, all_params, CONTENT_TYPES[format], timeout_s)
        wait_s = max(timeout_s, self._timeout_s)

        def write_to(target: BinaryIO, *, may_rewind: bool) -> int:
            copy = _Copy(str(request), target, may_rewind)
            self._transport.call(request, wait_s, _wire.document, copy.take)
            return copy.num_bytes

        if not isinstance(target, (str, os.PathLike)):
            return write_to(target, may_rewind=False)
        return _write_whole(Path(target), lambda file: write_to(file, may_rewind=True))


def _write_whole(path: Path, write: Callable[[BinaryIO], int]) -> int:
    """Write a file beside ``path`` and rename it, so that ``path`` is whole or unchanged."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            num_bytes = write(file)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return num_bytes


class _Copy:
    """Copies an answer's chunks to ``target``; of a second answer too, if ``target`` may be rewound."""

    def __init__(self, what: str, target: BinaryIO, may_rewind: bool) -> None:
        self.num_bytes = 0
        self._what = what
        self._target = target
        self._may_rewind = may_rewind

    def take(self, chunks: Iterator[bytes]) -> None:
        if self.num_bytes and not self._may_rewind:
            raise CoordinatorUnavailable(
                f"{self._what}: the answer broke off after {self.num_bytes:,} bytes, which have been written: "
                "call again, or write to a file instead of a stream"
            )
        if self.num_bytes:
            self._target.seek(0)
            self._target.truncate()
            self.num_bytes = 0
        for chunk in chunks:
            self._target.write(chunk)
            self.num_bytes += len(chunk)
