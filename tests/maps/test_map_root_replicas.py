"""Coordinators that share only the store and the maps at a root; each has its own data directory."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.checked import Api
from tests.s3_server import ENVIRON, KEY, SECRET, S3Server
from tests.server import COCO, Replica, ServerProcess, run_command
from tests.waiting import until
from tests.worlds import SMALL

SPEC = {"map": "small", "world_size": 2, "batch_size": 8}
UNAVAILABLE, BACK = "map_root_unavailable", "map_root_back"


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared"


@pytest.fixture
def new_replica(tmp_path: Path, shared: Path) -> Iterator[Callable[..., Api]]:
    """A coordinator in a thread with a data directory of that name, on the folder unless told otherwise."""
    opened = []

    def start(name: str, map_root: str = "") -> Api:
        store_url = f"sqlite:///{tmp_path / 'state.sqlite'}"
        opened.append(Replica(store_url, tmp_path / name, map_root=map_root or shared.as_uri()))
        return opened[-1].api

    yield start
    for each in opened:
        each.close()


def told_of_the_root(api: Api) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = api.get("/v1/events")["events"]
    return [each for each in events if each["event"] in (UNAVAILABLE, BACK)]


def batches(api: Api, run: str = "run") -> Any:
    return api.get(f"/v1/runs/{run}/batches", epoch=3, step=0, rank=1, count=12)


def test_two_processes_over_s3(s3_server: S3Server, tmp_path: Path) -> None:
    """What one is given, the other plans and serves, the same to the byte; and no secret is shown."""
    uri = s3_server.new_root().replace("s3://", f"s3://{KEY}:{SECRET}@")
    environ = {**ENVIRON, "BUCKETLINE_MAP_ROOT": uri}
    flags = ("--store", f"sqlite:///{tmp_path / 'state.sqlite'}", "--log-level", "debug")
    servers = [ServerProcess(tmp_path / name, *flags, environ=environ) for name in ("a", "b")]
    try:
        one, two = (server.api() for server in servers)
        put = one.put_csv("small", SMALL, 201)
        assert two.get("/v1/maps") == {"maps": [put]}
        two.put("/v1/runs/run", SPEC, 201)
        assert two.get("/v1/maps/small") == one.get("/v1/maps/small")
        assert batches(one) == batches(two)
        lease = one.lease("run", 0)["lease"]
        assert two.next("run", 0, lease, count=9) == one.next("run", 0, lease, count=9)
        assert one.get("/v1/runs/run/stats") == two.get("/v1/runs/run/stats")
        assert two.put_csv("small", "id,width,height\n1,2,3\n", 409)["digest"] == put["digest"]
        assert two.ask("DELETE", "/v1/maps/small", 409).json()["runs"] == ["run"]
        assert one.get("/readyz") == {"status": "ready", "map_root": "ready"}
        for path in (tmp_path / "a" / "map-copies" / "objects", tmp_path / "b" / "map-copies" / "objects"):
            assert sorted(each.name for each in path.iterdir()) == [
                f"{put['digest']}.arrow",
                f"{put['digest']}.json",
            ]
        two.ask("DELETE", "/v1/runs/run?force=true", 204)
        one.ask("DELETE", "/v1/maps/small", 204)
        assert two.get("/v1/maps") == {"maps": []}
        assert not list((tmp_path / "b" / "map-copies" / "objects").iterdir())
        two.get("/v1/maps/small", 404)
        ends = [server.stop() for server in servers]
    finally:
        for server in servers:
            server.close()
    for status, errors in ends:
        assert status == 0, errors
        assert "/v1/runs/run" in errors  # the log was there to be looked at
        assert SECRET not in errors
        assert KEY not in errors


def test_a_root_that_can_not_be_is_told_at_the_start(tmp_path: Path) -> None:
    uri = f"s3://{KEY}:{SECRET}@bucket/maps?shard={SECRET}"
    status, out, errors = run_command(
        "serve", "--port", "0", "--data-dir", str(tmp_path), environ={"BUCKETLINE_MAP_ROOT": uri}
    )
    assert status != 0
    assert "map_root: Unexpected query parameter" in errors
    assert SECRET not in out + errors


def test_without_its_root_it_serves_what_it_has(new_replica: Callable[..., Api], shared: Path) -> None:
    one, two = new_replica("a"), new_replica("b")
    one.put_csv("small", SMALL, 201)
    one.put("/v1/runs/run", SPEC, 201)
    expected = batches(one)
    lease = one.lease("run", 0)["lease"]
    shared.rename(shared.with_name("away"))
    assert batches(one) == expected
    assert one.ack("run", 0, lease, 0, 3)["cursor"] == {"epoch": 0, "step": 4}
    assert one.put("/v1/runs/again", SPEC, 503)["code"] == "store_unavailable"
    for ask in (
        lambda: one.ask("GET", "/v1/maps", 503),
        lambda: one.ask("GET", "/v1/maps/small", 503),
        lambda: one.ask("DELETE", "/v1/maps/small", 503),
        lambda: two.ask("GET", "/v1/runs/run/batches", 503, params={"epoch": 3, "step": 0, "rank": 1}),
    ):
        answer = ask()
        assert answer.json()["code"] == "store_unavailable"
        assert "the map root file://" in answer.json()["detail"]
        assert int(answer.headers["Retry-After"]) > 0
    assert one.put_csv("other", SMALL, 503)["code"] == "store_unavailable"
    assert two.get("/v1/runs/run")["status"] == "planning"
    for api in (one, two):
        assert api.get("/readyz") == {"status": "ready", "map_root": "unavailable"}
        assert "bucketline_map_root_up 0.0" in api.ask("GET", "/metrics", 200).text
    assert not shared.exists()  # a share that is not mounted is not made up
    shared.with_name("away").rename(shared)
    assert batches(two) == expected
    assert [each["map"] for each in one.get("/v1/maps")["maps"]] == ["small"]
    assert two.put_csv("other", SMALL, 201)["map"] == "other"
    for api in (one, two):
        assert api.get("/readyz") == {"status": "ready", "map_root": "ready"}
        assert "bucketline_map_root_up 1.0" in api.ask("GET", "/metrics", 200).text
    until(
        "both events are told",
        lambda: {each["event"] for each in told_of_the_root(one)} == {UNAVAILABLE, BACK},
    )
    details = [each["fields"].get("detail", "") for each in told_of_the_root(one)]
    assert any(shared.as_uri() in detail for detail in details)


def test_a_damaged_object_stops_a_run_until_it_is_put_again(
    new_replica: Callable[..., Api], shared: Path
) -> None:
    one, two = new_replica("a"), new_replica("b")
    one.put_csv("small", SMALL, 201)
    one.put("/v1/runs/run", SPEC, 201)
    (path,) = shared.glob("objects/*/*.arrow")
    path.write_bytes(path.read_bytes()[:-100])
    problem = two.get("/v1/runs/run/batches", 503, epoch=3, step=0, rank=1)
    assert problem["code"] == "store_unavailable"
    assert "is damaged" in problem["detail"]
    assert not list((shared.parent / "b" / "copies" / "objects").iterdir())
    one.put_csv("small", SMALL, 200)
    assert batches(two) == batches(one)


def test_a_map_whose_ids_are_valid_is_fetched_too(new_replica: Callable[..., Api]) -> None:
    one, two = new_replica("a"), new_replica("b")
    one.put_csv("small", SMALL, 201)
    one.put_csv("some", "id,width,height\n" + "".join(f"{i},1,1\n" for i in range(100)), 201)
    one.put("/v1/runs/run", {**SPEC, "valid_ids": "some"}, 201)
    found = batches(two)
    assert found == batches(one)
    assert all(image_id < 100 for batch in found["batches"] for image_id in batch["ids"])
    preview = {"map": "small", "specs": [{"world_size": 2, "batch_size": 8}]}
    assert new_replica("c").post("/v1/previews", preview) == one.post("/v1/previews", preview)


class Silent:
    """Takes connections and never answers, until it is closed."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.uri = (
            f"s3://bucket/maps?endpoint_override=127.0.0.1:{self._listener.getsockname()[1]}&scheme=http"
        )
        self.taken: list[socket.socket] = []
        self._thread = threading.Thread(target=self._take)
        self._thread.start()

    def _take(self) -> None:
        while True:
            try:
                self.taken.append(self._listener.accept()[0])
            except OSError:
                return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for each in self.taken:
            each.close()


def test_a_root_that_is_silent_keeps_nobody_waiting_who_does_not_need_it(
    new_replica: Callable[..., Api], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    one = new_replica("a")
    one.put_csv("coco", COCO.read_bytes(), 201)
    one.put("/v1/runs/run", {**SPEC, "map": "coco"}, 201)
    expected = batches(one)
    silent = Silent()
    two, mapless = new_replica("a", silent.uri), new_replica("b", silent.uri)
    with ThreadPoolExecutor(24) as askers:
        asked = [askers.submit(two.ask, "GET", "/v1/maps") for _ in range(9)]
        asked += [askers.submit(mapless.ask, "GET", "/v1/runs/run") for _ in range(2)]
        until("eight requests wait", lambda: len(silent.taken) >= 8)
        assert two.get("/readyz") == {"status": "ready", "map_root": "unavailable"}
        assert batches(two) == expected
        assert asked[-1].result().json()["status"] == "planning"
        assert not all(each.done() for each in asked[:9])
        silent.close()
        for each in asked[:9]:
            assert each.result().json()["code"] == "store_unavailable"
