from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bucketline_service.errors import Invalid, TooLarge
from bucketline_service.maps import MapStore, RequestedColumns

Sink = Callable[[Path, pa.Table], None]


def parquet(path: Path, rows: pa.Table) -> None:
    pq.write_table(rows, path)


def stream(path: Path, rows: pa.Table) -> None:
    with pa.ipc.new_stream(str(path), rows.schema) as writer:
        writer.write_table(rows)


@pytest.fixture(
    params=[("parquet", parquet), pytest.param(("arrow", stream), marks=pytest.mark.exhaustive)],
    ids=["parquet", "arrow"],
)
def sink(request: pytest.FixtureRequest) -> tuple[str, Sink]:
    return request.param


def rows(ids: Any = (1, 2), width: Any = (640, 3), height: Any = (480, 4), **more: Any) -> pa.Table:
    return pa.table({"id": pa.array(ids), "width": pa.array(width), "height": pa.array(height), **more})


@pytest.mark.parametrize(
    "widths",
    [pa.array([100, 3], getattr(pa, f"{sign}int{bits}")()) for sign in ("", "u") for bits in (8, 16, 32, 64)]
    + [pa.array([100.0, 3.0], kind) for kind in (pa.float32(), pa.float64())]
    + [pa.array([Decimal(100), Decimal(3)], pa.decimal128(9, 2)), pa.array([100, 3]).dictionary_encode()],
    ids=lambda widths: str(widths.type),
)
def test_every_type_of_number_can_be_a_side(
    store: MapStore, tmp_path: Path, sink: tuple[str, Sink], widths: pa.Array
) -> None:
    path = tmp_path / "map"
    sink[1](path, rows(width=widths))
    opened, _ = store.put("map", path, sink[0])
    assert opened.widths.tolist() == [100, 3]
    assert opened.heights.tolist() == [480, 4]


@pytest.mark.parametrize(
    "ids",
    [pa.array([5, 1], kind) for kind in (pa.int8(), pa.uint8(), pa.int32(), pa.uint64())]
    + [
        pa.array(["5", "1"], kind)
        for kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())
    ]
    + [pa.array(["5", "1"]).dictionary_encode()],
    ids=lambda ids: str(ids.type),
)
def test_whole_numbers_and_strings_of_every_type_can_be_ids(
    store: MapStore, tmp_path: Path, sink: tuple[str, Sink], ids: pa.Array
) -> None:
    path = tmp_path / "map"
    sink[1](path, rows(ids=ids))
    opened, _ = store.put("map", path, sink[0])
    is_number = pa.types.is_integer(ids.type)
    assert opened.id_kind == ("int64" if is_number else "string")
    assert opened.ids(np.array([0, 1])) == ([5, 1] if is_number else ["5", "1"])


