"""Images of every mode that files have, written, read back and converted for training."""

import io
import subprocess
import sys

import numpy as np
import pytest

from bucketline import UsageError
from bucketline.images import to_rgb

from .coordinators import ROOT

Image = pytest.importorskip("PIL.Image")
ImageOps = pytest.importorskip("PIL.ImageOps")

EVERY = np.arange(65536, dtype=np.uint16).reshape(256, 256)
SCALED = ((EVERY.astype(np.int64) * 255 + 32767) // 65535).astype(np.uint8)


def stored(image, format, **options):
    """The image as a file gives it back."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return Image.open(file)


def pixels(image, **options):
    image = to_rgb(image, **options)
    assert image.mode == "RGB"
    return np.asarray(image)


def big_endian():
    return Image.frombytes("I;16B", (256, 256), EVERY.astype(">u2").tobytes())


@pytest.mark.parametrize(
    ("image", "mode"),
    [
        (lambda: stored(Image.fromarray(EVERY), "PNG"), "I;16"),
        (lambda: stored(Image.fromarray(EVERY), "TIFF"), "I;16"),
        (lambda: stored(big_endian(), "TIFF"), "I;16B"),
        (lambda: stored(Image.fromarray(EVERY.astype(np.int32)), "TIFF"), "I"),
        (lambda: ImageOps.exif_transpose(stored(Image.fromarray(EVERY), "PNG")), "I;16"),
    ],
)
def test_sixteen_bits_of_grey_are_scaled_exactly(image, mode):
    image = image()
    assert image.mode == mode
    assert np.asarray(image.convert("RGB")).mean() > 250  # what it is about: nearly white
    assert (pixels(image) == SCALED[..., None]).all()


def test_sixteen_bits_with_a_grey_that_is_transparent():
    image = stored(Image.fromarray(EVERY), "PNG", transparency=300)
    assert image.info["transparency"] == 300
    expected = SCALED.copy()
    expected[EVERY == 300] = 7
    assert (pixels(image, background=(7, 7, 7)) == expected[..., None]).all()


def test_turned_by_exif_it_stays_what_it_is():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = stored(Image.fromarray(EVERY[:16]), "TIFF", exif=exif)
    turned = ImageOps.exif_transpose(image)
    assert turned.size == (16, 256)
    assert (pixels(turned)[..., 0] == np.rot90(SCALED[:16], -1)).all()


@pytest.mark.parametrize("value", [-1, 65536, 1 << 20])
def test_integers_beyond_sixteen_bits_are_refused(value):
    image = stored(Image.fromarray(np.full((4, 4), value, np.int32)), "TIFF")
    with pytest.raises(UsageError, match=f"mode I with values from {value} to {value}"):
        to_rgb(image)


def test_floats_are_refused():
    with pytest.raises(UsageError, match="mode F"):
        to_rgb(stored(Image.new("F", (4, 4), 0.5), "TIFF"))


def half(mode, colour, alpha):
    """A transparent left column (black), an opaque right one, and one of ``alpha`` between them."""
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (*colour, alpha))
    image.putpixel((2, 0), (*colour, 255))
    return image.convert(mode)


@pytest.mark.parametrize("background", [(255, 255, 255), (10, 20, 30)])
@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (lambda: stored(half("RGBA", (200, 100, 50), 128), "PNG"), (200, 100, 50)),
        (lambda: stored(half("LA", (100, 100, 100), 128), "PNG"), (100, 100, 100)),
        (
            lambda: stored(half("RGBA", (200, 100, 50), 128), "WEBP", lossless=True, exact=True),
            (200, 100, 50),
        ),
        (lambda: stored(half("RGBA", (200, 100, 50), 128), "TIFF"), (200, 100, 50)),
        (lambda: half("PA", (100, 100, 100), 128), (100, 100, 100)),
    ],
)
def test_transparency_is_laid_on_the_background(image, colour, background):
    first, between, last = pixels(image(), background=background)[0].astype(int)
    assert tuple(first) == background
    assert tuple(last) == colour
    mixed = (np.array(colour) * 128 + np.array(background) * 127) / 255
    assert np.abs(between - mixed).max() <= 1


@pytest.mark.parametrize(
    ("image", "format"),
    [
        (lambda: Image.fromarray(np.array([[0, 1]], np.uint8), "P"), "PNG"),
        (lambda: Image.fromarray(np.array([[0, 1]], np.uint8), "P"), "GIF"),
        (lambda: Image.fromarray(np.array([[0, 90]], np.uint8), "L"), "PNG"),
        (lambda: Image.fromarray(np.array([[[0, 0, 0], [90, 90, 90]]], np.uint8), "RGB"), "PNG"),
    ],
)
def test_one_colour_that_is_transparent(image, format):
    image = image()
    if image.mode == "P":
        image.putpalette([0, 0, 0, 90, 90, 90])
    image = stored(image, format, transparency=(0, 0, 0) if image.mode == "RGB" else 0)
    assert pixels(image).tolist() == [[[255, 255, 255], [90, 90, 90]]]


def test_a_palette_with_several_alphas():
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([0, 0, 0, 0, 0, 0, 90, 90, 90])
    read = stored(image, "PNG", transparency=bytes([0, 128, 255]))
    assert pixels(read)[0, :, 0].tolist() == [255, 127, 90]


@pytest.mark.parametrize(
    ("image", "format"),
    [
        (Image.new("L", (2, 2), 77), "PNG"),
        (Image.new("RGB", (2, 2), (1, 2, 3)), "PNG"),
        (Image.new("1", (2, 2), 1), "PNG"),
        (Image.new("P", (2, 2), 0), "PNG"),
        (Image.new("CMYK", (2, 2), (10, 20, 30, 40)), "TIFF"),
        (Image.new("CMYK", (2, 2), (10, 20, 30, 40)), "JPEG"),
    ],
)
def test_the_others_are_as_pillow_converts_them(image, format):
    read = stored(image, format)
    assert (pixels(read) == np.asarray(read.convert("RGB"))).all()


def test_no_document_loads_images_in_another_way():
    shown = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.py")]
    for file in [*shown, ROOT / "README.md"]:
        assert ').convert("RGB")' not in file.read_text(), file


def test_it_needs_pillow_only_where_it_is_called():
    script = "import sys; import bucketline.images; print('PIL' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
