"""Orientation, num_repeats and num_frames: read from every format, kept only where they say something."""

from __future__ import annotations

import hashlib
import json
import math
import struct
import tempfile
from collections.abc import Callable
from decimal import Decimal
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucketline_service.cli import options
from bucketline_service.cli.maps import map_put
from bucketline_service.cli.preview import preview
from bucketline_service.errors import Conflict, Invalid, StoreUnavailable
from bucketline_service.http.routes import maps as routes
from bucketline_service.http.schemas.maps import MapOut
from bucketline_service.maps import MapStore, RequestedColumns, ResolutionMap
from bucketline_service.maps.column_names import FIND_ALL, OPTIONAL_NAMES
from bucketline_service.maps.column_writers import _WRITERS
from bucketline_service.maps.formats.json_rows import BLOCK_BYTES
from bucketline_service.maps.optional_columns import MAX_NUM_FRAMES, MAX_NUM_REPEATS, OPTIONAL, STORED

from .files import WITH_MORE, Ids, contents, write_npz, write_sparse_jsonl

Put = Callable[..., ResolutionMap]


def test_an_optional_column_is_known_everywhere() -> None:
    """Whoever adds one is led by this test to each place that lists them."""
    kinds = list(OPTIONAL)
    assert list(OPTIONAL_NAMES) == kinds
    assert RequestedColumns._fields == ("id", "width", "height", *kinds, "skip_missing_sizes")
    assert set(_WRITERS) == set(STORED)
    assert RequestedColumns._fields[:-1] == options.COLUMNS
    reference = Path(__file__).parents[2] / "docs" / "reference" / "http.md"
    for kind in kinds:
        for command in (map_put, preview):
            assert f"{kind}_column" in signature(command).parameters
        assert f"{kind}_column" in Path(routes.__file__).read_text()
        assert all(f"`{name}`" in reference.read_text() for name in OPTIONAL_NAMES[kind])
    assert set(STORED) <= MapOut.model_fields.keys()


ORIENTATIONS = st.none() | st.integers(0, 8)
REPEATS = st.none() | st.floats(0, MAX_NUM_REPEATS) | st.integers(0, 3)
FRAMES = st.none() | st.integers(1, 200) | st.integers(1, MAX_NUM_FRAMES)


@pytest.fixture
def put(store: MapStore, tmp_path: Path) -> Put:
    """Put a CSV of three images of 640 x 480, with further columns: a value an image."""

    def put_csv(columns: RequestedColumns = FIND_ALL, name: str = "map", **more: list[Any]) -> ResolutionMap:
        header = ",".join(["id", "width", "height", *more])
        rows = zip("123", *more.values(), strict=True)
        lines = [",".join([image_id, "640", "480", *map(str, values)]) for image_id, *values in rows]
        (tmp_path / "map.csv").write_text("\n".join([header, *lines]))
        return store.put(name, tmp_path / "map.csv", "csv", columns)[0]

    return put_csv


def num_repeats(opened: ResolutionMap) -> list[float]:
    codes = np.zeros(opened.num_images, np.uint8) if opened.repeat_codes is None else opened.repeat_codes
    values: list[float] = opened.repeat_values[codes].tolist()
    return values


def num_frames(opened: ResolutionMap) -> list[int]:
    return [1] * opened.num_images if opened.num_frames is None else opened.num_frames.tolist()


@st.composite
def maps(draw: st.DrawFn) -> tuple[Ids, list[int], list[int], dict[str, list[Any]]]:
    ids = draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20, unique=True))
    sides = st.lists(st.integers(1, 4096), min_size=len(ids), max_size=len(ids))
    kinds = {"orientation": ORIENTATIONS, "num_repeats": REPEATS, "num_frames": FRAMES}
    chosen = draw(st.sets(st.sampled_from(sorted(kinds))))
    more = {
        kind: draw(st.lists(kinds[kind], min_size=len(ids), max_size=len(ids))) for kind in sorted(chosen)
    }
    return ids, draw(sides), draw(sides), more


