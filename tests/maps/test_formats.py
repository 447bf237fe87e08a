from __future__ import annotations

from pathlib import Path

import pytest

from bucketline_service.errors import Invalid
from bucketline_service.maps import FORMATS, format_for_suffix, format_named


def test_every_format_is_found_by_its_name_its_media_types_and_its_suffixes() -> None:
    assert list(FORMATS) == ["csv", "jsonl", "parquet", "arrow", "npz", "pickle", "tar"]
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
    with pytest.raises(Invalid, match=r"'text/html' is not known.*csv \(text/csv\).*parquet"):
        format_named("text/html")
    with pytest.raises(Invalid, match=r"'a.txt' does not tell it.*\.csv.*format=NAME, one of csv, tsv"):
        format_for_suffix(Path("a.txt"))
    for name in ("a", ".gz", "a.gz", "csv", ""):
        with pytest.raises(Invalid, match="does not tell it"):
            format_for_suffix(Path(name))
