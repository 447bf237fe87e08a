"""Reads damaged Parquet and Arrow files, as maps and as img2dataset's tables. ``python -m tests.security.damage SEED
SHARE`` takes one in SHARE of the files, and prints as JSON how many of each kind were read, refused, and bad. It runs
as a separate process, because what the readers' C++ does not catch ends it."""

from __future__ import annotations

import faulthandler
import json
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bucketline_service.errors import Invalid, TooLarge
from bucketline_service.maps import MapStore
from bucketline_service.scan.scan_files import IdStyle
from tests.maps.files import WRITERS
from tests.scan.images import scan

NUM_FILES = {"parquet": 250, "arrow": 40, "arrow_file": 40}
NUM_TABLES = 80


def damaged(data: bytes, num: int, seed: int) -> Iterator[bytes]:
    """Mostly one wrong byte, mostly in the middle, where so small a Parquet file tells of its columns; the footer's
    length stays. The values are 0, -1 and types of its fields."""
    rng = random.Random(seed)
    for _ in range(num):
        wrong = bytearray(data)
        for _ in range(rng.choice((1, 1, 1, 3))):
            third = len(data) // 3
            low, high = rng.choice(((0, len(data) - 8), (third, 2 * third), (third, 2 * third)))
            wrong[rng.randrange(low, high)] = rng.choice((0, 0x15, 0x1C, 0x26, 0xFF))
        yield bytes(wrong)


def maps(folder: Path, seed: int, share: int) -> Iterator[tuple[str, str]]:
    store = MapStore(folder / "maps")
    path = folder / "file"
    for kind, num in NUM_FILES.items():
        format, write = WRITERS[kind]
        write(path, ["b", "a", "é"], [640, 1, 1000], [480, 1, 2000])
        for data in damaged(path.read_bytes(), num // share, seed):
            path.write_bytes(data)
            try:
                store.put("map", path, format)
            except (Invalid, TooLarge):
                yield kind, "refused"
            else:
                store.delete("map")
                yield kind, "read"


def tables(folder: Path, seed: int, share: int) -> Iterator[tuple[str, str]]:
    """All in one scan."""
    tables = folder / "tables"
    tables.mkdir()
    columns = {"key": ["a", "b"], "status": ["success"] * 2, "width": [640, 1], "height": [480, 1]}
    pq.write_table(pa.table(columns), folder / "table")
    for index, data in enumerate(damaged((folder / "table").read_bytes(), NUM_TABLES // share, seed)):
        (tables / f"{index:05d}.parquet").write_bytes(data)
    done = scan([tables], folder / "sizes.parquet", ids=IdStyle.FULL)
    yield from (("table", "read") for _ in done.sizes)
    yield from (("table", "bad") for _ in done.bad)


def main(seed: int, share: int) -> None:
    faulthandler.enable()
    with tempfile.TemporaryDirectory() as folder:
        found = Counter([*maps(Path(folder), seed, share), *tables(Path(folder), seed, share)])
    print(json.dumps({" ".join(each): num for each, num in sorted(found.items())}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
