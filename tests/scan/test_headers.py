"""Sizes are those that Pillow shows after ``exif_transpose``, or without it, by every way to read them."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from pillow_heif import register_heif_opener

from bucketline_service.maps import numeric_columns
from bucketline_service.scan import scan_files
from bucketline_service.scan.image_headers import BadImageError, ImageSize, read_size

from .images import ORIENTATION, exif, image

FORMATS = {
    "jpeg": lambda **more: image(format="JPEG", **more),
    "progressive": lambda **more: image(format="JPEG", progressive=True, **more),
    "png": lambda **more: image(format="PNG", **more),
    "webp": lambda **more: image(format="WEBP", **more),
    "webp-lossless": lambda **more: image(format="WEBP", lossless=True, **more),
    "avif": lambda **more: image(64, 48, format="AVIF", **more),
    "tiff": lambda **more: image(format="TIFF", **more),
    "heif": lambda **more: image(64, 48, format="HEIF", **more),
}
XMP = (
    b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:Description "
    b'tiff:Orientation="6" xmlns:tiff="http://ns.adobe.com/tiff/1.0/"/></x:xmpmeta>'
)


def of_pillow(data: bytes) -> ImageSize:
    with Image.open(io.BytesIO(data)) as opened:
        turned = ImageOps.exif_transpose(opened)
        return ImageSize(*turned.size)


def of_scan(data: bytes) -> ImageSize:
    return read_size(io.BytesIO(data))


@pytest.fixture(autouse=True, scope="module")
def _heif() -> None:
    register_heif_opener()


@pytest.mark.parametrize("name", FORMATS)
def test_orientation_is_applied(name: str) -> None:
    make: Callable[..., bytes] = FORMATS[name]
    upright = of_scan(make())
    assert upright == of_pillow(make())
    assert upright.width > upright.height
    for orientation in range(9):
        data = make(orientation=orientation)
        assert of_scan(data) == of_pillow(data), orientation
        assert (of_scan(data) == upright) == (orientation < 5), orientation


def as_opened(data: bytes) -> tuple[int, int]:
    """As a loader has it that never turns an image."""
    with Image.open(io.BytesIO(data)) as opened:
        opened.load()
        return opened.size


@pytest.mark.parametrize("name", FORMATS)
def test_without_exif_no_image_is_turned(name: str) -> None:
    for orientation in range(9):
        data = FORMATS[name](orientation=orientation)
        assert read_size(io.BytesIO(data), exif=False) == as_opened(data), orientation


@pytest.mark.parametrize("name", ["GIF", "BMP", "PPM", "TGA", "JPEG2000"])
def test_formats_without_exif(name: str) -> None:
    assert of_scan(image(format=name)) == (40, 30)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(kind: bytes, data: bytes, *, last: bool = False) -> bytes:
    png = image(format="PNG")
    at = png.index(b"IEND") - 4 if last else 33
    return png[:at] + chunk(kind, data) + png[at:]


PLAIN_EXIF = exif(6).removeprefix(b"Exif\0\0")


@pytest.mark.parametrize(
    "data",
    [
        with_chunk(b"eXIf", PLAIN_EXIF),
        with_chunk(b"eXIf", PLAIN_EXIF, last=True),
        with_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
        with_chunk(
            b"tEXt",
            b"Raw profile type exif\0\nexif\n" + b"%8d\n" % len(exif(6)) + exif(6).hex().encode() + b"\n",
        ),
        image(format="JPEG", xmp=XMP),
        image(format="WEBP", xmp=XMP),
        image(format="WEBP", xmp=XMP, exif=exif(8)),
    ],
    ids=["png", "png-behind", "png-xmp", "png-raw", "jpeg-xmp", "webp-xmp", "webp-both"],
)
def test_orientation_wherever_it_stands(data: bytes) -> None:
    assert of_scan(data) == of_pillow(data) == (30, 40)
    assert read_size(io.BytesIO(data), exif=False) == as_opened(data) == (40, 30)


@pytest.mark.parametrize("kind", [b"eXIf", b"tEXt", b"iTXt"])
def test_other_chunks_turn_nothing(kind: bytes) -> None:
    for data in (b"", b"short", b"Comment\0eXIf" * 9):
        png = with_chunk(kind, data, last=True)
        assert of_scan(png) == (40, 30)
    broken = bytearray(with_chunk(b"eXIf", PLAIN_EXIF, last=True))
    broken[broken.index(b"eXIf") + len(PLAIN_EXIF) + 4] ^= 1
    assert of_scan(bytes(broken)) == (40, 30), "the chunk's checksum is wrong"


def test_exif_that_can_not_be_read_turns_nothing() -> None:
    assert of_scan(image(format="JPEG", exif=b"Exif\0\0no TIFF")) == (40, 30)


def rich_exif(order: str) -> bytes:
    """As of a camera: texts before and behind the orientation."""
    entries = Image.Exif()
    entries.endian = order
    entries[0x010F], entries[0x0110], entries[0x0131] = (
        "A camera's maker",
        "model",
        "a program and its version",
    )
    entries[ORIENTATION] = 6
    entries[0x011A] = 72.0
    return entries.tobytes()


@given(
    order=st.sampled_from("<>"),
    damage=st.lists(st.tuples(st.integers(0, 95), st.integers(0, 255)), max_size=4),
    end=st.integers(8, 200),
)
@example(order="<", damage=[], end=200)
@example(order=">", damage=[], end=200)
def test_exif_in_any_state_turns_as_pillow_says(order: str, damage: list[tuple[int, int]], end: int) -> None:
    data = bytearray(rich_exif(order))
    for at, value in damage:
        data[at % len(data)] = value
    jpeg = image(format="JPEG", exif=bytes(data[:end]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            turned = Image.open(io.BytesIO(jpeg)).getexif().get(ORIENTATION) in (5, 6, 7, 8)
        except Exception:
            turned = False
    assert of_scan(jpeg) == ((30, 40) if turned else (40, 30))
    assert turned or damage or end < 200


class Counted(io.BytesIO):
    num_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.num_bytes += len(data)
        return data


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP"])
def test_pixels_are_not_read(name: str) -> None:
    noise = io.BytesIO()
    Image.effect_noise((640, 480), 90).convert("RGB").save(noise, name, exif=exif(6), quality=90)
    file = Counted(noise.getvalue())
    assert read_size(file) == (480, 640)
    assert file.num_bytes < 3000 < len(noise.getvalue()) / 20


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "tiff", "avif"])
def test_cut_anywhere_it_is_bad_or_has_its_size(name: str) -> None:
    data = FORMATS[name](orientation=6)
    whole = of_scan(data)
    step = max(1, len(data) // 200)
    told = set()
    for end in range(0, len(data), step):
        try:
            assert of_scan(data[:end]) in (whole, whole[::-1])
        except BadImageError as exc:
            told.add(str(exc))
    assert "the file is empty" in told
    assert len(told) > 1


@given(name=st.sampled_from(sorted(FORMATS)), at=st.integers(0, 400), bits=st.integers(1, 255))
def test_broken_anywhere_it_is_bad_or_has_a_size(name: str, at: int, bits: int) -> None:
    data = bytearray(FORMATS[name](orientation=6))
    data[at % len(data)] ^= bits
    with suppress(BadImageError):
        assert min(of_scan(bytes(data))) > 0


def png_of(width: int, height: int) -> bytes:
    png = image(format="PNG")
    return png[:8] + chunk(b"IHDR", struct.pack(">II", width, height) + png[24:29]) + png[33:]


def test_no_size_is_a_bomb() -> None:
    assert of_scan(png_of(100_000, 90_000)) == (100_000, 90_000)
    huge = image(format="TIFF").replace(
        struct.pack("<HHII", 256, 4, 1, 40), struct.pack("<HHII", 256, 4, 1, 900_000)
    )
    assert of_scan(huge) == (900_000, 30)


def test_sides_are_those_of_a_map() -> None:
    assert scan_files.MAX_SIDE_PX == numeric_columns.MAX_SIDE_PX


@pytest.mark.parametrize("size", [(0, 5), (1_000_001, 5)])
def test_sides_that_no_map_takes(size: tuple[int, int]) -> None:
    with pytest.raises(BadImageError, match=r"sides must be 1 to 1,000,000|cannot be opened"):
        of_scan(png_of(*size))


@pytest.mark.parametrize("data", [b"\xff\x0a" + bytes(40), b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(40)])
def test_what_a_plugin_would_read(data: bytes) -> None:
    with pytest.raises(BadImageError, match="pip install pillow-jxl-plugin"):
        of_scan(data)


def test_files_that_others_have_made() -> None:
    specs = [find_spec(name) for name in ("werkzeug", "fastapi_offline", "matplotlib", "skimage")]
    folders = [Path(spec.origin).parent for spec in specs if spec is not None and spec.origin is not None]
    paths = [
        path for folder in folders for path in folder.rglob("*") if path.suffix in (".png", ".jpg", ".gif")
    ]
    assert len(paths) >= 3
    for path in paths:
        with path.open("rb") as file:
            assert read_size(file) == of_pillow(path.read_bytes()), path
