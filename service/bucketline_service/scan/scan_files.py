"""What a scan opens, and what it hands back: plain values that go from process to process and into the record."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from pathlib import PurePosixPath
from typing import NamedTuple

# fmt: off
EXTENSIONS = frozenset((
    "avif", "bmp", "dib", "gif", "heic", "heif", "j2c", "j2k", "jfif", "jp2", "jpe", "jpeg", "jpg", "jxl", "pbm",
    "pgm", "png", "pnm", "ppm", "qoi", "tga", "tif", "tiff", "webp",
))
# fmt: on
"""Of the files of a folder, and of the members of a shard, that are taken for images."""
MAX_SIDE_PX = 1_000_000
"""Of a map, which is not loaded for it: processes are to start fast."""
TARS = (".tar", ".tar.gz", ".tgz")


class IdStyle(StrEnum):
    """What the id of an image is."""

    RELATIVE = "relative"
    """The path below the folder that was given; in a shard and in img2dataset's tables the sample's key."""
    STEM = "stem"
    """The name without folders and extension."""
    FULL = "full"
    """The absolute path, or the URI; in a shard the shard's, ``/`` and the key."""


class FileKind(IntEnum):
    FILE = 0
    TAR = 1
    TABLE = 2
    """Of img2dataset, which has the sizes."""
    BAD = 3
    """Nothing to open: the reason is known."""


class FoundFile(NamedTuple):
    """Something to open, as the walk finds it. ``id``: of a file, its image's."""

    place: str
    kind: FileKind
    id: str | None = None
    num_bytes: int = 0
    mtime_ns: int = 0
    reason: str | None = None


class ScanFile(NamedTuple):
    """Something to open, as the record has it."""

    unit: int
    place: str
    kind: FileKind


class ImageRow(NamedTuple):
    """One image. ``member``: which of the unit. ``id``: None where it is the unit's. Either a size or a reason."""

    member: str
    id: str | None
    width: int | None
    height: int | None
    reason: str | None


class FileResult(NamedTuple):
    """``reason``: why the unit could not be read to its end. ``again``: it was not the unit's own fault, so the next
    scan tries it again."""

    unit: int
    rows: list[ImageRow]
    reason: str | None = None
    again: bool = False


def has_image_extension(name: str) -> bool:
    return name.rpartition(".")[2].lower() in EXTENSIONS and "." in name


def stem(name: str) -> str:
    return PurePosixPath(name).stem


def key_id(ids: IdStyle, place: str, key: str) -> str:
    """The id of a sample of a shard or of a table."""
    if ids is IdStyle.FULL:
        return f"{place}/{key}"
    return PurePosixPath(key).name if ids is IdStyle.STEM else key
