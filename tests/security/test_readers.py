"""Whatever the bytes are, a reader returns a valid map or a documented error, and leaves nothing behind."""

from __future__ import annotations

import io
import pickle
import random
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bucketline_service.errors import BucketlineError, Invalid, TooLarge
from bucketline_service.maps import FORMATS, MapStore
from tests.maps.files import WITH_MORE, WRITERS

NUM = 40
BRIEFLY = settings(
    max_examples=settings().max_examples // 2,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("valid")
    more = {"orientation": [1, 6] * 20, "num_repeats": [0.5, 3] * 20, "frames": [1, 121] * 20}
    for name, (_, write) in WRITERS.items():
        columns = [[f"é{i}" for i in range(NUM)], range(64, 64 + NUM), range(1, NUM + 1)]
        write(folder / name, *columns, *([more] if name in WITH_MORE else []))
    return {name: (folder / name).read_bytes() for name in WRITERS}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def check(root: Path, kind: str, data: bytes) -> None:
    """Put it: a map that holds what a map may, or an error that says where; never another, and nothing else stays."""
    store = MapStore(root)
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        error = None
        try:
            found, _ = store.put("fuzzed", Path(file.name), kind)
        except (Invalid, TooLarge) as refused:
            error = refused
        if error is not None:
            assert error.detail.strip()
            assert not isinstance(error, Invalid) or error.field
        else:
            assert 1 <= found.num_images == len(set(found.ids(np.arange(found.num_images))))
            assert found.widths.min() >= 1
            assert found.heights.max() <= 1_000_000
            found.verify()
            store.delete("fuzzed")
    assert [path.name for path in root.rglob("*") if path.is_file()] == ["lock"]


@st.composite
def changes(draw: st.DrawFn) -> list[tuple[str, float, bytes]]:
    """What is done to a file, where in it (0 to 1), and with what."""
    what = st.sampled_from(["flip", "cut", "insert", "drop", "length", "repeat"])
    lengths = st.sampled_from(
        [b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\xff\xff\xff\x7f", b"\0" * 8, b"\x80" * 4]
    )
    one = st.tuples(what, st.floats(0, 1), st.one_of(lengths, st.binary(min_size=1, max_size=16)))
    return draw(st.lists(one, min_size=1, max_size=4))


def changed(data: bytes, done: list[tuple[str, float, bytes]]) -> bytes:
    for what, where, value in done:
        at = int(where * len(data))
        if what == "flip":
            data = data[:at] + bytes(byte ^ value[0] for byte in data[at : at + 1]) + data[at + 1 :]
        elif what == "cut":
            data = data[:at]
        elif what == "insert":
            data = data[:at] + value + data[at:]
        elif what == "drop":
            data = data[:at] + data[at + len(value) :]
        elif what == "length":
            data = data[:at] + value + data[at + len(value) :]
        else:
            data = data[:at] + data[at : at + 64] * 4 + data[at:]
    return data


@pytest.mark.parametrize("kind", FORMATS)
@given(data=st.binary(max_size=300))
@BRIEFLY
def test_any_bytes(root: Path, kind: str, data: bytes) -> None:
    check(root, kind, data)


@pytest.mark.parametrize("name", WRITERS)
@given(done=changes())
@BRIEFLY
def test_a_valid_file_that_was_changed(root: Path, valid: dict[str, bytes], name: str, done: list) -> None:
    check(root, WRITERS[name][0], changed(valid[name], done))


@pytest.mark.parametrize("name", WRITERS)
def test_a_valid_file_is_read(root: Path, valid: dict[str, bytes], name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(valid[name])
    found, _ = MapStore(tmp_path / "maps").put("m", tmp_path / "file", WRITERS[name][0])
    assert found.num_images == NUM


CODES = [bytes([code]) for code in range(256)]
HOSTILE = [
    *(b"cos\nsystem\n", b"cbuiltins\neval\n", b"\x8c\x02os\x8c\x06system\x93", b"ios\nsystem\n"),
    *(b"(", b"t", b"R", b"b", b"o", b"Pabc\n", b"Q", b"\x82\x01", b"\x83\x01\x02", b"\x84\1\2\3\4"),
    *(b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\nscalar\n", b"c_codecs\nencode\n", b"X\x02\0\0\0i8"),
    *(b"\x85", b"\x86", b"]", b"}", b"K\x01", b"\x94", b"h\0", b"r\xff\xff\xff\x7f", b"\x8b\xff\xff\xff\x7f"),
    *(b"\x8a\x08" + b"\xff" * 8, b"\x8d" + b"\xff" * 8, b"\x8e" + b"\xff" * 8, b"\x95" + b"\xff" * 8),
    *(b"s", b"u", b"a", b"e", b"0", b"1", b"2", b"N", b"S'touch sentinel'\n", b"\x81", b"\x92", b"\x8f", b"\x90"),
]  # fmt: skip


@given(seed=st.integers(0, 2**32))
@settings(BRIEFLY, max_examples=settings().max_examples * 2)
def test_a_pickle_of_any_opcodes_runs_nothing(root: Path, seed: int) -> None:
    """A program of hostile pieces: numpy's scalars half made, calls, memo, other stacks."""
    draw = random.Random(seed)
    pieces = draw.choices(HOSTILE + CODES, [8] * len(HOSTILE) + [1] * 256, k=draw.randrange(1, 30))
    program = draw.choice([b"\x80\x02", b"\x80\x04", b""]) + b"".join(pieces) + draw.choice([b".", b""])
    check(root, "pickle", program)


HEADER = "{'descr': '<i8', 'fortran_order': False, 'shape': (3,), }"
HEADERS = [
    *(HEADER, "'<i8'", "(3,)", "()", "[]", "{}", "{[]: 1}", "{**1}", "None", "-1", "(-1,)", "(True,)", "1e400", "3L"),
    *("'O'", "'|V8'", "[('a', '<i8')]", "'<f16'", "'a5'", "'M8'", "'T'", "'<U0'", "('<i8', (2,))", "'i8,i8'", "b'x'"),
    *("(" * 300, "{'descr':", "\0", "\n", "#", "'''", "é", "...", "lambda: 1", "9" * 5000, "f''", "__import__('os')"),
]  # fmt: skip


@given(seed=st.integers(0, 2**32))
@settings(BRIEFLY, max_examples=settings().max_examples)
def test_an_array_of_any_header_is_read_or_named(root: Path, seed: int) -> None:
    draw = random.Random(seed)
    header = draw.choice(
        [
            "".join(draw.choices(HEADERS, k=draw.randrange(4))),
            HEADER.replace("'<i8'", draw.choice(HEADERS)).replace("(3,)", draw.choice(HEADERS)),
            "".join(draw.choice("(){}[],':\0-L") if draw.random() < 0.05 else each for each in HEADER),
        ]
    ).encode("latin-1")
    version, size = draw.choice([(1, 2), (1, 2), (2, 4), (3, 4), (9, 4)])
    length = draw.choice([len(header)] * 4 + [0, len(header) + 9, 2 ** (8 * size) - 1])
    start = b"\x93NUMPY" + bytes([version, 0]) + length.to_bytes(size, "little") + header
    body = io.BytesIO()
    with zipfile.ZipFile(
        body, "w", draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
    ) as archive:
        for name in ("id", "width", "height"):
            archive.writestr(f"{name}.npy", start + bytes(range(1, 25)))
    check(root, "npz", body.getvalue())


def test_the_check_can_fail(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An undocumented error is not an answer."""

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(MapStore, "put", broken)
    with pytest.raises(ZeroDivisionError):
        check(root, "csv", pickle.dumps(1))
    assert not issubclass(ZeroDivisionError, BucketlineError)
