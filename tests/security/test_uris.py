"""Which files ``PUT /v1/maps`` may be told to read: those under an allowed folder, and nothing else of the machine."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucketline_service.errors import Invalid
from bucketline_service.http import map_uris
from tests.checked import Api
from tests.worlds import SMALL, World


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uris")
    root, outside = folder / "sources", folder / "outside"
    for each in (root / "inner", outside):
        each.mkdir(parents=True)
        (each / "map.csv").write_text(SMALL)
    (root / "map file.csv").write_text(SMALL)
    (root / "out").symlink_to(outside)
    (root / "out.csv").symlink_to("../outside/map.csv")
    (root / "in.csv").symlink_to("inner/map.csv")
    (root / "circle.csv").symlink_to("circle.csv")
    (root / "zero.csv").symlink_to("/dev/zero")
    os.mkfifo(root / "pipe.csv")
    return root


@pytest.fixture(scope="module")
def api(root: Path) -> Iterator[Api]:
    world = World(f"sqlite:///{root.parent / 'state.sqlite'}", root.parent / "data")
    yield world.replica(map_sources=(root,)).api
    world.close()


@pytest.mark.parametrize(
    "uri", ["inner/map.csv", "./inner/../in.csv", "in.csv", "map file.csv", "out/../inner/map.csv"]
)
def test_under_the_root(api: Api, root: Path, uri: str) -> None:
    if uri.startswith("out/"):  # beyond the link it is another folder's ..
        assert api.put("/v1/maps/m", {"uri": uri}, 422)["field"] == "uri"
        return
    api.put("/v1/maps/m", {"uri": uri}, 201)
    api.ask("DELETE", "/v1/maps/m", 204)


def test_a_uri_may_be_percent_encoded(api: Api, root: Path) -> None:
    for uri in (f"file://{root}/map%20file.csv", f"file://localhost{root}/map%20file.csv"):
        api.put("/v1/maps/m", {"uri": uri}, 201)
        api.ask("DELETE", "/v1/maps/m", 204)


@pytest.mark.parametrize(
    "uri",
    [
        *("../outside/map.csv", "inner/../../outside/map.csv", "out/map.csv", "out.csv", "circle.csv"),
        *("zero.csv", "pipe.csv", "inner", "", ".", "inner/map.csv/x", "/dev/zero"),
        "/proc/self/environ",
        *("file:///{root}/../outside/map.csv", "file:///{root}/%2e%2e/outside/map.csv", "%2e%2e/outside/map.csv"),
        *("file://{root}%2f..%2foutside/map.csv", "file:///etc/passwd", "file://host/etc/passwd",
          "FILE:///etc/passwd"),
        *("http://169.254.169.254/latest/meta-data/map.csv", "//169.254.169.254/map.csv", "gopher://x/map.csv"),
        *("s3://bucket/map.csv", "gs://bucket/map.csv", "HTTP://x/map.csv", "ftp://x/map.csv", "data://x,map.csv"),
        *("map\0.csv", "file:///%00map.csv", "\ud800.csv", "\udcff.csv", "file:///%ff.csv"),
        *("x" * 300 + ".csv", "x/" * 2000 + "map.csv", "../" * 1000 + "etc/passwd", "~/map.csv", "$HOME/map.csv"),
    ],
)  # fmt: skip
def test_nothing_else(api: Api, root: Path, uri: str) -> None:
    body = {"uri": uri.replace("{root}", str(root))}

    headers = {"Content-Type": "application/json"}
    problem = api.ask("PUT", "/v1/maps/m", 422, content=json.dumps(body), headers=headers).json()
    assert (problem["code"], problem["field"]) == ("invalid", "uri")
    assert api.get("/v1/maps") == {"maps": []}


def test_a_link_that_is_swapped_in_leads_nowhere(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the path and the opening, over and over: the file outside is never what is read."""
    secret = root.parent / "secret.csv"
    secret.write_text("secret")
    victim, link = root / "victim.csv", root / "link"
    ended = threading.Event()

    def swap() -> None:
        while not ended.is_set():
            link.symlink_to(secret)
            link.replace(victim)
            victim.unlink()
            victim.write_text("good")

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        found = [_text(root) for _ in range(300)]
        while not any(found) and len(found) < 100_000:
            found.append(_text(root))
    finally:
        ended.set()
        swapping.join()
    assert "secret" not in found
    assert any(found)  # it was there now and then


def _text(root: Path) -> str | None:
    try:
        with map_uris.opened((root,), Path("victim.csv")) as path:
            return path.read_text()
    except Invalid:
        return None


def test_what_was_opened_stays_that_file(root: Path) -> None:
    (root / "first.csv").write_text("first")
    (root.parent / "later.csv").write_text("later")
    with map_uris.opened((root,), Path("first.csv")) as path:
        (root / "first.csv").unlink()
        (root / "first.csv").symlink_to(root.parent / "later.csv")
        assert path.read_text() == "first"


def test_a_folder_that_is_swapped_for_a_link_leads_nowhere(root: Path) -> None:
    """What the path was resolved to is walked without following any link."""
    with pytest.raises(OSError, match=r".*"):
        os.close(map_uris._walk(root, ("out", "map.csv")))
    os.close(map_uris._walk(root, ("inner", "map.csv")))
