"""The files of a map: one, or the parts in which Spark and others write a table. Parts are streamed as one tar."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from .._errors import UsageError


class MapFormat(NamedTuple):
    """A format that maps are uploaded in, by its media type and the suffixes of file names."""

    content_type: str
    suffixes: tuple[str, ...] = ()


FORMATS = {
    "csv": MapFormat("text/csv", (".csv",)),
    "tsv": MapFormat("text/tab-separated-values", (".tsv",)),
    "json": MapFormat("application/x-ndjson"),  # another name of jsonl
    "jsonl": MapFormat("application/x-ndjson", (".json", ".jsonl", ".ndjson")),
    "parquet": MapFormat("application/vnd.apache.parquet", (".parquet", ".pq")),
    "arrow": MapFormat("application/vnd.apache.arrow.stream", (".arrow", ".arrows", ".feather")),
    "npz": MapFormat("application/x-npz", (".npz",)),
    "pickle": MapFormat("application/x-pickle", (".pkl", ".pickle")),
    "tar": MapFormat("application/x-tar", (".tar",)),
}
CONTENT_TYPES = {name: format.content_type for name, format in FORMATS.items()}
SUFFIXES = {suffix: name for name, format in FORMATS.items() for suffix in format.suffixes}

PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
"""One of these may follow a suffix. The coordinator unpacks text in gzip; for the others its error says what to do."""

CHUNK_BYTES = 1 << 20
BLOCK_BYTES = 512  # of a tar archive
MAX_OTHERS = 100
"""After so many files that are not a map's, a folder is not searched any further: it holds images."""
MAX_NAME_BYTES = 100
"""The length of a file name in a tar header."""

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


class Part(NamedTuple):
    """``name`` is for error messages."""

    name: str
    path: Path

    @property
    def num_bytes(self) -> int:
        """``OSError`` if the file does not exist."""
        return self.path.stat().st_size


def parts_of(source: Paths) -> list[Part]:
    """The files that ``source`` names: a file, a folder, a pattern, or several of these. ``UsageError`` if a folder or
    a pattern yields none."""
    several = [source] if isinstance(source, (str, os.PathLike)) else list(source)
    found = [part for each in several for part in _parts(Path(each))]
    if not found:
        raise UsageError("source must name at least one file, got none")
    return found


def format_of(path: Path) -> str | None:
    """By the file's name; None if the name does not tell."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in PACKED_SUFFIXES:
        suffixes.pop()
    return SUFFIXES.get(suffixes[-1]) if suffixes else None


def content_type_of(path: Path | None, format: str | None) -> str:
    """The media type to upload a file with, or bytes if ``path`` is None. ``UsageError`` if the format is unknown."""
    if format is None:
        known = ", ".join(FORMATS)
        if path is None:
            raise UsageError(f"format must be given with bytes: one of {known}")
        format = format_of(path)
        if format is None:
            raise UsageError(
                f"{path}: its name does not say its format: name it {', '.join(SUFFIXES)} (compressed text with .gz "
                f"after it), or pass format=NAME, one of {known}"
            )
    if format not in FORMATS:
        raise UsageError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    return FORMATS[format].content_type


def num_upload_bytes(parts: Sequence[Part]) -> int:
    """The size of the only file, or of what ``tar`` yields."""
    if len(parts) == 1:
        return parts[0].num_bytes
    blocks = sum(1 + -(-part.num_bytes // BLOCK_BYTES) for part in parts)
    return (blocks + 2) * BLOCK_BYTES


def tar(parts: Sequence[Part], format: str | None) -> Iterator[bytes]:
    """The parts one after the other, as a tar archive. If ``format`` is given, the names in it get its suffix."""
    for number, part in enumerate(parts):
        num_bytes = left = part.num_bytes
        yield _head(number, part, num_bytes, format)
        with part.path.open("rb") as file:
            while left and (chunk := file.read(min(left, CHUNK_BYTES))):
                left -= len(chunk)
                yield chunk
        if left:
            raise UsageError(f"{part.path}: shrank while it was being sent")
        yield bytes(-num_bytes % BLOCK_BYTES)
    yield bytes(2 * BLOCK_BYTES)


def chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            yield chunk


def counted(sent: Iterator[bytes], progress: Callable[[int], None] | None) -> Iterator[bytes]:
    """Call ``progress`` with the number of bytes sent so far."""
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
        kept = [file for file in files if file.is_file() and not any(map(_is_hidden, file.parts[fixed:]))]
        if not kept:
            raise UsageError(f"{path}: no file matches this pattern")
        return [Part(file.name, file) for file in kept]
    return [Part(path.name, path)]


def _parts_in(folder: Path) -> list[Part]:
    """The files in the folder and its subfolders, if all have one format; empty ones are left out."""
    found: dict[str | None, list[Part]] = {}
    for inner, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        for name in sorted(name for name in names if not _is_hidden(name)):
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
    output = f"{folder.resolve().name}.parquet"
    advice = f"make a map of its images: bucketline scan {folder} -o {output}"
    known = {kind: parts[0] for kind, parts in found.items() if kind is not None}
    if known:
        part = known.get("parquet") or next(iter(known.values()))
        pattern = folder / "**" / f"*{part.path.suffix}"
        advice += f". Or, as its files are not all of one format, name those of the map: '{pattern}'"
    return UsageError(f"{folder} is a folder, not a map: {advice}")


def _is_hidden(name: str) -> bool:
    """Hidden files, and Spark's ``_SUCCESS`` and the like."""
    return name.startswith((".", "_"))


def _head(number: int, part: Part, num_bytes: int, format: str | None) -> bytes:
    import tarfile  # imported late: it is slow, and few programs upload several files

    name = part.name
    format = "jsonl" if format == "json" else format
    if format is not None and format_of(part.path) != format:
        name += FORMATS[format].suffixes[0]
    if len(name.encode(errors="surrogateescape")) > MAX_NAME_BYTES:
        name = f"part-{number}{''.join(Path(name).suffixes[-2:])[-20:]}"
    info = tarfile.TarInfo(name)
    info.size = num_bytes
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
