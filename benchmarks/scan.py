"""How fast `bucketline scan` finds sizes, compared with a loop that uses Pillow: `make bench`.

The images are made here, 1280 x 960 with EXIF, as large as photographs of that size: as files, and the JPEGs in tar
shards of 250. *Warm*: in the page cache, so that what is measured is work; `--num` of each, most of them links. *Cold*:
`--own` files, whose pages the system drops before each run; names and inodes stay cached. Wall time, the fastest of
three runs, made in turn with the others. (Pillow's loops with the orientation decode PNG, WebP or all formats: a few
dozen images show how long that takes.)
"""

from __future__ import annotations

import argparse
import io
import os
import tarfile
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

from PIL import Image, ImageFilter, ImageOps

# what imports much is imported where it is used: the processes of a scan import this file again

FORMATS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
KINDS = (*FORMATS, "tar")
SHARD = 250
TIMES = 3
DECODING = ("Pillow: getexif", "Pillow: exif_transpose")
FEW = 40
Work = Callable[[Path], None]


class Unseen:
    def found(self, num_units: int) -> None: ...

    def opening(self, num_units: int) -> None: ...

    def opened(self, num_units: int, num_images: int) -> None: ...

    def writing(self) -> None: ...


def picture(format: str) -> bytes:
    entries = Image.Exif()
    entries[0x010F], entries[0x0110], entries[0x0112] = "A maker", "Model 1", 6
    layers = [
        Image.effect_noise((1280, 960), 90).filter(ImageFilter.GaussianBlur(radius)) for radius in (2, 3, 4)
    ]
    target = io.BytesIO()
    Image.merge("RGB", layers).save(target, format, exif=entries, quality=90)
    return target.getvalue()


def make(folder: Path, kind: str, num_own: int) -> list[Path]:
    """Distinct files, written to the disk, with ``num_own`` images in all."""
    folder.mkdir()
    data = picture("JPEG" if kind == "tar" else kind)
    if kind != "tar":
        content, suffix, num_files = data, FORMATS[kind], num_own
    else:
        target = io.BytesIO()
        with tarfile.open(fileobj=target, mode="w") as tar:
            for number in range(SHARD):
                member = tarfile.TarInfo(f"{number:06}.jpg")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        content, suffix, num_files = target.getvalue(), "tar", num_own // SHARD
    paths = [folder / f"{number:06}.{suffix}" for number in range(num_files)]
    for path in paths:
        with path.open("wb") as file:
            file.write(content)
            os.fsync(file.fileno())
    print(f"{kind}: {num_files:,} files of {len(content):,} bytes", flush=True)
    return paths


def link(folder: Path, own: list[Path], num_files: int) -> None:
    folder.mkdir()
    for number in range(num_files):
        os.link(own[number % len(own)], folder / f"{number:06}{own[0].suffix}")


def forget(own: list[Path]) -> None:
    for path in own:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def loop(look: Callable[[Image.Image], object]) -> Work:
    """The loop that most scripts have."""

    def once(folder: Path) -> None:
        for path in folder.iterdir():
            if path.suffix != ".tar":
                with Image.open(path) as image:
                    look(image)
                continue
            with tarfile.open(path) as tar:
                for member in tar:
                    with Image.open(tar.extractfile(member)) as image:
                        look(image)

    return once


def scan(num_workers: int | None) -> Work:
    def once(folder: Path) -> None:
        from bucketline_service.scan.discovery import ScanOptions
        from bucketline_service.scan.job import ScanJob, run
        from bucketline_service.scan.scan_files import IdStyle

        with tempfile.TemporaryDirectory() as target:
            job = ScanJob(
                [str(folder)], Path(target, "map.parquet"), ScanOptions(IdStyle.FULL), num_workers=num_workers
            )
            assert run(job, Unseen()).num_bad == 0

    return once


def rate(work: Work, folder: Path, num: int) -> float:
    begin = time.perf_counter()
    work(folder)
    return num / (time.perf_counter() - begin)


def main() -> None:
    from bucketline_service.scan.engines import num_cores

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num", type=int, default=20_000, help="images of each kind, warm")
    parser.add_argument(
        "--own", type=int, default=500, help="distinct files of each kind, which are read cold"
    )
    given = parser.parse_args()
    works: dict[str, Work] = {
        "Pillow: size": loop(lambda image: image.size),
        "Pillow: getexif": loop(lambda image: image.getexif().get(0x0112)),
        "Pillow: exif_transpose": loop(lambda image: ImageOps.exif_transpose(image).size),
        "scan, 1 process": scan(1),
        "scan": scan(None),
        f"scan, {4 * num_cores()} processes": scan(4 * num_cores()),
    }
    rates: dict[tuple[str, str, str], float] = {}
    with tempfile.TemporaryDirectory() as scratch:
        own = {kind: make(Path(scratch, f"cold-{kind}"), kind, given.own) for kind in KINDS}
        for kind, paths in own.items():
            for name, num in (("warm", given.num), ("few", FEW)):
                link(Path(scratch, f"{name}-{kind}"), paths, max(1, num // (SHARD if kind == "tar" else 1)))
        for _ in range(TIMES):
            for kind, (name, work) in product(KINDS, works.items()):
                if name in DECODING:
                    num = SHARD if kind == "tar" else FEW
                    found = {"warm": rate(work, Path(scratch, f"few-{kind}"), num)}
                else:
                    num = given.num // SHARD * SHARD if kind == "tar" else given.num
                    found = {"warm": rate(work, Path(scratch, f"warm-{kind}"), num)}
                    forget(own[kind])
                    found["cold"] = rate(work, Path(scratch, f"cold-{kind}"), given.own)
                for state, each in found.items():
                    rates[state, name, kind] = max(each, rates.get((state, name, kind), 0))
    for state in ("warm", "cold"):
        print(f"{'images a second, ' + state:26}" + "".join(f"{kind:>10}" for kind in KINDS))
        for name in works:
            if (state, name, "tar") in rates:
                print(f"{name:26}" + "".join(f"{rates[state, name, kind]:>10,.0f}" for kind in KINDS))


if __name__ == "__main__":
    main()