@pytest.mark.parametrize(
    ("table", "field", "words"),
    [
        (rows(ids=[1, None]), "id", ["row 2", "has no value"]),
        (rows(ids=["a", ""]), "id", ["row 2", "must not be empty"]),
        (rows(ids=[7, 7]), "id", ["row 2", "duplicate id 7, first seen in row 1"]),
        (rows(ids=["é", "é"]), "id", ["row 2", "duplicate id 'é', first seen in row 1"]),
        (rows(ids=[1.0, 2.0]), "id", ["row 1", "got 1.0 of type double"]),
        (rows(ids=[True, False]), "id", ["row 1", "got True of type bool"]),
        (rows(ids=[[1], [2]]), "id", ["row 1", "list"]),
        (rows(ids=pa.array([1, 2], pa.timestamp("s"))), "id", ["row 1", "timestamp"]),
        (
            rows(ids=pa.array([1, 2**63], pa.uint64())),
            "id",
            ["row 2", "must fit in 64 bits with a sign, got 9223372036854775808"],
        ),
        (rows(ids=[b"a", b"\xff"]), "id", ["row 2", "must be UTF-8, got b'\\xff'"]),
        (rows(ids=["a", "x" * 1025]), "id", ["row 2", "must be at most 1,024 bytes"]),
        (rows(width=[640, None]), "width", ["row 2", "no value"]),
        (rows(width=[640, 0]), "width", ["row 2", "got 0"]),
        (rows(height=[640, -5]), "height", ["row 2", "got -5"]),
        (rows(height=[640, 2**40]), "height", ["row 2", "to 1,000,000, got 1099511627776"]),
        (rows(height=pa.array([640, 2**64 - 1], pa.uint64())), "height", ["row 2", "18446744073709551615"]),
        (rows(width=[640.0, 640.5]), "width", ["row 2", "got 640.5"]),
        (rows(width=[640.0, float("nan")]), "width", ["row 2", "no value (nan)"]),
        (rows(width=[640.0, float("-inf")]), "width", ["row 2", "got -inf"]),
        (rows(width=["640", "3"]), "width", ["row 1", "got '640' of type string"]),
        (rows(width=[True, False]), "width", ["row 1", "got True of type bool"]),
        (rows(width=[None, None]), "width", ["row 1", "no value"]),
        (rows().slice(0, 0), "file", ["no rows"]),
        (rows().drop_columns(["height"]), "height", ["has 'width' but no column 'height'"]),
    ],
)
def test_a_bad_value_is_named_with_its_row(
    refused: Callable[..., Invalid],
    tmp_path: Path,
    sink: tuple[str, Sink],
    table: pa.Table,
    field: str,
    words: list[str],
) -> None:
    sink[1](tmp_path / "bad", table)
    error = refused(sink[0], tmp_path / "bad")
    assert error.field == field
    for word in words:
        assert word in error.detail
    if words[0].startswith("row"):
        assert error.extra["row"] == int(words[0].split()[1])


STRANGE = [
    pa.array(["1", "2"], pa.string_view()),
    pa.array([b"1", b"2"], pa.binary_view()),
    pa.array([b"11", b"22"], pa.binary(2)),
    pa.array([1, 2], pa.timestamp("ns", "Europe/Berlin")),
    pa.array([2**62 + 1, 2], pa.timestamp("ns")),
    pa.array([2**62, 2], pa.timestamp("s")),
    pa.array([1, 2], pa.duration("ns")),
    pa.array([1, 2], pa.time64("ns")),
    pa.array([2**30, 2], pa.date32()),
    pa.array([(1, 2, 3), (1, 2, 3)], pa.month_day_nano_interval()),
    pa.array([Decimal("1.5"), Decimal(2)], pa.decimal256(70, 2)),
    pa.array([Decimal("1e60"), Decimal(2)], pa.decimal256(70, 2)),
    pa.array([{"a": 1}, {"a": 2}]),
    pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())),
    pa.array([[1.0], [2.0]], pa.list_(pa.float64(), 1)),
    pa.RunEndEncodedArray.from_arrays(pa.array([1, 2], pa.int32()), pa.array([3, 4])),
    pa.UnionArray.from_dense(
        pa.array([0, 1], pa.int8()), pa.array([0, 0], pa.int32()), [pa.array([1]), pa.array(["a"])]
    ),
    pa.array(["a", "b"]).dictionary_encode(),
    pa.array([b"\xff", b"b"]).dictionary_encode(),
    pa.array([1.5, None]).dictionary_encode(),
    pa.nulls(2),
]


@pytest.mark.parametrize("column", ["id", "width", "height"])
def test_a_column_of_any_type_is_read_or_invalid(store: MapStore, tmp_path: Path, column: str) -> None:
    for number, strange in enumerate(STRANGE):
        stream(tmp_path / "map", rows().set_column(rows().schema.get_field_index(column), column, strange))
        put = partial(store.put, f"map{number}", tmp_path / "map", "arrow")
        if column == "id" and strange.type == pa.dictionary(pa.int32(), pa.string()):
            assert put()[0].ids(np.array([1])) == ["b"]
        elif column == "id" and strange.type in (pa.string_view(), pa.binary_view()):
            with suppress(Invalid):  # older releases of Arrow cannot convert them
                assert put()[0].ids(np.array([1])) == ["2"]
        else:
            with pytest.raises(Invalid) as caught:
                put()
            assert caught.value.field in (column, "file"), strange.type