def filled(more: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {name: [1 if value is None else value for value in values] for name, values in more.items()}


@given(maps())
@settings(deadline=None, max_examples=settings().max_examples // 3)
def test_every_format_of_the_same_rows_is_the_same_map(
    rows: tuple[Ids, list[int], list[int], dict[str, list[Any]]],
) -> None:
    ids, widths, heights, more = rows
    meant = filled(more)
    turned = [o >= 5 for o in meant.get("orientation", [1] * len(ids))]
    digests = set()
    with tempfile.TemporaryDirectory() as directory:
        store = MapStore(Path(directory) / "maps")
        for name, (format, write) in WITH_MORE.items():
            path = Path(directory) / name
            write(path, ids, widths, heights, meant if name == "npz" else more)
            opened, created = store.put("map", path, format)
            assert created == (name == "csv")  # the first; all others are the same content again
            digests.add(opened.digest)
        opened = store.get("map")
        opened.verify()
    assert len(digests) == 1
    assert opened.ids(np.arange(len(ids))) == list(ids)
    sizes = zip(widths, heights, turned, strict=True)
    assert list(zip(opened.widths.tolist(), opened.heights.tolist(), strict=True)) == [
        (height, width) if is_turned else (width, height) for width, height, is_turned in sizes
    ]
    expected = [float(value) for value in meant.get("num_repeats", [1] * len(ids))]
    assert num_repeats(opened) == expected
    assert opened.repeat_values.tolist() == sorted(set(expected))
    assert (opened.repeat_codes is None) == (set(expected) == {1.0})
    frames = meant.get("num_frames", [1] * len(ids))
    assert num_frames(opened) == frames
    assert (opened.num_frames is None) == (set(frames) == {1})
    shown = opened.optional
    assert ("num_repeats" in shown) == (opened.repeat_codes is not None)
    assert ("num_frames" in shown) == (opened.num_frames is not None)
    if "num_repeats" in shown:
        assert (shown["num_repeats"]["min"], shown["num_repeats"]["max"]) == (min(expected), max(expected))
        assert math.isclose(shown["num_repeats"]["total"], math.fsum(expected), rel_tol=1e-12)
    if "num_frames" in shown:
        assert shown["num_frames"] == {"min": min(frames), "max": max(frames)}


@pytest.mark.parametrize(
    ("more", "repeats", "frames"),
    [
        ({"num_repeats": [2, "", 0]}, [2, 1, 0], [1, 1, 1]),
        ({"num_repeats": ["0.5", " 1e1 ", "-0"]}, [0.5, 10, 0], [1, 1, 1]),
        ({" num_repeats ": ["2.", ".5", "1"]}, [2, 0.5, 1], [1, 1, 1]),
        ({"repeats": [2, "", 0]}, [3, 1, 1], [1, 1, 1]),
        ({"repeats": ["0.5", "9999", ""]}, [1.5, 10_000, 1], [1, 1, 1]),
        ({"num_frames": [121, "", "5.0"]}, [1, 1, 1], [121, 1, 5]),
        ({"frames": [1, 2147483647, " 3"]}, [1, 1, 1], [1, 2**31 - 1, 3]),
        ({"frames": [9, 8, 7], "repeats": [0, 0, 1]}, [1, 1, 2], [9, 8, 7]),
    ],
)
def test_what_stands_in_the_column_and_what_it_means(
    put: Put, more: dict[str, list[Any]], repeats: list[float], frames: list[int]
) -> None:
    opened = put(**more)
    assert (num_repeats(opened), num_frames(opened)) == (repeats, frames)
    assert not np.signbit(opened.repeat_values).any()


@pytest.mark.parametrize("name", ["orientation", "exif_orientation"])
def test_a_turned_image_has_the_size_that_is_seen(put: Put, name: str) -> None:
    for values in ([1, 2, 3], [4, "", 0]):
        opened = put(name=f"upright{values[0]}", **{name: values})
        assert (opened.widths.tolist(), opened.heights.tolist()) == ([640] * 3, [480] * 3)
    turned = put(name="turned", **{name: [5, 6, "7.0"]})
    assert (turned.widths.tolist(), turned.heights.tolist()) == ([480] * 3, [640] * 3)
    assert turned.histogram()["width"] == {"min_px": 480, "max_px": 480}
    mixed = put(name="mixed", **{name: [8, 1, " 6 "]})
    assert (mixed.widths.tolist(), mixed.heights.tolist()) == ([480, 640, 480], [640, 480, 640])


def test_columns_are_views_of_the_file_and_can_not_be_written(put: Put) -> None:
    opened = put(num_repeats=[3, 1, 0.5], num_frames=[5, 1, 1])
    assert opened.repeat_codes is not None
    assert opened.num_frames is not None
    for column in (opened.repeat_codes, opened.repeat_values, opened.num_frames):
        assert not column.flags.owndata
        assert not column.flags.writeable
    assert opened.repeat_codes.dtype == np.uint8
    assert opened.repeat_values.dtype == np.float64
    assert opened.num_frames.dtype == np.uint32
    assert (opened.repeat_codes.tolist(), opened.repeat_values.tolist()) == ([2, 1, 0], [0.5, 1, 3])


NONE_OF_THEM = {"orientation": [1, "", 0], "num_repeats": ["", 1, "1.0"], "num_frames": [1, "", 1]}


@pytest.mark.parametrize(
    "more",
    [{}, *({kind: values} for kind, values in NONE_OF_THEM.items()), NONE_OF_THEM, {"repeats": [0, "", 0]}],
)
def test_a_column_of_nothing_but_defaults_was_never_there(
    put: Put, store: MapStore, root: Path, more: dict[str, list[Any]]
) -> None:
    plain = put()
    before = contents(root)
    assert put(**more).digest == plain.digest
    assert contents(root) == before
    assert (plain.repeat_codes, plain.num_frames, plain.repeat_values.tolist()) == (None, None, [1.0])
    assert plain.optional == {}
    assert plain.digest == hashlib.sha256(PLAIN).hexdigest()


PLAIN = b"bucketline map 1\nint64\n" + struct.pack("<q3I3I3q", 3, *[640] * 3, *[480] * 3, 1, 2, 3)


def test_the_digest_is_fixed(put: Put) -> None:
    """It names maps in every store there is: it must never change."""
    repeats = b"num_repeats\n" + struct.pack("<q2d3B", 2, 0.5, 2, 1, 0, 1)
    frames = b"num_frames\n" + struct.pack("<3I", 1, 121, 1)
    columns = {"num_repeats": [2, 0.5, 2], "num_frames": [1, 121, 1]}
    assert (
        put(name="a", num_repeats=columns["num_repeats"]).digest
        == hashlib.sha256(PLAIN + repeats).hexdigest()
    )
    assert (
        put(name="b", num_frames=columns["num_frames"]).digest == hashlib.sha256(PLAIN + frames).hexdigest()
    )
    both = put(name="c", num_frames=columns["num_frames"], num_repeats=columns["num_repeats"])
    assert both.digest == hashlib.sha256(PLAIN + repeats + frames).hexdigest()
    assert both.digest == "eb9b9ebb6fd0b5c12b85a831b17298bdc52095b78188d58dba46f7b4d4538c45"


def test_the_digest_depends_on_every_value(put: Put) -> None:
    columns = [
        {"num_repeats": [2, 1, 1]},
        {"num_repeats": [1, 2, 1]},
        {"num_repeats": [3, 1, 1]},
        {"num_repeats": [2, 2, 2]},
        {"num_frames": [2, 1, 1]},
        {"num_frames": [1, 2, 1]},
        {"num_frames": [2, 1, 1], "num_repeats": [2, 1, 1]},
        {"orientation": [6, 1, 1]},
    ]
    assert len({put(name=f"map{i}", **more).digest for i, more in enumerate(columns)}) == len(columns)


def test_other_repeats_under_a_taken_name_are_a_conflict(put: Put) -> None:
    put(num_repeats=[2, 1, 1])
    with pytest.raises(Conflict):
        put(num_repeats=[2, 1, 2])
    with pytest.raises(Conflict):
        put()


def test_names_show_what_their_maps_have(put: Put, store: MapStore) -> None:
    put(name="plain")
    put(name="rich", num_repeats=[2.5, 0, 1], num_frames=[1, 49, 1])
    shown = {info.name: info.optional for info in store.list()}
    assert shown == {
        "plain": {},
        "rich": {"num_repeats": {"min": 0, "max": 2.5, "total": 3.5}, "num_frames": {"min": 1, "max": 49}},
    }
    assert store.get("rich").optional == shown["rich"]


class TestNames:
    def test_a_name_that_is_given_wins(self, put: Put) -> None:
        more = {"num_repeats": [2, 2, 2], "often": [3, 3, 3], "turn": [6, 6, 6], "frames": [4, 4, 4]}
        opened = put(RequestedColumns(orientation="turn", num_repeats="often", num_frames="frames"), **more)
        assert (num_repeats(opened), num_frames(opened)) == ([3] * 3, [4] * 3)
        assert opened.widths.tolist() == [480] * 3

    def test_a_column_called_repeats_has_simpletuners_meaning_even_so(self, put: Put) -> None:
        columns = {"repeats": [2, 0, 1], "num_repeats": [9, 9, 9]}
        assert num_repeats(put(RequestedColumns(num_repeats="repeats"), **columns)) == [3, 1, 2]

    def test_an_empty_name_leaves_a_column_out(self, put: Put) -> None:
        more = {"orientation": ["landscape", "", "x"], "repeats": [1, 1, 1], "num_repeats": [-1, "x", 1]}
        opened = put(
            RequestedColumns(orientation="", num_repeats="", num_frames=""), frames=["a", "b", "c"], **more
        )
        assert opened.optional == {}
        assert opened.digest == put(name="plain").digest

    def test_a_column_can_be_only_one_thing(self, put: Put) -> None:
        opened = put(
            RequestedColumns(id="repeats", num_frames="orientation"),
            repeats=[7, 8, 9],
            orientation=[10, 11, 12],
        )
        assert opened.int_ids.tolist() == [7, 8, 9]
        assert (num_repeats(opened), num_frames(opened)) == ([1] * 3, [10, 11, 12])
        with pytest.raises(
            Invalid, match="width and num_frames must be different columns, got 'width' for both"
        ):
            put(RequestedColumns(num_frames="width"), name="no")

    @pytest.mark.parametrize(
        ("columns", "more", "field", "words"),
        [
            (
                RequestedColumns(),
                ["num_repeats", "repeats"],
                "num_repeats",
                ["'num_repeats', 'repeats'", "num_repeats_column"],
            ),
            (RequestedColumns(), ["frames", "num_frames"], "num_frames", ["'num_frames', 'frames'"]),
            (
                RequestedColumns(),
                ["orientation", "exif_orientation"],
                "orientation",
                ["'orientation', 'exif_orientation'"],
            ),
            (RequestedColumns(), ["frames", " frames"], "frames", ["2 columns with this name"]),
            (
                RequestedColumns(num_frames="f"),
                [],
                "num_frames",
                ["no column 'f'", "'id', 'width', 'height'"],
            ),
        ],
    )
    def test_what_can_not_be_told_is_an_error(
        self, put: Put, columns: RequestedColumns, more: list[str], field: str, words: list[str]
    ) -> None:
        with pytest.raises(Invalid) as caught:
            put(columns, **{name: [1, 1, 1] for name in more})
        assert caught.value.field == field
        for word in words:
            assert word in caught.value.detail

    @pytest.mark.parametrize("kind", ["orientation", "num_repeats", "num_frames"])
    def test_a_pickle_has_no_columns_to_name(self, refused: Callable[..., Invalid], kind: str) -> None:
        assert refused("pickle", b"\x80\x04}\x94.", RequestedColumns(**{kind: "x"})).field == "columns"


BAD = [
    ("orientation", "9", ["9", "to 8, got", "EXIF orientations are 1 to 8", "orientation_column"]),
    ("orientation", "-1", ["must be"]),
    ("exif_orientation", "1.5", ["1.5", "must be an integer"]),
    ("num_repeats", "-1", ["must be", "1 where empty"]),
    ("num_repeats", "-0.25", ["-0.25", "must be"]),
    ("num_repeats", "10000.5", ["10000.5", "to 10,000, got"]),
    ("num_repeats", "nan", ["nan"]),
    ("num_repeats", "inf", ["inf", "to 10,000"]),
    ("repeats", "-1", ["must be", "repeats is how many times more"]),
    ("repeats", "9999.5", ["9999.5", "to 9,999, got"]),
    ("num_frames", "0", ["must be", "A still image has 1 frame"]),
    ("num_frames", "2.5", ["must be an integer"]),
    ("frames", "2147483648", ["to 2,147,483,647, got", "num_frames_column"]),
]
WORDS = [
    ("orientation", "landscape", ["got", "To ignore the column, pass orientation_column with an empty name"]),
    ("num_repeats", "0x10", ["got"]),
    ("num_repeats", "1_0", ["in decimal digits"]),
    ("num_frames", "1e2", ["in decimal digits"]),
    ("num_frames", "many", ["got"]),
]


@pytest.mark.parametrize(("name", "text", "words"), BAD + WORDS)
def test_a_bad_value_in_text_is_named_with_its_row_and_line(
    refused: Callable[..., Invalid], name: str, text: str, words: list[str]
) -> None:
    error = refused("csv", f"id,width,height,{name}\n1,2,3,\n\n4,5,6,{text}\n".encode())
    assert error.field == name
    for word in ["row 2 (line 4)", f"'{text}'", *words]:
        assert word in error.detail
    assert (error.extra["row"], error.extra["line"], error.extra["value"]) == (2, 4, f"'{text}'")


@pytest.mark.parametrize(
    "writer",
    [
        *("jsonl", "json", "tar", "parquet", "arrow", "npz"),
        *(
            pytest.param(name, marks=pytest.mark.exhaustive)
            for name in ("sparse_jsonl", "tsv", "csv_gz", "coco", "arrow_file")
        ),
    ],
)
def test_a_bad_number_is_named_with_its_row(
    refused: Callable[..., Invalid], tmp_path: Path, writer: str
) -> None:
    format, write = WITH_MORE[writer]
    lines = {"jsonl": 2, "sparse_jsonl": 2, "tar": 2, "tsv": 3, "csv_gz": 3}
    for name, text, words in BAD:
        if writer in ("json", "coco") and text in ("nan", "inf"):
            continue  # JSON has no such numbers
        first = None if writer == "sparse_jsonl" else 1
        write(tmp_path / "bad", [1, 2], [3, 4], [5, 6], {name: [first, float(text)]})
        error = refused(format, tmp_path / "bad")
        assert (error.field, error.extra["row"]) == (name, 2)
        assert all(word in error.detail for word in words), error.detail
        assert error.extra.get("line") == lines.get(writer)


@pytest.mark.parametrize("name", ["orientation", "exif_orientation", "num_repeats", "repeats", "frames"])
def test_json_that_is_no_number_is_named(refused: Callable[..., Invalid], name: str) -> None:
    """Whether the first object has the key or not."""
    for bad in ("true", '"6"', '""', "[1]", '{"a": 1}'):
        for first in ("", f', "{name}": null'):
            line = '{"id": %d, "width": 2, "height": 3%s}\n'
            error = refused("jsonl", (line % (1, first) + line % (2, f', "{name}": {bad}')).encode())
            assert error.field == name
            assert "row 2 (line 2): must be" in error.detail
            assert f"got {bad}" in error.detail
            assert "To ignore the column" in error.detail


def test_json_keys_of_two_meanings_are_refused_wherever_they_are(refused: Callable[..., Invalid]) -> None:
    line = '{"id": %d, "width": 2, "height": 3, "%s": 1}\n'
    for names in (["num_repeats", "repeats"], ["repeats", "num_repeats"], ["x", "repeats", "num_repeats"]):
        text = "".join(line % (i, name) for i, name in enumerate(names))
        error = refused("jsonl", text.encode())
        assert error.field == "num_repeats"
        assert "'num_repeats', 'repeats'" in error.detail


def test_a_key_that_begins_after_many_rows(store: MapStore, tmp_path: Path) -> None:
    """In a later block than the first; the images before it have the default."""
    n = BLOCK_BYTES // 1000 + 1
    text = "".join(f'{{"id": {i}, "width": 640, "height": 480, "note": "{"x" * 1000}"}}\n' for i in range(n))
    late = '{"id": -1, "width": 640, "height": 480, "num_repeats": 0, "frames": 7, "orientation": 6}\n'
    (tmp_path / "map.jsonl").write_text(text + late)
    opened, _ = store.put("map", tmp_path / "map.jsonl", "jsonl")
    opened.verify()
    assert opened.optional["num_repeats"] == {"min": 0, "max": 1, "total": n}
    assert num_repeats(opened) == [1] * n + [0]
    assert num_frames(opened) == [1] * n + [7]
    assert opened.widths[[0, n - 1, n]].tolist() == [640, 640, 480]


def parquet(path: Path, **more: pa.Array) -> Path:
    n = len(next(iter(more.values())))
    sides = {"width": [640] * n, "height": [480] * n}
    pq.write_table(pa.table({"id": list(range(n)), **sides, **more}), path)
    return path


@pytest.mark.parametrize(
    "values",
    [pa.array([5, None], getattr(pa, f"{sign}int{bits}")()) for sign in ("", "u") for bits in (8, 16, 32, 64)]
    + [pa.array([5, None], kind) for kind in (pa.float16(), pa.float32(), pa.float64())]
    + [pa.array([Decimal(5), None], pa.decimal128(9, 2)), pa.array([5, None]).dictionary_encode()],
    ids=lambda values: str(values.type),
)
def test_every_type_of_number_will_do_and_null_is_the_default(
    store: MapStore, tmp_path: Path, values: pa.Array
) -> None:
    path = parquet(tmp_path / "map", orientation=values, num_repeats=values, num_frames=values)
    opened, _ = store.put("map", path, "parquet")
    assert (num_repeats(opened), num_frames(opened)) == ([5, 1], [5, 1])
    assert opened.widths.tolist() == [480, 640]


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint8(), pa.float16()], ids=str)
def test_repeats_of_a_narrow_type_do_not_wrap_around(store: MapStore, tmp_path: Path, kind: Any) -> None:
    most = 255 if kind == pa.uint8() else 127
    path = parquet(tmp_path / "map", repeats=pa.array([most, 0]).cast(kind))
    assert num_repeats(store.put("map", path, "parquet")[0]) == [most + 1, 1]


