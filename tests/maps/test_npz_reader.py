from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bucketline_service.errors import Invalid
from bucketline_service.maps import MapStore, RequestedColumns


def npz(save: Callable[..., None] = np.savez, **arrays: Any) -> bytes:
    file = io.BytesIO()
    save(file, **({"id": [1, 2], "width": [640, 3], "height": [480, 4]} | arrays))
    return file.getvalue()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    ("ids", "kind"),
    [
        (np.array([5, 1], ">i8"), "int64"),
        (np.array([5, 1], "u2"), "int64"),
        (np.array(["5", "éa"]), "string"),
        (np.array(["5", "éa"]).astype(">U9"), "string"),
        (np.array([b"5", b"abc"]), "string"),
    ],
)
def test_ids_of_every_type(
    store: MapStore, tmp_path: Path, save: Callable[..., None], ids: np.ndarray, kind: str
) -> None:
    (tmp_path / "map.npz").write_bytes(npz(save, id=ids, width=np.array([640, 3], ">f4"), other=[1, 2, 3]))
    opened, _ = store.put("map", tmp_path / "map.npz", "npz")
    assert opened.id_kind == kind
    expected = [i.decode() if isinstance(i, bytes) else i for i in ids.tolist()]
    assert opened.ids(np.array([0, 1])) == expected
    assert opened.widths.tolist() == [640, 3]


def test_longer_than_a_chunk(store: MapStore, tmp_path: Path) -> None:
    n = 600_000
    data = npz(id=np.arange(n)[::-1], width=np.full(n, 640, np.uint16), height=np.arange(n) % 1000 + 1)
    (tmp_path / "map.npz").write_bytes(data)
    opened, _ = store.put("map", tmp_path / "map.npz", "npz")
    assert np.array_equal(opened.int_ids, np.arange(n)[::-1])
    assert np.array_equal(opened.heights, np.arange(n) % 1000 + 1)


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('executed')",)


@pytest.mark.parametrize(
    ("data", "field", "words"),
    [
        (npz(height=[480]), "height", ["must have 2 values like id, got 1"]),
        (npz(width=[[1, 2]]), "width", ["shape (1, 2)"]),
        (npz(width=640), "width", ["shape ()"]),
        (npz(width=[1 + 2j, 3]), "width", ["complex128"]),
        (npz(id=np.array([Payload(), 1], object)), "id", ["object", "never read"]),
        (npz(id=np.array(["2020-01-01", "2020-01-02"], "M8[D]")), "id", ["datetime64"]),
        (npz(id=["a", ""]), "id", ["row 2", "must not be empty"]),
        (npz(id=["", ""]), "id", ["row 1"]),
        (npz(id=[1.0, 2.0]), "id", ["row 1", "double"]),
        (npz(id=np.array([1, 2**64 - 1], np.uint64)), "id", ["row 2", "18446744073709551615"]),
        (npz(id=[True, False]), "id", ["row 1", "bool"]),
        (npz(id=[4, 4]), "id", ["row 2", "duplicate id 4, first seen in row 1"]),
        (npz(width=[640, 0]), "width", ["row 2", "got 0"]),
        (npz(width=[640.0, 640.5]), "width", ["row 2", "640.5"]),
        (npz(width=["640", "1"]), "width", ["row 1", "string"]),
        (npz(id=[], width=[], height=[]), "file", ["no rows"]),
        (b"PK\x03\x04", "file", ["cannot be read as npz"]),
        (pickle.dumps(Payload()), "file", ["cannot be read as npz"]),
    ],
)
def test_what_is_wrong_is_named(
    refused: Callable[..., Invalid], data: bytes, field: str, words: list[str]
) -> None:
    error = refused("npz", data)
    assert error.field == field
    for word in words:
        assert word in error.detail


def test_a_missing_array_is_named(refused: Callable[..., Invalid], tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", id=[1], width=[2])
    assert "the columns are 'id', 'width'" in refused("npz", tmp_path / "a.npz").detail
    np.savez(tmp_path / "a.npz", arr=[1])
    assert refused("npz", tmp_path / "a.npz", RequestedColumns("arr", "w", "h")).field == "width"


def test_a_pickle_in_the_place_of_an_array_is_not_opened(
    refused: Callable[..., Invalid], tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name in ("id.npy", "width.npy", "height.npy"):
            archive.writestr(name, pickle.dumps(Payload()))
    assert "cannot be read as npz" in refused("npz", tmp_path / "a.npz").detail


def test_an_array_that_ends_early_is_refused(refused: Callable[..., Invalid], tmp_path: Path) -> None:
    whole = io.BytesIO()
    np.save(whole, np.array([1, 2]))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for name in ("id.npy", "width.npy", "height.npy"):
            archive.writestr(name, whole.getvalue()[:-1])
    assert "'id' ends early" in refused("npz", tmp_path / "a.npz").detail
