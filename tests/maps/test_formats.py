from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from bucketline.operator._map_files import CONTENT_TYPES, SUFFIXES
from bucketline_service.cli import options
from bucketline_service.errors import Invalid
from bucketline_service.maps import FORMATS, format_for_suffix, format_named

from .files import WRITERS


def test_every_format_is_found_by_its_name_its_media_types_and_its_suffixes() -> None:
    for name, format in FORMATS.items():
        assert format_named(name) is format
        assert all(format_named(media_type) is format for media_type in format.media_types)
        assert all(format_named(name) is format for name in format.other_names)
        for suffix in format.suffixes:
            assert format_for_suffix(Path(f"a.b{suffix}")) is format
            assert format_for_suffix(Path(f"a.b{suffix}.gz")) is format
            assert format_for_suffix(Path(f"a{suffix.upper()}.ZST")) is format


def test_parameters_and_case_of_a_media_type_do_not_matter() -> None:
    assert format_named("Text/CSV; charset=utf-8").name == "csv"
    assert format_for_suffix(Path("X.PARQUET")).name == "parquet"
    assert format_for_suffix(Path("resolutions.pkl")).name == "pickle"


def test_an_unknown_one_is_told_what_is_known() -> None:
    with pytest.raises(Invalid, match=r"got 'text/html'.*csv \(text/csv\).*parquet"):
        format_named("text/html")
    with pytest.raises(Invalid, match=r"got 'a.txt'.*\.csv.*format=NAME, one of csv, tsv"):
        format_for_suffix(Path("a.txt"))
    for name in ("a", ".gz", "a.gz", "csv", ""):
        with pytest.raises(Invalid, match="must end with a known suffix"):
            format_for_suffix(Path(name))


PROTOCOL = Path(__file__).parents[2] / "docs" / "reference" / "http.md"


def test_the_protocol_lists_every_format() -> None:
    table = PROTOCOL.read_text().split("| format | Content-Type | suffix |")[1].split("\n\n")[0]
    rows = [
        [set(re.findall(r"`([^`]+)`", cell)) for cell in line.split("|")[1:4]]
        for line in table.splitlines()[2:]
    ]
    assert len(rows) == len(FORMATS)
    for (names, media_types, suffixes), format in zip(rows, FORMATS.values(), strict=True):
        assert names == {format.name, *format.other_names}
        assert format.media_types[0] in media_types
        assert media_types <= set(format.media_types)
        assert suffixes == set(format.suffixes)


def test_the_client_knows_the_same() -> None:
    for name, content_type in CONTENT_TYPES.items():
        assert format_named(content_type) is format_named(name)
    assert set(CONTENT_TYPES) == {
        name for each in FORMATS.values() for name in (each.name, *each.other_names)
    }
    assert set(SUFFIXES) == {suffix for each in FORMATS.values() for suffix in each.suffixes}
    for suffix, name in SUFFIXES.items():
        assert format_for_suffix(Path(f"a{suffix}")) is format_named(name)


def test_the_command_line_and_the_reader_tests_know_the_same() -> None:
    names = {name for each in FORMATS.values() for name in (each.name, *each.other_names)}
    assert set(re.findall(r"[a-z]+", get_args(options.Format)[1].help.partition("[")[0])) - {"or"} == names
    assert {format for format, _ in WRITERS.values()} == set(FORMATS)  # what is damaged, cut and compared