@pytest.mark.parametrize("kind", [pa.null(), pa.string(), pa.bool_(), pa.timestamp("s")], ids=str)
def test_a_column_without_any_value_says_nothing_whatever_its_type(
    store: MapStore, tmp_path: Path, kind: Any
) -> None:
    nulls = pa.nulls(2, kind)
    path = parquet(tmp_path / "map", orientation=nulls, repeats=nulls, frames=nulls)
    assert store.put("map", path, "parquet")[0].optional == {}


@pytest.mark.parametrize("name", ["orientation", "num_repeats", "frames"])
def test_a_column_of_another_type_is_refused_at_its_first_value(
    refused: Callable[..., Invalid], tmp_path: Path, name: str
) -> None:
    for values in (
        pa.array([None, "landscape"]),
        pa.array([None, "6"]),
        pa.array([None, True]),
        pa.array([None, [6]]),
        pa.array([None, 6], pa.timestamp("s")),
        pa.array([None, "landscape"]).dictionary_encode(),
    ):
        error = refused("parquet", parquet(tmp_path / "map", **{name: values}))
        assert (error.field, error.extra["row"]) == (name, 2)
        assert "of type" in error.detail
        assert "To ignore the column" in error.detail


def test_an_npz_array_of_another_length_or_of_objects(
    refused: Callable[..., Invalid], tmp_path: Path
) -> None:
    write_npz(tmp_path / "map", [1, 2], [3, 4], [5, 6], {"num_repeats": [1]})
    assert "must have 2 values like id, got 1" in refused("npz", tmp_path / "map").detail
    write_npz(tmp_path / "map", [1, 2], [3, 4], [5, 6], {"frames": [None, 2]})
    error = refused("npz", tmp_path / "map")
    assert error.field == "frames"
    assert "never read" in error.detail
    write_npz(tmp_path / "map", [1, 2], [3, 4], [5, 6], {"frames": ["a", "b"]})
    assert "of type string" in refused("npz", tmp_path / "map").detail