def test_a_bad_row_far_down_has_its_number(
    refused: Callable[..., Invalid], tmp_path: Path, sink: tuple[str, Sink]
) -> None:
    n = 300_001
    widths = np.full(n, 640)
    widths[n - 2] = 0
    sink[1](tmp_path / "bad", rows(ids=np.arange(n), width=widths, height=np.full(n, 480)))
    assert refused(sink[0], tmp_path / "bad").extra["row"] == n - 1
    ids = np.arange(n)
    ids[[270_000, 290_000]] = [3, 2]
    sink[1](tmp_path / "bad", rows(ids=ids, width=np.full(n, 640), height=np.full(n, 480)))
    assert "row 270001: duplicate id 3, first seen in row 4" in refused(sink[0], tmp_path / "bad").detail


@pytest.mark.parametrize("column", ["orientation", "num_repeats", "num_frames"])
def test_an_optional_column_of_any_type_is_read_or_invalid(
    store: MapStore, tmp_path: Path, column: str
) -> None:
    for number, strange in enumerate(STRANGE):
        stream(tmp_path / "map", rows().append_column(column, strange))
        put = partial(store.put, f"map{number}", tmp_path / "map", "arrow")
        is_number = strange.type in (pa.decimal256(70, 2), pa.dictionary(pa.int32(), pa.float64()))
        fits = strange[0].as_py() == 1.5 if is_number and column == "num_repeats" else False
        if fits or strange.null_count == len(strange):
            put()[0].verify()
        else:
            with pytest.raises(Invalid) as caught:
                put()
            assert caught.value.field in (column, "file"), strange.type


def test_metadata_of_img2dataset(refused: Callable[..., Invalid], store: MapStore, tmp_path: Path) -> None:
    """The sizes after its resize are taken; what it could not download must be left out."""
    shard = pa.table(
        {
            "key": ["000000000", "000000001"],
            "status": ["success", "failed_to_download"],
            "width": [256, None],
            "height": [192, None],
            "original_width": [640, None],
            "original_height": [480, None],
        }
    )
    pq.write_table(shard, tmp_path / "00000.parquet")
    error = refused("parquet", tmp_path / "00000.parquet")
    assert (
        "width: row 2: has no value. Pass skip_missing_sizes=true to leave out the rows without a size"
        in error.detail
    )
    opened, _ = store.put(
        "skipped", tmp_path / "00000.parquet", "parquet", RequestedColumns(skip_missing_sizes=True)
    )
    assert opened.num_images == 1
    pq.write_table(shard.slice(0, 1), tmp_path / "00000.parquet")
    opened, _ = store.put("map", tmp_path / "00000.parquet", "parquet")
    assert (opened.ids(np.array([0])), opened.widths[0], opened.heights[0]) == (["000000000"], 256, 192)


def test_columns_by_option_may_have_dots(store: MapStore, tmp_path: Path, sink: tuple[str, Sink]) -> None:
    sink[1](tmp_path / "map", pa.table({"a.id": [1], "size.w": [2], "size.h": [3], "id": ["x"]}))
    opened, _ = store.put("map", tmp_path / "map", sink[0], RequestedColumns("a.id", "size.w", "size.h"))
    assert (opened.int_ids[0], opened.widths[0], opened.heights[0]) == (1, 2, 3)


def test_a_stream_that_was_cut_between_two_batches_is_refused(
    refused: Callable[..., Invalid], tmp_path: Path
) -> None:
    with pa.ipc.new_stream(str(tmp_path / "map"), rows().schema) as writer:
        writer.write_table(rows())
    data = (tmp_path / "map").read_bytes()
    assert len(pa.ipc.open_stream(data[:-8]).read_all()) == 2  # arrow itself takes it
    assert "no end mark" in refused("arrow", data[:-8]).detail


def test_offsets_and_indices_that_point_elsewhere_are_refused(
    refused: Callable[..., Invalid], tmp_path: Path
) -> None:
    ends = pa.py_buffer(np.array([0, 2**30, 2], np.int32).tobytes())
    text = pa.py_buffer(b"ab")
    for ids in (
        pa.StringArray.from_buffers(2, ends, text),
        pa.DictionaryArray.from_arrays(pa.array([0, 77], pa.int32()), pa.array(["a"]), safe=False),
    ):
        stream(tmp_path / "map", pa.table({"id": ids, "width": [1, 2], "height": [1, 2]}))
        assert "cannot be read as arrow" in refused("arrow", tmp_path / "map").detail


