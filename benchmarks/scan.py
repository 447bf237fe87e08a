"""How fast `bucketline scan` finds sizes, beside a loop of Pillow: `make bench`.

The files are made here: noise of 640 x 480 in JPEG (quality 90), PNG and WebP with EXIF. They are in the page cache, so
that what is measured is work and not the disk. Wall time, the best of three.
"""

from __future__ import annotations

import argparse
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image, ImageOps

from bucketline_service.scan.engines import num_cores
from bucketline_service.scan.job import Job, run

FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


class Unseen:
    def found(self, num_units: int) -> None: ...

    def opening(self, num_units: int) -> None: ...

    def opened(self, num_units: int, num_images: int) -> None: ...

    def writing(self) -> None: ...


def make(folder: Path, format: str, num: int) -> None:
    entries = Image.Exif()
    entries[0x0112] = 6
    target = io.BytesIO()
    Image.effect_noise((640, 480), 90).convert("RGB").save(target, format, exif=entries, quality=90)
    folder.mkdir()
    first = folder / f"0.{FORMATS[format]}"
    first.write_bytes(target.getvalue())
    for number in range(1, num):
        os.link(first, folder / f"{number}.{FORMATS[format]}")


def loop_of_size(folder: Path) -> None:
    """The loop that most scripts have: no orientation."""
    for path in folder.iterdir():
        with Image.open(path) as image:
            image.size  # noqa: B018


def loop_of_exif(folder: Path) -> None:
    """With the orientation, by ``getexif``."""
    for path in folder.iterdir():
        with Image.open(path) as image:
            image.getexif().get(0x0112)


def loop_of_transpose(folder: Path) -> None:
    """With the orientation, as Pillow's documentation has it."""
    for path in folder.iterdir():
        with Image.open(path) as image:
            ImageOps.exif_transpose(image).size  # noqa: B018


def scan(num_workers: int) -> Callable[[Path], None]:
    def once(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as target:
            run(Job([str(folder)], Path(target, "map.parquet"), num_workers=num_workers), Unseen())

    return once


def rate(work: Callable[[Path], None], folder: Path, num: int, times: int) -> float:
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        work(folder)
        taken.append(time.perf_counter() - begin)
    return num / min(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=20_000, help="images of each format")
    num = parser.parse_args().num
    works = {
        "Pillow: size": (loop_of_size, num, 3),
        "Pillow: getexif": (loop_of_exif, num // 10, 3),
        "Pillow: exif_transpose": (loop_of_transpose, num // 40, 1),
        "scan, 1 process": (scan(1), num, 3),
        f"scan, {num_cores()} processes": (scan(num_cores()), num, 3),
    }
    print(f"{'images a second':24}" + "".join(f"{format:>10}" for format in FORMATS))
    with tempfile.TemporaryDirectory() as scratch:
        for name, (work, some, times) in works.items():
            told = f"{name:24}"
            for format in FORMATS:
                folder = Path(scratch, f"{format}-{some}")
                if not folder.exists():
                    make(folder, format, some)
                told += f"{rate(work, folder, some, times):>10,.0f}"
            print(told, flush=True)


if __name__ == "__main__":
    main()