class TestDistinctValues:
    def put(self, store: MapStore, path: Path, values: list[float], **more: list[int]) -> ResolutionMap:
        n = len(values)
        write_npz(path, list(range(n)), [640] * n, [480] * n, {"num_repeats": values, **more})
        return store.put("map", path, "npz")[0]

    def test_256_are_taken_in_any_order(self, store: MapStore, tmp_path: Path) -> None:
        values = [float(i) / 8 for i in np.random.default_rng(0).permutation(256).tolist()] * 3
        opened = self.put(store, tmp_path / "map", values)
        assert opened.repeat_values.tolist() == [i / 8 for i in range(256)]
        assert num_repeats(opened) == values
        opened.verify()

    @pytest.mark.parametrize("row", [256, pytest.param(270_000, marks=pytest.mark.exhaustive)])
    def test_the_257th_is_refused(self, refused: Callable[..., Invalid], tmp_path: Path, row: int) -> None:
        values = [i % 256 / 4 for i in range(row)] + [0.1] * 5
        n = len(values)
        write_npz(tmp_path / "map", list(range(n)), [1] * n, [1] * n, {"num_repeats": values})
        error = refused("npz", tmp_path / "map")
        assert (error.field, error.extra["row"]) == ("num_repeats", row + 1)
        assert (
            "num_repeats must have at most 256 distinct values in a map, and 0.1 is one more" in error.detail
        )

    def test_the_default_of_empty_cells_is_one_of_them(self, refused: Callable[..., Invalid]) -> None:
        rows = "".join(f"{i},1,1,{'' if i == 0 else i}\n" for i in range(257))
        error = refused("csv", f"id,width,height,repeats\n{rows}".encode())
        assert "row 257 (line 258): num_repeats must have at most 256 distinct values" in error.detail
        assert "'256' is one more" in error.detail

    def test_more_rows_than_are_read_at_a_time(self, store: MapStore, tmp_path: Path) -> None:
        n = 300_000
        values = np.arange(n)[::-1] // 3000 / 4
        frames = np.arange(n) % 121 + 1
        opened = self.put(store, tmp_path / "map", values.tolist(), num_frames=frames.tolist())
        assert np.array_equal(num_repeats(opened), values)
        assert np.array_equal(num_frames(opened), frames)


