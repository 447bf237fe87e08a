from __future__ import annotations

import re
from pathlib import Path

import pytest

from bucketline_service.errors import Invalid
from bucketline_service.maps.column_names import (
    ID_TIERS,
    OPTIONAL_NAMES,
    SIZE_TIERS,
    RequestedColumns,
    ResolvedColumns,
    resolve,
)

PROTOCOL = Path(__file__).parents[2] / "docs" / "reference" / "http.md"

IMG2DATASET = [
    "url",
    "key",
    "status",
    "error_message",
    "width",
    "height",
    "original_width",
    "original_height",
    "exif",
    "sha256",
]
LAION_2B = ["SAMPLE_ID", "URL", "TEXT", "HEIGHT", "WIDTH", "LICENSE", "NSFW", "similarity"]


@pytest.mark.parametrize(
    ("available", "expected"),
    [
        (["id", "width", "height"], ("id", "width", "height")),
        (["height", "x", "width", "id"], ("id", "width", "height")),
        (IMG2DATASET, ("key", "width", "height")),
        ([*IMG2DATASET, "hash", "WIDTH", "HEIGHT"], ("key", "width", "height")),
        (LAION_2B, ("SAMPLE_ID", "WIDTH", "HEIGHT")),
        (["URL", "TEXT", "WIDTH", "HEIGHT", "similarity", "hash"], ("hash", "WIDTH", "HEIGHT")),
        (["image_id", "image", "width", "height", "objects"], ("image_id", "width", "height")),
        (["file_name", "text", "image_width", "image_height"], ("file_name", "image_width", "image_height")),
        (["__key__", "width", "height"], ("__key__", "width", "height")),
        (["uid", "url", "original_width", "original_height"], ("uid", "original_width", "original_height")),
        (["id", "image_id", "hash", "width", "height"], ("id", "width", "height")),
        (["id", "WIDTH", "HEIGHT", "width", "height"], ("id", "width", "height")),
        (["id", "original_width", "original_height", "width"], ("id", "original_width", "original_height")),
        (["id", " width", " height "], ("id", " width", " height ")),
    ],
)
def test_usual_names_are_found(available: list[str], expected: tuple[str, str, str]) -> None:
    assert tuple(resolve(RequestedColumns(), available).all()) == expected


def test_names_that_are_given_win() -> None:
    named = RequestedColumns("sha256", "width", "height")
    assert resolve(named, IMG2DATASET) == ResolvedColumns("sha256", "width", "height")
    assert resolve(RequestedColumns(id="url"), IMG2DATASET) == ResolvedColumns("url", "width", "height")
    named = RequestedColumns(width="original_width", height="original_height")
    assert resolve(named, IMG2DATASET) == ResolvedColumns("key", "original_width", "original_height")
    columns = RequestedColumns(width="w", height="h")
    assert resolve(columns, ["id", "w", "h", "width", "height"]) == ResolvedColumns("id", "w", "h")


@pytest.mark.parametrize(
    ("columns", "available", "field", "words"),
    [
        (RequestedColumns(), ["width", "height"], "id", ["'image_id'", "'width', 'height'"]),
        (RequestedColumns(), ["id", "width"], "height", ["'width' but no column 'height'"]),
        (
            RequestedColumns(),
            ["id", "image_height"],
            "image_width",
            ["'image_height' but no column 'image_width'"],
        ),
        (
            RequestedColumns(),
            ["id", "w", "h"],
            "width",
            ["the columns are 'id', 'w', 'h'", "width_column and height_column"],
        ),
        (RequestedColumns(), [], "id", ["the columns are none"]),
        (
            RequestedColumns(),
            ["key", "image_id", "width", "height"],
            "id",
            ["'key', 'image_id'", "with id_column"],
        ),
        (
            RequestedColumns(),
            ["id", "width", "height", "image_width", "image_height"],
            "width",
            ["'width x height', 'image_width x image_height'", "width_column and height_column"],
        ),
        (
            RequestedColumns(),
            ["id", "original_width", "original_height", "WIDTH", "HEIGHT"],
            "width",
            ["'original_width x original_height', 'WIDTH x HEIGHT'", "width_column and height_column"],
        ),
        (RequestedColumns(), ["id", "width", "height", "width"], "width", ["2 columns with this name"]),
        (RequestedColumns(), ["id", "width", "height", " id"], "id", ["2 columns with this name"]),
        (RequestedColumns(id="nope"), ["id", "width", "height"], "id", ["'nope'", "'id', 'width', 'height'"]),
        (RequestedColumns(width="nope", height="height"), ["id", "width", "height"], "width", ["'nope'"]),
        (RequestedColumns(width="w"), ["id", "w", "height"], "columns", ["got only width"]),
        (RequestedColumns(height="h"), ["id", "width", "h"], "columns", ["got only height"]),
        (RequestedColumns("id", "width", "width"), ["id", "width"], "columns", ["must be different columns"]),
        (RequestedColumns(id="width"), ["id", "width", "height"], "columns", ["must be different columns"]),
    ],
)
def test_what_can_not_be_told_is_an_error_that_names_what_there_is(
    columns: RequestedColumns, available: list[str], field: str, words: list[str]
) -> None:
    with pytest.raises(Invalid) as caught:
        resolve(columns, available)
    assert caught.value.field == field
    for word in words:
        assert word in caught.value.detail


def test_protocol_lists_every_name_in_the_order_in_which_it_counts() -> None:
    table = PROTOCOL.read_text().split("| column | recognised names |")[1].split("\n\n")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines()[2:]]
    told = {tuple(re.findall(r"`(\w+)`", what)): re.findall(r"`(\w+)`", names) for what, names in rows}
    sizes = [name for tier in SIZE_TIERS for pair in tier for name in pair]
    assert told == {
        ("id",): [name for tier in ID_TIERS for name in tier],
        ("width", "height"): sizes,
        **{(kind,): list(names) for kind, names in OPTIONAL_NAMES.items()},
    }
