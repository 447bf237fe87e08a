"""The same rows are the same map in every format; and a truncated file is a shorter map, or ``Invalid``."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bucketline_service.errors import Invalid
from bucketline_service.maps import MapStore
from bucketline_service.maps.numeric_columns import MAX_SIDE_PX

from .files import WRITERS, Ids, contents

SIDES = st.one_of(st.integers(1, 4096), st.integers(1, MAX_SIDE_PX))
# No NUL: numpy's fixed-width strings lose it at their end. "x" in front: all-number text is numbers to a CSV.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40).map(
    lambda text: "x" + text
)
INTS = st.integers(-(2**63), 2**63 - 1)


@st.composite
def maps(draw: st.DrawFn) -> tuple[Ids, list[int], list[int]]:
    ids = draw(st.one_of(st.lists(kind, min_size=1, max_size=30, unique=True) for kind in (INTS, TEXT)))
    sides = st.lists(SIDES, min_size=len(ids), max_size=len(ids))
    return ids, draw(sides), draw(sides)


@given(maps())
@settings(deadline=None, max_examples=settings().max_examples // 3)
def test_every_format_of_the_same_rows_is_the_same_map(rows: tuple[Ids, list[int], list[int]]) -> None:
    ids, widths, heights = rows
    with tempfile.TemporaryDirectory() as directory:
        store = MapStore(Path(directory) / "maps")
        digests = set()
        for name, (format, write) in WRITERS.items():
            path = Path(directory) / name
            write(path, ids, widths, heights)
            opened, created = store.put("map", path, format)
            assert created == (name == "csv")  # the first; all others are the same content again
            digests.add(opened.digest)
        assert len(digests) == 1
        assert opened.ids(np.arange(len(ids))) == list(ids)
        assert (opened.widths.tolist(), opened.heights.tolist()) == (widths, heights)
        assert [opened.find(image_id) for image_id in ids] == list(range(len(ids)))
        assert opened.find_many(list(reversed(ids))).tolist() == list(reversed(range(len(ids))))
        opened.verify()


@pytest.mark.parametrize(
    ("ids", "num_lengths"),
    [
        (["b", "a,\n", "é" * 10, "30"], 20),
        pytest.param([5, -1, 30, 2**40], 2_000, marks=pytest.mark.exhaustive),
        pytest.param(["b", "a,\n", "é" * 10, "30"], 2_000, marks=pytest.mark.exhaustive),
    ],
    ids=["some", "2000 int64", "2000 string"],
)
@pytest.mark.parametrize("name", WRITERS)
def test_a_file_cut_anywhere_is_a_shorter_map_or_invalid(
    store: MapStore, root: Path, tmp_path: Path, name: str, ids: Ids, num_lengths: int
) -> None:
    format, write = WRITERS[name]
    cut = tmp_path / "cut"
    write(cut, ids, [640, 1, 1000, 7], [480, 1, 2000, 9])
    assert store.put("whole", cut, format)[1]
    before = contents(root)
    size = cut.stat().st_size
    step = -(-size // num_lengths)
    # also those near its ends, where a file has its magic numbers
    for length in (n for n in reversed(range(size)) if n % step == 0 or min(n, size - n) < 8):
        os.truncate(cut, length)
        try:
            opened, _ = store.put("cut", cut, format)
        except Invalid:
            assert contents(root) == before
        else:
            # lines that are whole are a map; nothing says how many were meant. A tar is filled up behind its end
            assert format in ("csv", "jsonl") or (format == "tar" and opened.num_images == len(ids))
            # Cut inside the last number or before the last line end.
            assert opened.ids(np.arange(opened.num_images)) == list(ids)[: opened.num_images]
            store.delete("cut")