class TestDamage:
    @pytest.fixture
    def path(self, put: Put, root: Path) -> Path:
        digest = put(num_repeats=[3, 1, 0.5], num_frames=[5, 1, 77]).digest
        return root / "objects" / f"{digest}.arrow"

    @pytest.mark.parametrize(
        ("bit", "step"), [(3, 11), *(pytest.param(bit, 1, marks=pytest.mark.exhaustive) for bit in (0, 3, 7))]
    )
    def test_any_bit_is_seen_by_verify(self, store: MapStore, path: Path, bit: int, step: int) -> None:
        whole = path.read_bytes()
        for place in range(0, len(whole), step):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            try:
                opened = store.get("map")
                opened.verify()
            except StoreUnavailable:
                continue
            # Padding, or a byte of the footer that says nothing of the rows.
            assert (num_repeats(opened), num_frames(opened)) == ([3, 1, 0.5], [5, 1, 77])

    def test_cut_at_any_length(self, store: MapStore, path: Path) -> None:
        whole = path.read_bytes()
        for length in range(0, len(whole), 29):
            path.write_bytes(whole[:length])
            with pytest.raises(StoreUnavailable, match="damaged"):
                store.get("map")

    @pytest.mark.parametrize("optional", [None, {}, {"num_repeats": {}}, {"orientation": {}}, 7, "x"])
    def test_a_sidecar_of_other_columns(self, store: MapStore, path: Path, optional: Any) -> None:
        about = json.loads(path.with_suffix(".json").read_bytes())
        path.with_suffix(".json").write_text(json.dumps({**about, "optional": optional}))
        with pytest.raises(StoreUnavailable, match="damaged"):
            store.get("map")

    def test_putting_the_map_again_mends_it(self, put: Put, path: Path) -> None:
        whole = path.read_bytes()
        path.write_bytes(whole[:100])
        put(num_repeats=[3, 1, 0.5], num_frames=[5, 1, 77]).verify()
        assert path.read_bytes() == whole


def test_sparse_json_lines_are_what_they_seem(tmp_path: Path) -> None:
    """The writer that the round trip uses leaves keys out."""
    write_sparse_jsonl(tmp_path / "map", [1, 2], [3, 4], [5, 6], {"frames": [None, 7]})
    assert [sorted(json.loads(line)) for line in (tmp_path / "map").read_text().splitlines()] == [
        ["height", "id", "width"],
        ["frames", "height", "id", "width"],
    ]
