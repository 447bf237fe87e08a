"""What a scan opens, and what it returns: plain values that are passed between processes and stored in the record."""

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
"""Extensions of images, in folders and in tar shards."""
MAX_SIDE_PX = 1_000_000
"""The limit of ``maps.numeric_columns``, which is not imported here so that worker processes start fast."""
TARS = (".tar", ".tar.gz", ".tgz")


class IdStyle(StrEnum):
    """How the id of an image is made."""

    RELATIVE = "relative"
    """The path relative to the folder that was given; in a shard and in img2dataset's tables the key of the sample."""
    STEM = "stem"
    """The name without folders and extension."""
    FULL = "full"
    """The absolute path, or the URI; in a shard the path of the shard, ``/`` and the key."""


class FileKind(IntEnum):
    IMAGE = 0
    TAR = 1
    TABLE = 2
    """A Parquet file of img2dataset, which has the sizes."""
    BAD = 3
    """Nothing to open: the reason is already known."""


class FoundFile(NamedTuple):
    """A file as discovery finds it. ``location``: its absolute path, or its URI. ``id``: of the image, if it is one."""

    location: str
    kind: FileKind
    id: str | None = None
    num_bytes: int = 0
    mtime_ns: int = 0
    reason: str | None = None


class ScanFile(NamedTuple):
    """A file to open. ``number``: its number in the record."""

    number: int
    location: str
    kind: FileKind


class ImageRow(NamedTuple):
    """An image with its size, or with the reason why it has none. ``member``: its name in a shard or table, otherwise
    empty. ``id``: None where it is the id of the file."""

    member: str
    id: str | None
    width: int | None
    height: int | None
    reason: str | None


class FileResult(NamedTuple):
    """The images of a file. ``reason``: why it could not be read to its end. ``again``: the cause may be temporary, and
    the next scan opens the file again."""

    number: int
    rows: list[ImageRow]
    reason: str | None = None
    again: bool = False


def has_image_extension(name: str) -> bool:
    return name.rpartition(".")[2].lower() in EXTENSIONS and "." in name


def stem(name: str) -> str:
    return PurePosixPath(name).stem


def key_id(ids: IdStyle, location: str, key: str) -> str:
    """The id of a sample of the shard or table at ``location``."""
    if ids is IdStyle.FULL:
        return f"{location}/{key}"
    return PurePosixPath(key).name if ids is IdStyle.STEM else key
