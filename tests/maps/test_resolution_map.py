from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bucketline_service.errors import Invalid, StoreUnavailable
from bucketline_service.maps import MapStore, ResolutionMap

Make = Callable[[list[int] | list[str]], ResolutionMap]


@pytest.fixture
def make(store: MapStore, tmp_path: Path) -> Make:
    def put(ids: list[int] | list[str]) -> ResolutionMap:
        path = tmp_path / "map.pkl"
        path.write_bytes(pickle.dumps({image_id: (row + 1, 2 * row + 1) for row, image_id in enumerate(ids)}))
        return store.put("map", path, "pickle")[0]

    return put


def test_columns_are_views_of_the_file_and_can_not_be_written(make: Make) -> None:
    opened = make([5, 3, 9])
    for column in (opened.widths, opened.heights, opened.int_ids):
        assert not column.flags.owndata
        assert not column.flags.writeable
    assert (opened.widths.dtype, opened.heights.dtype, opened.int_ids.dtype) == (
        np.uint32,
        np.uint32,
        np.int64,
    )
    assert (opened.num_images, opened.id_kind) == (3, "int64")


def test_ids_of_rows_in_any_order(make: Make) -> None:
    ids = make([5, 3, 9]).ids(np.array([2, 0, 2]))
    assert ids == [9, 5, 9]
    assert all(type(image_id) is int for image_id in ids)
    assert make([5, 3, 9]).ids(np.array([], np.int64)) == []


def test_string_ids_of_rows_in_any_order(make: Make) -> None:
    opened = make(["b", "é", "a"])
    assert opened.ids(np.array([2, 0, 2, 1])) == ["a", "b", "a", "é"]
    assert opened.ids(np.array([], np.int64)) == []
    with pytest.raises(Invalid, match="got a map with string ids"):
        opened.int_ids  # noqa: B018 the property is what raises


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 9, 1000])
def test_every_image_is_found_and_none_between(make: Make, n: int) -> None:
    ids = [int(i) for i in np.random.default_rng(n).permutation(np.arange(-n, 3 * n, 2))[:n]]
    opened = make(ids)
    assert [opened.find(image_id) for image_id in ids] == list(range(n))
    assert [opened.find(image_id + 1) for image_id in ids] == [None] * n
    assert opened.find(-(2**63)) is None
    assert opened.find(2**63 - 1) is None


@pytest.mark.parametrize("n", [1, 2, 3, 1000])
def test_every_string_is_found_and_none_between(make: Make, n: int) -> None:
    ids = [f"{'é' * (i % 3)}{i}" for i in np.random.default_rng(n).permutation(n).tolist()]
    ids = [image_id if not image_id.isdigit() else image_id + "x" for image_id in ids]
    opened = make(ids)
    assert [opened.find(image_id) for image_id in ids] == list(range(n))
    assert [opened.find(image_id + "!") for image_id in ids] == [None] * n
    assert (opened.find("!"), opened.find("\U0010ffff"), opened.find("")) == (None, None, None)


def test_a_number_and_its_decimal_form_find_the_same_image(make: Make) -> None:
    numbers = make([123, 0, -5])
    assert [numbers.find(i) for i in ("123", "0", "-5", np.int64(123))] == [0, 1, 2, 0]
    strange = [
        "0123",
        "+123",
        " 123",
        "123 ",
        "1_2_3",
        "123.0",
        "-0",
        "",
        "a",
        "١٢٣",
        "9" * 19,
        "9" * 5000,
        "\ud800",
    ]
    assert [numbers.find(image_id) for image_id in strange] == [None] * len(strange)
    assert [numbers.find(i) for i in (2**63, 10**5000, True, False, 123.0, None)] == [None] * 6  # type: ignore[arg-type]


def test_a_map_of_strings_is_asked_with_a_number(make: Make) -> None:
    strings = make(["123", "0123", "x"])
    assert [strings.find(i) for i in (123, "123", "0123", -5)] == [0, 0, 1, None]
    assert [strings.find(i) for i in (10**5000, "\ud800", "x" * 10_000, True)] == [None] * 4


def test_many_at_once_in_the_order_given(make: Make) -> None:
    opened = make([10, 30, 20])
    rows = opened.find_many([20, "10", 20, np.int64(30)])
    assert rows.tolist() == [2, 0, 2, 1]
    assert rows.dtype == np.int64
    assert opened.find_many(np.array([30, 10])).tolist() == [1, 0]
    assert opened.find_many([]).tolist() == []


@pytest.mark.parametrize(("ids", "found"), [([-3, 4], [4, "4", -3]), (["04", "4", "x"], [4, "4", "04", "x"])])
def test_which_of_many_there_are(make: Make, ids: list[int] | list[str], found: list[int | str]) -> None:
    """In the sense of ``find``."""
    opened = make(ids)
    asked = [4, "4", "04", "x", -3, 2**70, 5]
    assert opened.has_many(asked).tolist() == [each in found for each in asked]
    assert opened.has_many([]).tolist() == []


