from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bucketline_service.errors import Invalid
from bucketline_service.maps import MapStore, RequestedColumns, ResolutionMap
from bucketline_service.maps.formats.csv import _BLOCK_BYTES

Put = Callable[..., ResolutionMap]


NOTE = "x" * 1000
"""Of a column that is not read: few rows fill a block."""


@pytest.fixture
def put(store: MapStore, tmp_path: Path) -> Put:
    def put_csv(text: str | bytes, *columns: RequestedColumns) -> ResolutionMap:
        path = tmp_path / "map.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return store.put("map", path, "csv", *columns)[0]

    return put_csv


def rows(opened: ResolutionMap) -> list[tuple[int | str, int, int]]:
    ids = opened.ids(np.arange(opened.num_images))
    return list(zip(ids, opened.widths.tolist(), opened.heights.tolist(), strict=True))


@pytest.mark.parametrize(
    "text",
    [
        "id,width,height\n1,640,480\n2,3,4\n",
        "id,width,height\n1,640,480\n2,3,4",
        "id,width,height\r\n1,640,480\r\n2,3,4\r\n",
        "\ufeffid,width,height\n1,640,480\n2,3,4\n",
        '\ufeff"id","width","height"\r\n"1","640","480"\r\n"2","3","4"\r\n',
        "id,width,height\n\n1,640,480\n\n\n2,3,4\n\n",
        "\nid,width,height\n1,640,480\n2,3,4\n",
        'caption,height,id,width\n"a, b\nc",480,1,640\n,4,2,3\n',
        "id, width, height\n1, 640, 480\n2, 3, 4\n",
        "id,width,height\n1,640.0,480.\n2,3,4.00\n",
        "id,width,height\n1,0640,480\n2,3,4\n",
    ],
)
def test_the_same_rows_however_they_are_written(put: Put, text: str) -> None:
    opened = put(text)
    assert opened.id_kind == "int64"
    assert rows(opened) == [(1, 640, 480), (2, 3, 4)]


@pytest.mark.parametrize(
    "odd", ["007", "+7", " 7", "7 ", "7.5", "7.00", "-0", "1e3", "0x10", "9223372036854775808", "a", "\u0667"]
)
def test_ids_are_numbers_only_if_all_are_canonical(put: Put, odd: str) -> None:
    opened = put(f"id,width,height\n1,2,3\n{odd},4,5\n-8,6,7\n")
    assert opened.id_kind == "string"
    assert rows(opened) == [("1", 2, 3), (odd, 4, 5), ("-8", 6, 7)]


def test_ids_that_are_all_canonical_are_numbers(put: Put) -> None:
    opened = put("id,width,height\n-9223372036854775808,2,3\n0,4,5\n9223372036854775807,6,7\n")
    assert opened.int_ids.tolist() == [-(2**63), 0, 2**63 - 1]


def test_a_string_after_a_block_of_numbers_makes_all_of_them_strings(put: Put) -> None:
    """The numbers are in an earlier block, and have been taken for numbers."""
    n = _BLOCK_BYTES // 1000 + 1
    rows = "".join(f"{i},640,480,{NOTE}\n" for i in range(n))
    opened = put(f"id,width,height,note\n{rows}last,1,2,\n")
    assert opened.id_kind == "string"
    assert opened.ids(np.array([0, 5, n - 1, n])) == ["0", "5", str(n - 1), "last"]
    assert opened.find(str(n - 1)) == n - 1


