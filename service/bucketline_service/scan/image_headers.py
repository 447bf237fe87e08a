"""Reads the size of an image from its header, with or without EXIF orientation, from as few bytes as possible.

Pillow is the reference: a file that it cannot open is not an image, and orientation means what its ``exif_transpose``
does. JPEG, PNG and WebP are parsed here first, since Pillow reads a whole WebP file, and a whole PNG for its EXIF; when
in doubt, these parsers leave the image to Pillow. (imagesize 2.0, which only reads headers, ignores the EXIF of PNG and
WebP, and fails for every rotated AVIF or HEIC.)"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable, Collection, Iterator
from importlib import import_module
from typing import IO, Any, NamedTuple

from bucketline_service.scan.scan_files import MAX_SIDE_PX

ORIENTATION = 0x0112
_ON_ITS_SIDE = (5, 6, 7, 8)
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_ENDS = frozenset({0x01, *range(0xD0, 0xDB)})
_PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_PNG_ORIENTED = (b"Raw profile type", b"XML:com.adobe.xmp")
_PNG_TAIL_BYTES = 4096
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_TAG_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
"""The size of a value of an EXIF tag, by its type."""
_MEMORY: dict[str, bool] = {}
NEEDS = {
    "pillow_heif": "HEIC needs Pillow's plugin: pip install pillow-heif",
    "pillow_jxl": "JPEG XL needs Pillow's plugin: pip install pillow-jxl-plugin",
}
"""By plugin of Pillow, the reason why an image has no size while it is missing."""


class BadImageError(Exception):
    """The image has no size; the message is the reason."""


class ImageSize(NamedTuple):
    width: int
    height: int


class _Header(NamedTuple):
    """Sides as Pillow opens the image, and the orientation that remains to be applied."""

    width: int
    height: int
    orientation: int = 1


def read_size(file: IO[bytes], *, exif: bool = True) -> ImageSize:
    """The size of the image at the beginning of ``file``, whose position is undefined afterwards. Without ``exif`` the
    EXIF orientation is not applied: this is the size of ``Image.open(file)``, which is the size as stored except for
    TIFF and HEIC, whose decoders apply it. ``BadImageError`` where it is not an image, ``OSError`` where it cannot be
    read."""
    head = file.read(32)
    if not head:
        raise BadImageError("the file is empty")
    found = None
    for signature, reader in _READERS.items():
        if head.startswith(signature):
            try:
                found = reader(file, head)
            except (struct.error, IndexError):
                found = None
    width, height, orientation = found or _by_pillow(file, head)
    if exif and orientation in _ON_ITS_SIDE:
        width, height = height, width
    return as_size(width, height)


def as_size(width: int, height: int) -> ImageSize:
    """``BadImageError`` where a map cannot have such a size."""
    if not (1 <= width <= MAX_SIDE_PX and 1 <= height <= MAX_SIDE_PX):
        raise BadImageError(f"its sides must be 1 to {MAX_SIDE_PX:,} pixels, got {width} x {height}")
    return ImageSize(width, height)


def _jpeg(file: IO[bytes], head: bytes) -> _Header | None:
    size = None
    exif = None
    file.seek(2)
    while True:
        prefix, marker, length = struct.unpack(">BBH", file.read(4))
        if marker == 0xDA and size:
            return _Header(*size, _orientation(exif))
        if prefix != 0xFF or marker == 0xFF or marker in _JPEG_ENDS or length < 2:
            return None
        if marker in _JPEG_SIZES:
            precision, height, width, num_layers = struct.unpack(">BHHB", file.read(length - 2)[:6])
            if precision != 8 or num_layers not in (1, 3, 4) or not width or not height:
                return None
            size = (width, height)
        elif marker == 0xE1:
            data = file.read(length - 2)
            if data.startswith(b"Exif\0\0") and exif is None:
                exif = data
            elif data.startswith(b"Exif\0\0") or b"tiff:Orientation" in data:
                return None
        else:
            file.seek(length - 2, 1)


def _png(file: IO[bytes], head: bytes) -> _Header | None:
    length, kind, width, height = struct.unpack_from(">I4sII", head, 8)
    if (length, kind) != (13, b"IHDR"):
        return None
    file.seek(33)
    while True:
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind == b"eXIf":
            return _Header(width, height, _orientation(file.read(length)))
        if kind == b"IDAT":
            return _Header(width, height, _orientation(_exif_of_png_tail(file)))
        if kind == b"IEND" or (kind in _PNG_TEXTS and file.read(17).startswith(_PNG_ORIENTED)):
            return None
        file.seek(length + 4 - (17 if kind in _PNG_TEXTS else 0), 1)


def _exif_of_png_tail(file: IO[bytes]) -> bytes | None:
    """EXIF after the pixels, where some programs write it."""
    file.seek(-min(file.seek(0, 2), _PNG_TAIL_BYTES), 2)
    tail = file.read()
    at = tail.find(b"eXIf")
    while at >= 4:
        (length,) = struct.unpack_from(">I", tail, at - 4)
        end = at + 4 + length
        if tail[end : end + 4] == struct.pack(">I", zlib.crc32(tail[at:end])):
            return tail[at + 4 : end]
        at = tail.find(b"eXIf", at + 1)
    return None


def _webp(file: IO[bytes], head: bytes) -> _Header | None:
    num_bytes, form, kind = struct.unpack_from("<4xI4s4s", head)
    if form != b"WEBP" or file.seek(0, 2) < num_bytes + 8:
        return None
    if kind == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", head, 26)
        return _Header(width & 0x3FFF, height & 0x3FFF)
    if kind == b"VP8L" and head[20] == 0x2F:
        (bits,) = struct.unpack_from("<I", head, 21)
        return _Header((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind != b"VP8X":
        return None
    width, height = (int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27))
    has_exif, has_xmp = head[20] & 8, head[20] & 4
    if has_xmp:
        return None
    return _Header(width, height, _orientation(_exif_of_webp(file)) if has_exif else 1)


def _exif_of_webp(file: IO[bytes]) -> bytes:
    file.seek(30)
    while True:
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind == b"EXIF":
            return file.read(length)
        file.seek(length + length % 2, 1)


_READERS: dict[bytes, Callable[[IO[bytes], bytes], _Header | None]] = {
    b"\xff\xd8\xff": _jpeg,
    b"\x89PNG\r\n\x1a\n": _png,
    b"RIFF": _webp,
}


def _orientation(data: bytes | None) -> int:
    """The orientation in EXIF data; 1 where the data cannot be read, as the pixels still can."""
    if not data:
        return 1
    try:
        found = _plain_orientation(data)
    except struct.error:
        found = None
    return _orientation_by_pillow(data) if found is None else found


def _plain_orientation(data: bytes) -> int | None:
    """The orientation in a tenth of Pillow's time, which parses all tags; None wherever Pillow could differ."""
    start = 6 if data.startswith(b"Exif\0\0") else 0
    order = _BYTE_ORDERS.get(data[start : start + 4])
    if order is None:
        return None
    num_bytes = len(data) - start
    at = start + struct.unpack_from(order + "I", data, start + 4)[0]
    end = at + 2 + 12 * struct.unpack_from(order + "H", data, at)[0]
    if end > len(data):
        return None
    found = None
    for tag, kind, count, value, offset in _entries(order, data[at + 2 : end]):
        if tag == ORIENTATION:
            if (kind, count) != (3, 1) or found is not None:
                return None
            found = value
        elif found is None:
            size = _TAG_BYTES.get(kind)
            # Pillow stops at a tag whose value is truncated
            if size is None or (size * count > 4 and offset + size * count > num_bytes):
                return None
    return 1 if found is None else found


