"""Files of a few kB that claim to be gigabytes, or never end. Each is refused in little memory."""

from __future__ import annotations

import functools
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import warm
from tests.maps.files import WRITERS

ROOT = Path(__file__).parents[2]
MEMORY_MB = 768
"""What reading any of these may take: a process, blocks of text of up to 64 MiB, and copies of them. Too little for
the 1 GiB of addresses that pyarrow's allocator reserves at once where it can, which nothing else could have then."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits a process as Linux does")


def table(num: int) -> pa.Table:
    sides = pa.array(np.full(num, 64, np.int64))
    return pa.table({"id": sides, "width": sides, "height": sides})


def long_ids(num: int) -> pa.Table:
    ids = pa.DictionaryArray.from_arrays(pa.array(np.zeros(num, np.int32)), pa.array(["x" * 1_000_000]))
    sides = pa.array(np.full(num, 64))
    return pa.table({"id": ids, "width": sides, "height": sides})


def many_rows(path: Path) -> None:
    """17,000,000 rows, of some hundred kB."""
    rows = pa.array(np.full(17_000_000, 64, np.int8))
    pq.write_table(pa.table({"id": rows, "width": rows, "height": rows}), path)


def long_string(path: Path) -> None:
    rows = pa.table({"id": ["x" * (260 << 20)], "width": [64], "height": [64]})
    pq.write_table(rows, path, compression="lz4", use_dictionary=False, write_statistics=False)


def arrow(path: Path, rows: pa.Table, file: bool = False) -> None:
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    new = pa.ipc.new_file if file else pa.ipc.new_stream
    with pa.OSFile(str(path), "wb") as sink, new(sink, rows.schema, options=options) as writer:
        writer.write_table(rows)


def declared(path: Path, length: int) -> None:
    """An Arrow stream whose first buffer says that it unpacks to that many bytes."""
    arrow(path, table(1000))
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<q", 8000))
    data[at : at + 8] = struct.pack("<q", length)
    path.write_bytes(data)


def no_values(path: Path) -> None:
    batch = pa.RecordBatch.from_arrays([pa.nulls(2_000_000_000)] * 3, names=["id", "width", "height"])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)


def npz(path: Path, shape: object, descr: str = "<i8", zeros: int = 0, twice: bool = False) -> None:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape},), }}"
    header = header.ljust(64 * 3 - 11) + "\n"
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in ("id.npy", "width.npy", "height.npy", *(["id.npyX"] if twice else [])):
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(start)
                for _ in range(zeros >> 20):
                    member.write(struct.pack("<q", 64) * (1 << 17))
    if twice:  # zipfile warns of it
        path.write_bytes(path.read_bytes().replace(b"id.npyX", b"id.npy\0"))


def zip_that_lies(path: Path) -> None:
    """The directory says that each member has 2^62 bytes."""
    npz(path, 10, zeros=1 << 20)
    data = path.read_bytes()
    at = data.index(b"PK\x01\x02")
    path.write_bytes(data[:at] + data[at:].replace(struct.pack("<I", (1 << 20) + 192), b"\xff\xff\xff\xfe"))


def header(path: Path, length: int, given: bytes) -> None:
    """Arrays whose header says that it has that length."""
    start = b"\x93NUMPY\x02\x00" + struct.pack("<I", length) + given
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("id.npy", "width.npy", "height.npy"):
            archive.writestr(name, start)


def many_members(path: Path) -> None:
    """A directory of 40,000 times the same."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("0.npy", b"")
    data = path.read_bytes()
    at, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    entries = data[at:end] * 40_000
    last = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 40_000, 40_000, len(entries), at, 0)
    path.write_bytes(data[:at] + entries + last)


