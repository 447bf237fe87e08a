"""JSON that is not in lines: arrays of objects, and COCO's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bucketline_service.errors import Invalid
from bucketline_service.maps import MapStore, RequestedColumns
from bucketline_service.maps.formats.json_rows import BLOCK_BYTES

ROW = '{"id": 1, "width": 640, "height": 480}'
COCO = {
    "info": {"images": 5},
    "licenses": [{"images": [{"id": 9, "width": 1, "height": 1}]}],
    "annotations": [{"id": 1, "image_id": 2, "segmentation": [[0.5, 1]], "images": {"id": 8}}],
    "images": [
        {"id": 1, "file_name": "a.jpg", "width": 640, "height": 480, "date": None, "more": {"id": 7}},
        {"id": 2, "file_name": "b.jpg", "width": 3, "height": 4.0},
    ],
    "categories": [{"id": 1, "width": 5, "height": 6}],
}


@pytest.mark.parametrize(
    "text",
    [
        f"[{ROW}]",
        f"\ufeff \n[ {ROW} ]\n",
        json.dumps([json.loads(ROW)], indent=2),
        f'{{"images": [{ROW}]}}',
        json.dumps({"info": {}, "images": [json.loads(ROW)]}, indent=4),
        '[{"id": 1, "more": [{"id": 3}, [[]]], "width": 640.0, "x": {"width": [5]}, "height": 48e1}]',
        '{"id": 1, "images": ["a.jpg"], "width": 640, "height": 480}',
        '{"id": 1, "text": "\\"images\\"", "width": 640, "height": 480}',
    ],
)
def test_one_row_however_it_is_written(store: MapStore, tmp_path: Path, text: str) -> None:
    (tmp_path / "map.json").write_text(text, encoding="utf-8")
    opened, _ = store.put("map", tmp_path / "map.json", "json")
    assert opened.int_ids.tolist() == [1]
    assert (opened.widths.tolist(), opened.heights.tolist()) == ([640], [480])


@pytest.mark.parametrize("indent", [None, 1])
def test_of_coco_the_images_are_read(store: MapStore, tmp_path: Path, indent: int | None) -> None:
    (tmp_path / "map.json").write_text(json.dumps(COCO, indent=indent))
    opened, _ = store.put("map", tmp_path / "map.json", "jsonl")
    assert opened.int_ids.tolist() == [1, 2]
    opened, _ = store.put("names", tmp_path / "map.json", "jsonl", RequestedColumns(id="file_name"))
    assert opened.ids(np.arange(2)) == ["a.jpg", "b.jpg"]


def test_an_array_of_several_blocks(store: MapStore, tmp_path: Path) -> None:
    n = 2 * BLOCK_BYTES // 1000 + 1
    rows = [{"id": f"{i:040d}", "width": i % 999 + 1, "height": 7, "note": "x" * 1000} for i in range(n)]
    rows[-1]["num_frames"] = 9
    (tmp_path / "map.json").write_text(json.dumps(rows))
    opened, _ = store.put("map", tmp_path / "map.json", "json")
    assert opened.num_images == n
    assert opened.widths.tolist() == [i % 999 + 1 for i in range(n)]
    assert opened.optional["num_frames"] == {"min": 1, "max": 9}


@pytest.mark.parametrize(
    ("text", "field", "words"),
    [
        ("[]", "file", ["no rows"]),
        (f'[{ROW}, {{"id": 2, "width": NaN, "height": 3}}]', "file", ["JSON has no NaN", "write null"]),
        ("[1]", "file", ["row 1", "must be an object, got 1"]),
        (f"[{ROW}, [1]]", "file", ["row 2", "must be an object, got an array"]),
        (f"[{ROW}, null]", "file", ["row 2", "must be an object, got null"]),
        (f"[{ROW}", "file", ["cannot be read as json"]),
        (f"[{ROW}] {ROW}", "file", ["cannot be read as json"]),
        (f"[{ROW}, {ROW}]", "id", ["row 2", "duplicate id 1, first seen in row 1"]),
        ('[{"id": 1.0, "width": 2, "height": 3}]', "id", ["row 1", "got 1.0"]),
        (f'[{ROW}, {{"id": "a", "width": 2, "height": 3}}]', "id", ["row 2", "must be an integer like"]),
        (f'[{ROW}, {{"id": {2**64}, "width": 2, "height": 3}}]', "id", ["row 2", "64 bits"]),
        (f'[{ROW}, {{"id": 2, "width": "5", "height": 3}}]', "width", ["row 2", 'got "5"']),
        (f'[{ROW}, {{"id": 2, "width": [5], "height": 3}}]', "width", ["row 2", "got"]),
        (f'[{ROW}, {{"id": 2, "width": 1e400, "height": 3}}]', "width", ["row 2", "to 1,000,000, got"]),
        (f'[{ROW}, {{"id": 2, "width": null, "height": 3}}]', "width", ["row 2", "skip_missing_sizes=true"]),
        (
            f'[{ROW}, {{"id": 2, "width": 1, "width": 2, "height": 3}}]',
            "file",
            ["row 2", "each key once, got 'width'"],
        ),
        (f'[{ROW}, {{"id": {"9" * 5000}, "width": 1, "height": 3}}]', "file", []),
        ('{"images": []}', "file", ["row 1", "'images'", "an array called images (COCO)"]),
        (
            '{"a.jpg": {"width": 1, "height": 2}}',
            "file",
            ["'a.jpg'", "jq -c 'to_entries[] | {id: .key} + .value'"],
        ),
        ('{"id": [1, 2], "width": [3, 4], "height": [5, 6]}', "file", ["'id', 'width'", "orient='records'"]),
        ('{\n"id": 1}', "file", ["row 1", "one object a line, an array of objects"]),
        ('[{"a": ' + "[" * 1_000_000, "file", ["cannot be read as json"]),
        ('[{"a": ' + "[" * 1000 + "]" * 1000 + "}]", "id", ["no id column"]),
    ],
)
def test_what_is_wrong_is_named(
    refused: Callable[..., Invalid], text: str, field: str, words: list[str]
) -> None:
    error = refused("jsonl", text.encode())
    assert error.field == field
    for word in words:
        assert word in error.detail
    assert "line" not in error.extra
    assert len(error.detail) < 600


def test_text_that_is_not_utf_8_is_told(refused: Callable[..., Invalid]) -> None:
    for row in (b'[{"id": "\xfc", "width": 2, "height": 3}]', b'{"id": "\xfc", "width": 2, "height": 3}'):
        assert "iconv -f WINDOWS-1252" in refused("jsonl", row).detail