@pytest.mark.parametrize("format", ["parquet", "arrow"])
@pytest.mark.parametrize(
    "data", [b"id,width,height\n1,2,3\n", b"\0", b"PAR1", b"ARROW1\0\0", b"\xff" * 100, b"\0" * 100]
)
def test_what_is_no_such_file_is_refused(refused: Callable[..., Invalid], format: str, data: bytes) -> None:
    assert f"cannot be read as {format}" in refused(format, data).detail


UUIDS = [uuid.UUID(int=0), uuid.UUID("123e4567-e89b-12d3-a456-426614174000"), uuid.UUID(int=2**128 - 1)]
UUID_TYPES = {"sixteen bytes": pa.binary(16), **({"uuid": pa.uuid()} if hasattr(pa, "uuid") else {})}


@pytest.mark.parametrize("kind", UUID_TYPES)
@pytest.mark.parametrize("encoded", [False, True])
def test_uuids_are_strings(
    store: MapStore, tmp_path: Path, sink: tuple[str, Sink], kind: str, encoded: bool
) -> None:
    ids = pa.array([each.bytes for each in UUIDS], pa.binary(16))
    ids = ids.dictionary_encode() if encoded else ids.cast(UUID_TYPES[kind])
    sink[1](tmp_path / "map", pa.table({"id": ids, "width": [1, 2, 3], "height": [4, 5, 6]}))
    opened, _ = store.put("map", tmp_path / "map", sink[0])
    assert opened.ids(np.arange(3)) == [str(each) for each in UUIDS]


def test_uuids_over_several_chunks(store: MapStore, tmp_path: Path) -> None:
    n = 300_000
    data = b"".join(number.to_bytes(16, "little") for number in range(n))
    ids = pa.Array.from_buffers(pa.binary(16), n, [None, pa.py_buffer(data)])
    with pa.OSFile(str(tmp_path / "map"), "wb") as file:
        rows = pa.table({"id": ids, "width": np.full(n, 3), "height": np.full(n, 4)})
        with pa.ipc.new_file(file, rows.schema) as writer:
            writer.write_table(rows)
    opened, _ = store.put("map", tmp_path / "map", "arrow")
    assert opened.ids(np.array([0, n - 1])) == [
        str(uuid.UUID(bytes=number.to_bytes(16, "little"))) for number in (0, n - 1)
    ]


@pytest.mark.parametrize("kind", [pa.binary(15), pa.binary(17)])
def test_bytes_of_another_length_are_no_ids(
    refused: Callable[..., Invalid], tmp_path: Path, kind: Any
) -> None:
    ids = pa.array([b"a" * kind.byte_width], kind)
    pq.write_table(pa.table({"id": ids, "width": [1], "height": [2]}), tmp_path / "map")
    assert refused("parquet", tmp_path / "map").field == "id"


@pytest.mark.parametrize("name", ["polars.arrow", "polars-categorical.arrow"])
def test_files_of_polars(store: MapStore, name: str) -> None:
    """Written by polars 2.1: within such a file is no stream, and a category's values are string views."""
    opened, _ = store.put("map", Path(__file__).with_name("data") / name, "arrow")
    assert opened.ids(np.arange(3)) == ["a/é.jpg", "b" * 40, "c"]
    assert opened.widths.tolist() == [640, 512, 3] * 2


@pytest.mark.parametrize(
    ("value", "step"),
    [
        (b"\xff\xff\xff\x7f", 12),
        *(
            pytest.param(value, 4, marks=pytest.mark.exhaustive)
            for value in (b"\xff\xff\xff\x7f", b"\0\0\0\0")
        ),
    ],
)
def test_a_footer_that_leads_elsewhere_is_refused(
    store: MapStore, tmp_path: Path, value: bytes, step: int
) -> None:
    data = (Path(__file__).with_name("data") / "polars.arrow").read_bytes()
    for at in range(len(data) - 402, len(data) - 6, step):
        (tmp_path / "map").write_bytes(data[:at] + value + data[at + 4 :])
        with suppress(Invalid, TooLarge):  # what was changed may not matter
            store.put("map", tmp_path / "map", "arrow")[0].verify()
            store.delete("map")