def test_strings_stay_what_they_are(put: Put) -> None:
    ids = ["NA", "null", "true", "nan", "a,b", 'say "hi"', "two\nlines", " x ", "é", "2020-01-01", "a/b.jpg"]
    quoted = ['"' + image_id.replace('"', '""') + '"' for image_id in ids]
    opened = put("id,width,height\n" + "".join(f"{image_id},1,2\n" for image_id in quoted))
    assert opened.ids(np.arange(len(ids))) == ids


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ("1,2,3\n4,5\n", "file", ["row 2 (line 3)", "must have 3 fields like the header, got 2", "'4,5'"]),
        ("1,2,3\n\n4,5,6,7\n", "file", ["row 2 (line 4)", "got 4", "'4,5,6,7'"]),
        ('"1\nx",2,3\n4,5\n', "file", ["row 2 (line 4)", "got 2"]),
        ('1,2,3\n"4,5,6\n', "file", ["row 2 (line 3)", "truncated"]),
        ("1,2,3\n,5,6\n", "id", ["row 2 (line 3)", "must not be empty"]),
        ("1,2,3\n4,,6\n", "width", ["row 2 (line 3)", "no value"]),
        ("1,2,3\n4,5, \n", "height", ["row 2 (line 3)", "no value"]),
        ("1,2,3\n4,0,6\n", "width", ["row 2 (line 3)", "got '0'"]),
        ("1,2,3\n4,-5,6\n", "width", ["row 2 (line 3)", "got '-5'"]),
        ("1,2,3\n4,5,1000001\n", "height", ["row 2 (line 3)", "to 1,000,000, got '1000001'"]),
        (
            "1,2,3\n4,5,99999999999999999999\n",
            "height",
            ["row 2", "'99999999999999999999'", "to 1,000,000, got"],
        ),
        ("1,2,3\n4,5,640.5\n", "height", ["row 2 (line 3)", "got '640.5'"]),
        ("1,2,3\n4,5,nan\n", "height", ["row 2 (line 3)", "'nan'"]),
        ("1,2,3\n4,5,inf\n", "height", ["row 2 (line 3)", "'inf'"]),
        ("1,2,3\n4,5,wide\n", "height", ["row 2 (line 3)", "got 'wide'"]),
        ("1,2,3\n4,5,0x10\n", "height", ["row 2 (line 3)", "got '0x10'"]),
        ("1,2,3\n4,5,1_0\n", "height", ["row 2 (line 3)", "got '1_0'"]),
        ("1,2,3\n4,5,1e2\n", "height", ["row 2 (line 3)", "in decimal digits, got '1e2'"]),
        ("1,2,3\n4,5,true\n", "height", ["row 2 (line 3)", "got 'true'"]),
        ("1,2,3\n4,5,6\n1,7,8\n", "id", ["row 3 (line 4)", "duplicate id 1, first seen in row 1"]),
        ("a,2,3\n4,5,6\n4,7,8\na,1,1\n", "id", ["row 3 (line 4)", "duplicate id '4', first seen in row 2"]),
        (f"1,2,3\n{'x' * 1025},5,6\n", "id", ["row 2 (line 3)", "at most 1,024 bytes"]),
        ("", "file", ["no rows"]),
        ("\n\n", "file", ["no rows"]),
    ],
)
def test_a_bad_row_is_named(refused: Callable[..., Invalid], body: str, field: str, words: list[str]) -> None:
    error = refused("csv", ("id,width,height\n" + body).encode())
    assert error.field == field
    for word in words:
        assert word in error.detail
    if "row" in words[0] and words[0] != "no rows":
        assert error.extra["row"] == int(words[0].split()[1])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", ["file", "is empty"]),
        (b"id,width,height", ["file"]),
        (b"\n\n\n", ["id", "no id column"]),
        (b"id,width,height\n1,2,3\n\xff,5,6\n", ["row 2 (line 3)", "must be UTF-8", "iconv -f WINDOWS-1252"]),
        (b"id,width,height,m\xfcll\n1,2,3,4\n", ["header must be UTF-8", "iconv -f WINDOWS-1252"]),
        ("id,width,height\n1,2,3\n".encode("utf-16"), ["got UTF-16", "iconv -f UTF-16"]),
        (b"sep=,\nid,width,height\n1,2,3\n", ["got 'sep=,'", "Excel", "tail -n +2"]),
        (b'"sep=;"\r\nid;width;height\n1;2;3\n', ["Excel", "tail -n +2"]),
        (b"id,width\n1,2\n", ["height", "'id', 'width'"]),
        (b"id,width,height,id\n1,2,3,4\n", ["id", "2 columns"]),
        (b"PAR1\x00\x01\x02", []),
        (b"1,640,480\n2,3,4\n", ["id", "'1', '640', '480'"]),
        (b'"id,width,height\n1,2,3\n', ["id"]),
    ],
)
def test_what_is_no_such_csv_is_refused(
    refused: Callable[..., Invalid], data: bytes, words: list[str]
) -> None:
    error = refused("csv", data)
    for word in words:
        assert word in error.detail


def test_a_bad_row_in_a_later_block_has_its_number(refused: Callable[..., Invalid]) -> None:
    n = _BLOCK_BYTES // 1000 + 1
    good = "id,width,height,note\n" + "".join(f"{i},640,480,{NOTE}\n" for i in range(n))
    error = refused("csv", f"{good}x,0,1,\n".encode())
    assert error.extra == {"field": "width", "row": n + 1, "line": n + 2, "value": "'0'"}
    assert refused("csv", f"{good}x,1\n".encode()).extra["row"] == n + 1


@pytest.mark.exhaustive
def test_far_down_the_line_of_a_bad_row_is_not_looked_for(refused: Callable[..., Invalid]) -> None:
    n = 1_200_000
    good = "".join(f"{i},640,480\n" for i in range(n))
    error = refused("csv", f"id,width,height\n{good}x,0,1\n".encode())
    assert error.extra == {"field": "width", "row": n + 1, "value": "'0'"}


def test_columns_by_option(put: Put) -> None:
    opened = put("name,w,h,width,height\na,1,2,3,4\n", RequestedColumns("name", "w", "h"))
    assert rows(opened) == [("a", 1, 2)]
