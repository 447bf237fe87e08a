from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bucketline_service.errors import Invalid
from bucketline_service.maps import MapStore
from bucketline_service.maps.formats.json_rows import BLOCK_BYTES

FIRST = '{"id": 1, "width": 2, "height": 3}\n'
FIRST_TEXT = '{"id": "a", "width": 2, "height": 3}\n'


@pytest.mark.parametrize(
    "text",
    [
        FIRST + '{"id": 4, "width": 5.0, "height": 6}',
        "\ufeff" + FIRST + '{"id": 4, "width": 5, "height": 6}\n',
        "\n\n" + FIRST + '\r\n\r\n{"height": 6, "tags": [1, {"a": null}], "width": 5, "id": 4}\r\n\n',
    ],
)
def test_the_same_rows_however_they_are_written(store: MapStore, tmp_path: Path, text: str) -> None:
    path = tmp_path / "map.jsonl"
    path.write_text(text, encoding="utf-8", newline="")
    opened, _ = store.put("map", path, "jsonl")
    assert opened.int_ids.tolist() == [1, 4]
    assert (opened.widths.tolist(), opened.heights.tolist()) == ([2, 5], [3, 6])


def test_strings_that_look_like_something_else_stay_strings(store: MapStore, tmp_path: Path) -> None:
    ids = ["2020-01-01", "1", "007", "null", "2020-01-01T00:00:00Z", "\u00e9\U0001f600", 'a"b\\c\nd']
    path = tmp_path / "map.jsonl"
    path.write_text("".join(json.dumps({"id": i, "width": 1, "height": 1}) + "\n" for i in ids))
    opened, _ = store.put("map", path, "jsonl")
    assert opened.ids(np.arange(len(ids))) == ids


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        (
            FIRST + '{"id": "a", "width": 2, "height": 3}',
            "id",
            ["row 2 (line 2)", 'like the ids before it, got "a"'],
        ),
        (
            FIRST_TEXT + '\n{"id": 1, "width": 2, "height": 3}',
            "id",
            ["row 2 (line 3)", "must be a string like the ids before it, got 1"],
        ),
        (FIRST + '{"id": true, "width": 2, "height": 3}', "id", ["row 2 (line 2)", "got true"]),
        (FIRST + '{"id": 1.5, "width": 2, "height": 3}', "id", ["row 2 (line 2)", "got 1.5"]),
        (FIRST + '{"id": [1], "width": 2, "height": 3}', "id", ["row 2 (line 2)", "got [1]"]),
        (FIRST + '{"id": null, "width": 2, "height": 3}', "id", ["row 2 (line 2)", "has no value"]),
        (FIRST + '{"width": 2, "height": 3}', "id", ["row 2 (line 2)", "has no value"]),
        (
            FIRST + '{"id": 9223372036854775808, "width": 2, "height": 3}',
            "id",
            ["row 2", "must fit in 64 bits"],
        ),
        ('{"id": 18446744073709551615, "width": 2, "height": 3}', "id", ["row 1", "18446744073709551615"]),
        (FIRST_TEXT + '{"id": "", "width": 2, "height": 3}', "id", ["row 2 (line 2)", "must not be empty"]),
        (
            FIRST + '{"id": 1, "width": 2, "height": 3}',
            "id",
            ["row 2 (line 2)", "duplicate id 1, first seen in row 1"],
        ),
        (
            FIRST + '{"id": 4, "width": true, "height": 3}',
            "width",
            ["row 2 (line 2)", "got true"],
        ),
        (
            FIRST + '{"id": 4, "width": "640", "height": 3}',
            "width",
            ["row 2 (line 2)", 'got "640"'],
        ),
        (
            FIRST + '{"id": 4, "width": 640.5, "height": 3}',
            "width",
            ["row 2 (line 2)", "got 640.5"],
        ),
        (FIRST + '{"id": 4, "width": 5, "height": -3}', "height", ["row 2 (line 2)", "got -3.0"]),
        (FIRST + '\n\n{"id": 4, "width": 0, "height": 3}', "width", ["row 2 (line 4)", "got 0.0"]),
        (FIRST + '{"id": 4, "width": NaN, "height": 3}', "width", ["row 2 (line 2)", "nan"]),
        (FIRST + '{"id": 4, "width": 1e9, "height": 3}', "width", ["row 2 (line 2)", "to 1,000,000, got"]),
        (FIRST + '{"id": 4, "height": 3}', "width", ["row 2 (line 2)", "no value"]),
        (FIRST + '{"id": 4, "width": 1e999, "height": 3}', "file", ["row 2"]),
        (FIRST + '{"id": 4, "width": 2, "hei', "file", ["row 2 (line 2)", "must be JSON", "truncated"]),
        (FIRST + "[4, 5, 6]", "file", ["row 2 (line 2)", "must be an object, got [4, 5, 6]"]),
        ('{"id": 1, "id": 2, "width": 2, "height": 3}', "file", ["row 1", "twice"]),
        ("[" * 100_000, "file", ["row 1"]),
        (FIRST + "[" * 100_000, "file", ["row 2 (line 2)"]),
        ("id,width,height\n1,2,3\n", "file", ["row 1", "must be JSON"]),
        ("\n \n\n", "file", ["no rows"]),
        ("", "file", ["is empty"]),
        ('{"id": 1, "width": 2}', "height", ["but no column 'height'"]),
        ("{}", "id", ["no id column"]),
    ],
)
def test_a_bad_row_is_named(refused: Callable[..., Invalid], text: str, field: str, words: list[str]) -> None:
    error = refused("jsonl", text.encode())
    assert error.field == field
    for word in words:
        assert word in error.detail


def test_text_that_is_not_utf_8_is_refused(refused: Callable[..., Invalid]) -> None:
    refused("jsonl", FIRST_TEXT.encode() + b'{"id": "\xff", "width": 2, "height": 3}')
    refused("jsonl", b'{"id": "\xff", "width": 2, "height": 3}')


def test_lone_surrogates_are_no_text(refused: Callable[..., Invalid]) -> None:
    refused("jsonl", FIRST_TEXT.encode() + b'{"id": "\\ud800", "width": 2, "height": 3}')


def test_a_bad_row_in_a_later_block_has_its_number_and_its_line(refused: Callable[..., Invalid]) -> None:
    n = BLOCK_BYTES // 1000 + 1
    good = "".join(f'{{"id": {i}, "width": 640, "height": 480, "note": "{"x" * 1000}"}}\n' for i in range(n))
    for bad in (
        '{"id": "x", "width": 1, "height": 1}',
        '{"id": -1, "width": 0, "height": 1}',
        '{"id": -1, "wid',
    ):
        error = refused("jsonl", f"\n{good}\n{bad}\n".encode())
        assert (error.extra["row"], error.extra["line"]) == (n + 1, n + 3)
