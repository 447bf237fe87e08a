"""Maps that the coordinator reads by itself, from under an allowed root."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.checked import Api
from tests.server import COCO
from tests.worlds import SMALL, World


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("uri") / "sources"
    root.mkdir()
    (root / "small.csv").write_text(SMALL)
    (root.parent / "secret.csv").write_text(SMALL)
    (root / "link.csv").symlink_to(root.parent / "secret.csv")
    return root


@pytest.fixture(scope="module")
def api(root: Path) -> Iterator[Api]:
    world = World(f"sqlite:///{root.parent / 'state.sqlite'}", root.parent / "data")
    yield world.replica(map_sources=(root,)).api
    world.close()


def test_a_file_under_the_root(api: Api, root: Path) -> None:
    first = api.put("/v1/maps/m", {"uri": "small.csv"}, 201)
    assert api.put("/v1/maps/m", {"uri": str(root / "small.csv")}, 200) == first
    assert api.put("/v1/maps/m", {"uri": f"file://{root}/small.csv", "format": "csv"}, 200) == first
    api.ask("DELETE", "/v1/maps/m", 204)


def test_columns_are_named_as_for_an_upload(api: Api, root: Path) -> None:
    (root / "named.csv").write_text("id,width,height,turn,orientation\n1,640,480,6,x\n")
    body, params = {"uri": "named.csv"}, {"orientation_column": "turn"}
    api.ask("PUT", "/v1/maps/named", 201, json=body, params=params)
    assert api.get("/v1/maps/named")["histogram"]["width"] == {"min_px": 480, "max_px": 480}
    api.ask("DELETE", "/v1/maps/named", 204)
    api.ask("PUT", "/v1/maps/named", 201, json=body, params={"orientation_column": ""})
    assert api.get("/v1/maps/named")["histogram"]["width"] == {"min_px": 640, "max_px": 640}
    api.ask("DELETE", "/v1/maps/named", 204)


@pytest.mark.parametrize(
    "uri",
    [
        "../secret.csv",
        "link.csv",
        str(COCO),
        "/etc/passwd",
        "none.csv",
        ".",
        "http://x/y.csv",
        "a\0b",
        "x" * 5000,
    ],
)
def test_nothing_else(api: Api, uri: str) -> None:
    assert api.put("/v1/maps/m", {"uri": uri}, 422)["field"] == "uri"
    assert api.get("/v1/maps") == {"maps": []}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", "body"),
        (b"\xff", "body"),
        (b"[" * 100_000, "body"),
        (b"[]", "body"),
        (b"{}", "uri"),
        (b'{"uri": 1}', "uri"),
        (b'{"uri": "small.csv", "sep": ";"}', "sep"),
        (b'{"uri": "small.csv", "format": "xml"}', "format"),
    ],
)
def test_a_body_that_is_none(api: Api, body: bytes, field: str) -> None:
    headers = {"Content-Type": "application/json"}
    problem = api.ask("PUT", "/v1/maps/m", 422, content=body, headers=headers).json()
    assert problem["field"] == field