def _entries(order: str, table: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """The tag, type, count, and value both as a short and as an offset, of each entry."""
    shorts = struct.iter_unpack(order + "HHIH2x", table)
    for (tag, kind, count, value), (offset,) in zip(
        shorts, struct.iter_unpack(order + "8xI", table), strict=True
    ):
        yield tag, kind, count, value, offset


def _orientation_by_pillow(data: bytes) -> int:
    from PIL import Image

    exif = Image.Exif()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exif.load(data)
            return _whole(exif.get(ORIENTATION))
    except Exception:  # Pillow may raise anything for damaged data
        return 1


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 1


def _by_pillow(file: IO[bytes], head: bytes) -> _Header:
    from PIL import Image, UnidentifiedImageError

    has_heif, has_jxl = _plugin("pillow_heif"), _plugin("pillow_jxl")
    # no pixels are decoded, so no size is too large
    Image.MAX_IMAGE_PIXELS = None
    file.seek(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file) as image:
                return _opened(image)
    except UnidentifiedImageError:
        if head[4:8] == b"ftyp" and head[8:12] in (b"heic", b"heix", b"mif1", b"msf1") and not has_heif:
            raise BadImageError(NEEDS["pillow_heif"]) from None
        if head.startswith((b"\xff\x0a", b"\0\0\0\x0cJXL ")) and not has_jxl:
            raise BadImageError(NEEDS["pillow_jxl"]) from None
        raise BadImageError("it is not an image, or its header is damaged") from None
    except OSError as exc:
        if exc.errno is not None:
            raise
        raise BadImageError(_error_text(exc)) from None
    except Exception as exc:  # a plugin may raise anything for a file that is not an image
        raise BadImageError(_error_text(exc)) from None


def _opened(image: Any) -> _Header:
    from PIL import Image

    # of the base class, since PNG's own method reads the whole file for EXIF at its end
    orientation = _whole(Image.Image.getexif(image).get(ORIENTATION, 1))
    # its decoder applies the orientation, which only some releases include in its size
    if image.format == "TIFF":
        sides = image.tag_v2[256], image.tag_v2[257]
        return _Header(*(sides[::-1] if orientation in _ON_ITS_SIDE else sides))
    width, height = image.size
    return _Header(width, height, orientation)


def gone(reasons: Collection[str]) -> list[str]:
    """Those reasons of an earlier scan that no longer apply, since the plugin is installed now."""
    return [reason for module, reason in NEEDS.items() if reason in reasons and _plugin(module)]


def _plugin(module: str) -> bool:
    """Whether this plugin of Pillow is installed; if so, it is registered."""
    if module not in _MEMORY:
        try:
            plugin = import_module(module)
            if module == "pillow_heif":
                plugin.register_heif_opener()
            _MEMORY[module] = True
        except ImportError:
            _MEMORY[module] = False
    return _MEMORY[module]


def _error_text(error: Exception) -> str:
    return " ".join(f"it cannot be opened: {error or type(error).__name__}".split())[:300]
