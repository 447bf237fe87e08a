from __future__ import annotations

import pytest

from bucketline_service.errors import Invalid
from bucketline_service.names import check_name


@pytest.mark.parametrize("name", ["a", "0", "coco-5k", "A.b_c-d", "a..", "x" * 128])
def test_a_name_is_given_back(name: str) -> None:
    assert check_name("map", name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".a", "-a", "_a", "a/b", "a\\b", "a b", "a\n", "\n", "ä", "a\0", "x" * 129, "x" * 10_000],
)
def test_what_could_not_be_a_file_name_or_a_path_segment_is_refused(name: str) -> None:
    with pytest.raises(Invalid, match="must be a valid name") as caught:
        check_name("run", name)
    assert caught.value.field == "run"
    assert len(caught.value.detail) < 400