LINE = 70 << 20
GOOD = b'{"id": 1, "width": 64, "height": 64}\n'
BOMBS: dict[str, tuple[Callable[[Path], object], str]] = {
    "rows.parquet": (many_rows, "too_large: the map must decompress to"),
    "string.parquet": (long_string, "too_large: row group 0 must decompress to"),
    "dictionary.parquet": (lambda path: pq.write_table(long_ids(100_000), path), "too_large: a dictionary"),
    "dictionary.arrow": (lambda path: arrow(path, long_ids(100_000)), "too_large: a dictionary"),
    "zeros.arrow": (
        lambda path: arrow(path, long_zeros(), file=True),
        "too_large: batch 1 must decompress to",
    ),
    "declared.arrow": (lambda path: declared(path, 2**60), "too_large: batch 1 must decompress to"),
    "negative.arrow": (lambda path: declared(path, -(2**60)), "invalid: file"),
    "nulls.arrow": (no_values, "invalid: width: row 1: has no value"),
    "zeros.npz": (lambda path: npz(path, 10**9, zeros=136 << 20), "too_large: the map must decompress to"),
    "items.npz": (lambda path: npz(path, 10**12), "invalid: file: cannot be read as npz: array 'id' ends"),
    "all.npz": (lambda path: npz(path, 10**30), "invalid: file: cannot be read as npz: array 'id' ends"),
    "wide.npz": (lambda path: npz(path, 10, "<U500000000"), "invalid: id: must be narrower"),
    "twice.npz": (lambda path: npz(path, 10, twice=True), "invalid: id"),
    "lies.npz": (zip_that_lies, "invalid: "),
    "deep.npz": (
        lambda path: header(path, 9000, b"(" * 9000),
        "invalid: file: cannot be read as npz: array 'id'",
    ),
    "header.npz": (
        lambda path: header(path, 2**31 - 1, b" "),
        "invalid: file: cannot be read as npz: array 'id': a header of 2,147,483,647 bytes",
    ),
    "directory.npz": (many_members, "invalid: file: cannot be read as npz: its directory"),
    "line.csv": (lambda path: path.write_bytes(b"id,width,height\n" + b"a" * LINE), "invalid: file"),
    "header.csv": (lambda path: path.write_bytes(b"a" * LINE), "invalid: file: cannot be read as csv"),
    "quote.csv": (
        lambda path: path.write_bytes(b'id,width,height\n1,64,64\n"' + b"a,\n" * (LINE // 3)),
        "invalid: file",
    ),
    "line.jsonl": (lambda path: path.write_bytes(GOOD + b'{"x": "' + b"a" * LINE), "invalid: file: row 2"),
    "first.jsonl": (lambda path: path.write_bytes(b'{"x": "' + b"a" * LINE), "invalid: file: row 1"),
    "blank.jsonl": (lambda path: path.write_bytes(b"\n" * LINE), "invalid: file: has no rows"),
    "deep.jsonl": (
        lambda path: path.write_bytes(GOOD + b'{"x": ' + b"[" * (1 << 20)),
        "invalid: file: row 2",
    ),
    "number.jsonl": (
        lambda path: path.write_bytes(GOOD + b'{"id": 2, "width": 64, "height": ' + b"9" * (1 << 20) + b"}"),
        "invalid: height: row 2",
    ),
    "long.pickle": (lambda path: path.write_bytes(b"]" * (40 << 20)), "too_large: a pickle must be at most"),
    "memo.pickle": (
        lambda path: path.write_bytes(pickle_of_tuples(40)),
        "invalid: file: refused: it has a tuple in a tuple",
    ),
}


def long_zeros() -> pa.Table:
    return pa.table({name: pa.array([""] * 1, pa.string()) for name in ("id", "width", "height")}).set_column(
        0, "id", pa.array(["\0" * (300 << 20)])
    )


def pickle_of_tuples(depth: int) -> bytes:
    """Each holds the previous one ten times: 10^depth when written out."""
    return b"\x80\x04)\x94" + b"".join(b"(" + bytes([104, at]) * 10 + b"t\x94" for at in range(depth)) + b"."


def put(megabytes: int, *files: Path) -> tuple[int, str, str]:
    """In a process that may have so much more memory than it begins with."""
    command = [sys.executable, "-m", "tests.security.put", str(megabytes), *map(str, files)]
    done = warm.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    out, errors = done.communicate()
    return done.returncode, out, errors


SLOW = {"zeros.npz", "quote.csv", "line.jsonl", "first.jsonl", "blank.jsonl", "nulls.arrow"}
GROUPS = {False: BOMBS.keys() - SLOW, True: SLOW}
Outcomes = Callable[[bool], dict[str, str]]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """Of the bombs that are slow to make or to read, or of the others, put in one process of limited memory; and of
    good files."""

    @functools.cache
    def told(is_slow: bool) -> dict[str, str]:
        folder = tmp_path_factory.mktemp("bombs")
        files = [folder / name for name in sorted(GROUPS[is_slow])]
        for file in files:
            BOMBS[file.name][0](file)
        for name, (kind, write) in WRITERS.items():
            files.append(folder / f"good-{name}.{kind}")
            write(files[-1], range(1000), [64] * 1000, [64] * 1000)
        status, out, errors = put(MEMORY_MB, *files)
        assert status == 0, errors[-2000:]
        found: dict[str, str] = json.loads(out)
        return found

    return told


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.exhaustive] if name in SLOW else []) for name in BOMBS],
)
def test_a_bomb_is_refused_in_little_memory(outcomes: Outcomes, name: str) -> None:
    told = outcomes(name in SLOW)[name]
    assert told.startswith(BOMBS[name][1]), told[:300]


def test_what_is_no_bomb_is_read_in_as_much(outcomes: Outcomes) -> None:
    goods = {name: told for name, told in outcomes(False).items() if name.startswith("good-")}
    assert len(goods) == len(WRITERS)
    assert set(goods.values()) == {"read 1000"}


def test_the_limit_of_memory_is_one(tmp_path: Path) -> None:
    """The same process that refuses the bombs cannot read what takes more than it may have."""
    large = tmp_path / "large.pickle"
    large.write_bytes(pickle.dumps(dict.fromkeys(range(1_000_000), (64, 64))))
    status, out, _ = put(10, large)
    assert ("too_large: " in out and "more memory than is" in out) or status != 0, out