@pytest.mark.parametrize("ids", [[7, -5, 2**62], ["b", '\u00fc,"', "a"]])
def test_ids_as_an_arrow_array(make: Make, ids: list[int] | list[str]) -> None:
    opened, rows = make(ids), np.array([2, 0, 0])
    assert opened.id_column(rows).to_pylist() == opened.ids(rows) == [ids[2], ids[0], ids[0]]


def test_the_first_unknown_ones_are_named(make: Make) -> None:
    opened = make([10, 30, 20])
    with pytest.raises(
        Invalid,
        match=r"^ids: must be in the map; missing are 11, 'x', 12\. The ids of this map are integers$",
    ):
        opened.find_many([10, 11, 20, "x", 12])
    with pytest.raises(Invalid, match=r"missing are 100, 101, 102, 103, 104 and 95 more$") as caught:
        opened.find_many(list(range(100, 200)))
    assert caught.value.extra["num_missing"] == 100


def test_ids_of_the_wrong_kind_are_told_so(make: Make) -> None:
    with pytest.raises(
        Invalid, match=r"must be in the map; missing are 1\. The ids of this map are strings$"
    ):
        make(["a", "b"]).find_many(["a", 1])


def test_the_histogram_is_the_map_s_own(make: Make) -> None:
    opened = make([10, 30, 20])
    shown = opened.histogram()
    assert shown["width"] == {"min_px": 1, "max_px": 3}
    assert shown["height"] == {"min_px": 1, "max_px": 5}
    shown["width"]["min_px"] = 77
    assert opened.histogram()["width"]["min_px"] == 1


class TestDamage:
    """A stored map that is not what it was is refused, not served."""

    @pytest.fixture
    def digest(self, make: Make) -> str:
        return make(["a", "c", "b", "ddd"]).digest

    @pytest.fixture
    def path(self, root: Path, digest: str) -> Path:
        return root / "objects" / f"{digest}.arrow"

    def test_cut_at_any_length(self, store: MapStore, path: Path) -> None:
        whole = path.read_bytes()
        for length in range(0, len(whole), 7):
            path.write_bytes(whole[:length])
            with pytest.raises(StoreUnavailable, match="damaged"):
                store.get("map")

    def test_grown_or_with_something_taken_out(self, store: MapStore, path: Path) -> None:
        whole = path.read_bytes()
        for changed in (whole + b"\0", whole[:300] + whole[308:], b"\0" * len(whole), whole[8:] + whole[:8]):
            path.write_bytes(changed)
            with pytest.raises(StoreUnavailable, match="damaged"):
                store.get("map")

    def test_any_bit_is_seen_by_verify(self, store: MapStore, path: Path, digest: str) -> None:
        whole = path.read_bytes()
        rows = store.get("map")
        for place in range(0, len(whole), 7):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            try:
                opened = store.get("map")
                opened.verify()
            except StoreUnavailable:
                continue
            # Padding, or a byte of the footer that says nothing of the rows.
            assert opened.ids(np.arange(4)) == ["a", "c", "b", "ddd"]
            assert opened.find("ddd") == 3
        assert rows.num_images == 4

    def test_missing(self, store: MapStore, path: Path) -> None:
        path.with_suffix(".json").rename(path.with_suffix(".away"))
        with pytest.raises(StoreUnavailable, match="json is missing"):
            store.get("map")
        path.with_suffix(".away").rename(path.with_suffix(".json"))
        path.unlink()
        with pytest.raises(StoreUnavailable, match="it is missing"):
            store.get("map")

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"layout": 2}, "has layout 2, not 1"),
            ({"digest": "0" * 64}, "belongs to another map"),
            ({"num_images": 5}, "4 string ids instead of 5 string"),
            ({"id_kind": "int64"}, "4 string ids instead of 4 int64"),
        ],
    )
    def test_a_sidecar_that_does_not_fit(self, store: MapStore, path: Path, change: dict, words: str) -> None:
        about = json.loads(path.with_suffix(".json").read_bytes())
        path.with_suffix(".json").write_text(json.dumps(about | change))
        with pytest.raises(StoreUnavailable, match=words):
            store.get("map")

    @pytest.mark.parametrize("data", [b"", b"{", b"[]", b"{}", b"null", b"\xff"])
    def test_a_sidecar_that_is_none(self, store: MapStore, path: Path, data: bytes) -> None:
        path.with_suffix(".json").write_bytes(data)
        with pytest.raises(StoreUnavailable, match="damaged"):
            store.get("map")

    def test_putting_the_map_again_mends_it(self, store: MapStore, path: Path, tmp_path: Path) -> None:
        whole = path.read_bytes()
        path.write_bytes(whole[:100])
        opened, created = store.put("map", tmp_path / "map.pkl", "pickle")
        assert not created
        assert opened.ids(np.arange(4)) == ["a", "c", "b", "ddd"]
        assert path.read_bytes() == whole
