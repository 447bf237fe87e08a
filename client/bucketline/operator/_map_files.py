"""The files of a map: one, or the parts that Spark and others write a table as. Parts are sent as one tar, streamed."""

from __future__ import annotations

import glob
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .._errors import UsageError

SUFFIXES = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".json": "jsonl",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".arrows": "arrow",
    ".feather": "arrow",
    ".npz": "npz",
    ".pkl": "pickle",
    ".pickle": "pickle",
    ".tar": "tar",
}
"""The format that the end of a file's name tells; one of these may follow it. The coordinator unpacks text in gzip, and
says of the others what to do."""
PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")

CHUNK_BYTES = 1 << 20
MAX_OTHERS = 100
"""Files of no format of a map after which a folder is not looked through any further: it is one of images."""
MAX_NAME_BYTES = 100
"""That the head of a file in a tar has room for."""

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class Part(NamedTuple):
    """``name``: what it is called where something is wrong with it."""

    name: str
    path: Path

    @property
    def num_bytes(self) -> int:
        """``OSError`` where the file is not there."""
        return self.path.stat().st_size


def parts_of(source: Paths) -> list[Part]:
    """The files that ``source`` names: a file, a folder, a pattern, or several of these. ``UsageError`` where a folder
    or a pattern has none."""
    several = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    found = [part for each in several for part in _parts(Path(each))]
    if not found:
        raise UsageError(f"{source}: no file has this name")
    return found


def format_of(path: Path) -> str | None:
    """By its name; None where that does not tell."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED_SUFFIXES:
        suffixes.pop()
    return SUFFIXES.get(suffixes[-1]) if suffixes else None


def num_upload_bytes(parts: Sequence[Part]) -> int:
    """Of the file, where there is one, else of what ``tar`` gives."""
    if len(parts) == 1:
        return parts[0].num_bytes
    blocks = sum(1 + -(-part.num_bytes // tarfile.BLOCKSIZE) for part in parts)
    return (blocks + 2) * tarfile.BLOCKSIZE


def tar(parts: Sequence[Part], format: str | None) -> Iterator[bytes]:
    """The parts one after the other. ``format``: where it is given, their names tell it."""
    for number, part in enumerate(parts):
        num_bytes = left = part.num_bytes
        yield _head(number, part, num_bytes, format)
        with part.path.open("rb") as file:
            while left and (chunk := file.read(min(left, CHUNK_BYTES))):
                left -= len(chunk)
                yield chunk
        if left:
            raise UsageError(f"{part.path}: became shorter while it was sent")
        yield bytes(-num_bytes % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


def counted(sent: Iterator[bytes], progress: Callable[[int], None] | None) -> Iterator[bytes]:
    """``progress`` is told how many bytes are sent."""
    num_bytes = 0
    for chunk in sent:
        if progress is not None:
            progress(num_bytes)
        yield chunk
        num_bytes += len(chunk)
    if progress is not None:
        progress(num_bytes)


def _parts(path: Path) -> list[Part]:
    if path.is_dir():
        return _parts_in(path)
    if not path.exists() and glob.has_magic(str(path)):
        fixed = next(at for at, name in enumerate(path.parts) if glob.has_magic(name))
        files = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        kept = [
            file for file in files if file.is_file() and not any(map(_is_passed_over, file.parts[fixed:]))
        ]
        if not kept:
            raise UsageError(f"{path}: no file matches this")
        return [Part(file.name, file) for file in kept]
    return [Part(path.name, path)]


def _parts_in(folder: Path) -> list[Part]:
    """The files in the folder and its subfolders, where all are of one format; empty ones are left out."""
    found: dict[str | None, list[Part]] = {}
    for inner, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_passed_over(name))
        for name in sorted(name for name in names if not _is_passed_over(name)):
            path = Path(inner, name)
            kind = format_of(path)
            found.setdefault(kind, []).append(Part(path.relative_to(folder).as_posix(), path))
            if kind is None and len(found[kind]) > MAX_OTHERS:
                raise _no_map(folder, found)
    parts = [part for part in next(iter(found.values()), []) if part.num_bytes]
    if len(found) != 1 or None in found or not parts:
        raise _no_map(folder, found)
    return parts


def _no_map(folder: Path, found: dict[str | None, list[Part]]) -> UsageError:
    made = f"{folder.resolve().name}.parquet"
    advice = f"make a map of its images: bucketline scan {folder} -o {made}"
    known = {kind: parts[0] for kind, parts in found.items() if kind is not None}
    if known:
        part = known.get("parquet") or next(iter(known.values()))
        pattern = folder / "**" / f"*{part.path.suffix}"
        advice += (
            f". Or, as it has other files than those of one format, name those that are the map: '{pattern}'"
        )
    return UsageError(f"{folder}: is a folder; {advice}")


def _is_passed_over(name: str) -> bool:
    """Hidden files, and Spark's ``_SUCCESS`` and its like."""
    return name.startswith((".", "_"))


def _head(number: int, part: Part, num_bytes: int, format: str | None) -> bytes:
    name = part.name
    if format is not None and format_of(part.path) != format:
        name += next(suffix for suffix, known in SUFFIXES.items() if known == format)
    if len(name.encode(errors="surrogateescape")) > MAX_NAME_BYTES:
        name = f"part-{number}{''.join(Path(name).suffixes[-2:])[-20:]}"
    info = tarfile.TarInfo(name)
    info.size = num_bytes
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
