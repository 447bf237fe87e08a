"""Plans on disk: each is complete or built again."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bucketline_service.planning import chunked_passes
from bucketline_service.plans import build_checkpoint, plan_files, plan_store
from bucketline_service.runs import registry
from tests.checked import Api
from tests.worlds import SMALL, World

pytestmark = pytest.mark.parametrize("world", ["sqlite"], indirect=True)

SPEC = {"map": "small", "world_size": 2, "batch_size": 8}
QUESTION = {"epoch": 3, "step": 0, "rank": 1, "count": 20}


def put(world: World, **more: object) -> tuple[Api, Path]:
    api = world.replica().api
    api.put_csv("small", SMALL)
    run = api.put("/v1/runs/run", {**SPEC, **more})
    return api, world.data_dir / "plans" / run["fingerprint"]


def replace(file: Path, content: bytes) -> None:
    """Not in place: the old one is mapped, and reading past its new end would end this process."""
    file.unlink()
    file.write_bytes(content)


DAMAGES: list[Callable[[Path], object]] = [
    lambda folder: (folder / "order.bin").unlink(),
    lambda folder: replace(folder / "order.bin", b"short"),
    lambda folder: (folder / "plan.json").unlink(),
    lambda folder: replace(folder / "plan.json", b"{"),
    lambda folder: replace(folder / "plan.json", b"[]"),
    lambda folder: replace(folder / "plan.json", b'{"counts": "x", "summary": {}}'),
    lambda folder: [file.unlink() for file in folder.iterdir()],
]


def test_a_damaged_plan_is_built_again(world: World) -> None:
    api, folder = put(world)
    expected = api.get("/v1/runs/run/batches", **QUESTION)
    for damage in DAMAGES:
        damage(folder)
        assert api.get("/v1/runs/run/batches", **QUESTION) == expected
        world.close()
        api = world.replica().api
        assert api.get("/v1/runs/run/batches", **QUESTION) == expected
        assert sorted(file.name for file in folder.iterdir()) == ["order.bin", "plan.json"]
        assert sorted(path.name for path in folder.parent.iterdir()) == sorted([folder.name, "lock"])


def test_a_deleted_run_leaves_no_plan(world: World) -> None:
    api, folder = put(world, planner="novelai")
    api.get("/v1/runs/run/batches", **QUESTION)
    assert (folder / "states").is_dir()
    api.ask("DELETE", "/v1/runs/run", 204)
    assert [path.name for path in folder.parent.iterdir()] == ["lock"]


def test_novelai_goes_on_from_its_states_and_without_them(world: World) -> None:
    api, folder = put(world, planner="novelai")
    expected = api.get("/v1/runs/run/batches", **QUESTION)
    assert world.replica().api.get("/v1/runs/run/batches", **QUESTION) == expected
    for file in (folder / "states").iterdir():
        file.write_bytes(b"nonsense")
    assert world.replica().api.get("/v1/runs/run/batches", **QUESTION) == expected


def test_a_run_whose_map_is_gone_fails_alone(world: World) -> None:
    api, _ = put(world)
    api.put("/v1/runs/other", {**SPEC, "seed": 1}, 201)
    for part in ("objects", "names"):
        for file in (world.data_dir / "maps" / part).iterdir():
            file.unlink()
    fresh = world.replica().api
    assert [run["status"] for run in fresh.get("/v1/runs")["runs"]] == ["failed", "failed"]
    assert "map" in fresh.get("/v1/runs/run")["detail"]
    fresh.ask("GET", "/metrics", 200)
    assert fresh.put("/v1/runs/run", SPEC, 200)["status"] == "failed"
    fresh.lease("run", 0, status=404)
    fresh.put_csv("small", SMALL, 201)
    statuses = ["planning"]
    while "planning" in statuses:  # each answer waits a moment for the plans
        statuses = [run["status"] for run in fresh.get("/v1/runs")["runs"]]
    assert statuses == ["ready", "ready"]


def test_a_map_whose_content_has_changed_is_not_planned(world: World) -> None:
    """Its size and its schema are right, as after a bad disk or a hand that edits."""
    put(world)
    (map_file,) = (world.data_dir / "maps" / "objects").glob("*.arrow")
    content = bytearray(map_file.read_bytes())
    at = content.index((512).to_bytes(4, "little") + (576).to_bytes(4, "little"))  # the first rows' sides
    content[at : at + 4] = (513).to_bytes(4, "little")
    replace(map_file, bytes(content))
    fresh = world.replica().api
    problem = fresh.put("/v1/runs/other", {**SPEC, "seed": 1}, 503)
    assert "damaged" in problem["detail"]
    assert [run["run"] for run in fresh.get("/v1/runs")["runs"]] == ["run"]
    assert len([path for path in (world.data_dir / "plans").iterdir() if path.is_dir()]) == 1


class Held:
    """Holds a build where its rows are to be sorted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_there, self.go_on = threading.Event(), threading.Event()
        self._allocate = build_checkpoint._allocate
        monkeypatch.setattr(build_checkpoint, "_allocate", self)

    def __call__(self, file: Path, num_bytes: int) -> None:
        if file.name == "order.bin":
            self.is_there.set()
            assert self.go_on.wait(60)
        self._allocate(file, num_bytes)


def test_a_plan_that_is_built_tells_how_far_it_is(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="bucketline")
    held = Held(monkeypatch)
    monkeypatch.setattr(plan_store, "TELL_EVERY_S", 0.0)
    monkeypatch.setattr(registry, "WAIT_FOR_PLAN_S", 0.0)
    api = world.replica().api
    api.put_csv("small", SMALL)
    assert api.put("/v1/runs/run", SPEC, 202)["progress"] in (0.0, 0.5)
    assert held.is_there.wait(60)
    # one thread builds: another plan waits for it
    assert api.put("/v1/runs/other", {**SPEC, "seed": 1}, 202)["progress"] == 0.0
    assert [(run["run"], run["status"], run["progress"]) for run in api.get("/v1/runs")["runs"]] == [
        ("other", "planning", 0.0),
        ("run", "planning", 0.5),
    ]
    held.go_on.set()
    while (run := api.get("/v1/runs/run"))["status"] == "planning":  # each answer waits a moment for the plan
        assert run["progress"] in (0.5, 1.0)
    assert (run["status"], run["progress"]) == ("ready", None)
    told = [
        record.__dict__["progress"]
        for record in caplog.records
        if record.__dict__.get("fingerprint") == run["fingerprint"]
    ]
    assert told == [0.5, 1.0]


def test_an_order_that_is_cut_short_under_a_run_is_built_again(world: World) -> None:
    """In place: the kernel ends a process that reads past the new end of a mapped file."""
    api, folder = put(world)
    expected = api.get("/v1/runs/run/batches", **QUESTION)
    lease = api.lease("run", 1)["lease"]
    assert api.post("/v1/runs/run/ranks/1/next", {"lease": lease})["batches"]
    os.truncate(folder / "order.bin", 8)
    batch = api.post("/v1/runs/run/ranks/1/next", {"lease": lease, "from": {"epoch": 3, "step": 0}})[
        "batches"
    ][0]
    assert batch == expected["batches"][0]
    assert api.get("/v1/runs/run/batches", **QUESTION) == expected
    assert (folder / "order.bin").stat().st_size > 8


def test_a_map_that_shrinks_under_a_run_stops_it_and_comes_back_with_it(world: World) -> None:
    api, _ = put(world)
    expected = api.get("/v1/runs/run/batches", **QUESTION)
    (map_file,) = (world.data_dir / "maps" / "objects").glob("*.arrow")
    content = map_file.read_bytes()
    os.truncate(map_file, len(content) // 2)
    problem = api.get("/v1/runs/run/batches", 503, **QUESTION)
    assert (problem["code"], "damaged" in problem["detail"]) == ("store_unavailable", True)
    assert api.get("/v1/runs/run/images/3", 503)["code"] == "store_unavailable"
    map_file.write_bytes(content)
    assert api.get("/v1/runs/run/batches", **QUESTION) == expected


def edit(file: Path, content: bytes) -> None:
    """In place, as a hand does it; until the file system's clock has moved on, which may tick slowly."""
    before = file.stat()
    assert len(content) == before.st_size
    while file.stat().st_mtime_ns == before.st_mtime_ns:
        with file.open("r+b") as opened:
            opened.write(content)


@pytest.mark.parametrize("is_live", [True, False])
def test_a_map_whose_ids_change_under_a_run_stops_it_until_it_is_mended(world: World, is_live: bool) -> None:
    """With the same size, so that only the served ids would show it. It is mended by hand or by putting it again."""
    api, _ = put(world)
    expected = api.get("/v1/runs/run/batches", **QUESTION)
    (map_file,) = (world.data_dir / "maps" / "objects").glob("*.arrow")
    content = map_file.read_bytes()
    ids = b"".join(i.to_bytes(8, "little") for i in range(200))
    assert ids in content
    others = b"".join(i.to_bytes(8, "little") for i in range(1000, 1200))
    edit(map_file, content.replace(ids, others))
    api = api if is_live else world.replica().api
    for _ in range(2):
        problem = api.get("/v1/runs/run/batches", 503, **QUESTION)
        assert (problem["code"], "damaged" in problem["detail"]) == ("store_unavailable", True)
    if is_live:
        edit(map_file, content)
    else:
        api.put_csv("small", SMALL, 200)
        assert map_file.read_bytes() == content
    assert api.get("/v1/runs/run/batches", **QUESTION) == expected


@pytest.mark.parametrize(
    ("part", "is_live"),
    [
        *(("order.bin", True), ("plan.json", False)),
        *(
            pytest.param(*each, marks=pytest.mark.exhaustive)
            for each in (("order.bin", False), ("plan.json", True))
        ),
    ],
)
def test_a_plan_that_changes_at_the_same_size_is_built_again(world: World, part: str, is_live: bool) -> None:
    api, folder = put(world)
    expected = api.get("/v1/runs/run/batches", **QUESTION)
    content = (folder / part).read_bytes()
    if part == "order.bin":
        edit(folder / part, content[4:] + content[:4])
    else:
        changed = content.replace(b'"num_images": 200', b'"num_images": 300')
        assert changed != content
        edit(folder / part, changed)
    api = api if is_live else world.replica().api
    assert api.get("/v1/runs/run/batches", **QUESTION) == expected
    if part == "order.bin":
        assert (folder / part).read_bytes() == content
    assert api.get("/v1/runs/run/stats")["num_images"] == 200


def test_files_that_were_only_touched_are_read_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a folder that was copied: the plan is not built again, and the next start knows the files."""
    api, folder = put(world)
    expected = api.get("/v1/runs/run/batches", **QUESTION)
    (map_file,) = (world.data_dir / "maps" / "objects").glob("*.arrow")
    for file in (folder / "order.bin", map_file):
        os.utime(file, ns=(1, 1))
    inode = (folder / "order.bin").stat().st_ino
    assert world.replica().api.get("/v1/runs/run/batches", **QUESTION) == expected
    assert (folder / "order.bin").stat().st_ino == inode

    def refuse(order: object) -> str:
        raise AssertionError("read again")

    monkeypatch.setattr(plan_files, "order_digest", refuse)
    assert world.replica().api.get("/v1/runs/run/batches", **QUESTION) == expected


def disguise(file: Path, content: bytes) -> None:
    """In place, with the size and the times of before, as far as these can be set."""
    before = file.stat()
    while file.stat().st_ctime_ns == before.st_ctime_ns:
        edit(file, content)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_an_order_that_was_changed_while_nothing_ran_is_built_again(world: World) -> None:
    api, folder = put(world)
    expected = api.get("/v1/runs/run/batches", **QUESTION)
    content = (folder / "order.bin").read_bytes()
    world.close()
    disguise(folder / "order.bin", content[4:] + content[:4])
    assert world.replica().api.get("/v1/runs/run/batches", **QUESTION) == expected
    assert (folder / "order.bin").read_bytes() == content


def test_a_map_that_was_changed_while_nothing_ran_is_not_served(world: World) -> None:
    api, _ = put(world)
    expected = api.get("/v1/runs/run/batches", **QUESTION)
    (map_file,) = (world.data_dir / "maps" / "objects").glob("*.arrow")
    content = map_file.read_bytes()
    world.close()
    disguise(map_file, content.replace((7).to_bytes(8, "little"), (7777).to_bytes(8, "little")))
    fresh = world.replica().api
    problem = fresh.get("/v1/runs/run/batches", 503, **QUESTION)
    assert "Put the map again" in problem["detail"]
    assert fresh.get("/v1/runs/run")["detail"] == problem["detail"]
    fresh.put_csv("small", SMALL, 200)
    assert fresh.get("/v1/runs/run/batches", **QUESTION) == expected


def test_a_plan_on_disk_is_opened_while_another_is_built(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    api, _ = put(world)
    expected = api.get("/v1/runs/run/batches", **QUESTION)
    held = Held(monkeypatch)
    fresh = world.replica().api
    monkeypatch.setattr(registry, "WAIT_FOR_PLAN_S", 0.0)
    fresh.put("/v1/runs/other", {**SPEC, "seed": 1}, 202)
    assert held.is_there.wait(60)
    monkeypatch.setattr(registry, "WAIT_FOR_PLAN_S", 60.0)
    while fresh.get("/v1/runs/run")["status"] != "ready":  # each answer waits a moment for the plan
        pass
    assert fresh.get("/v1/runs/run/batches", **QUESTION) == expected
    assert fresh.get("/v1/runs/other")["status"] == "planning"
    held.go_on.set()


def test_a_plan_on_disk_is_ready_at_the_first_look(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart nothing is planned, however short the wait is."""
    put(world)
    monkeypatch.setattr(registry, "STATUS_WAIT_S", 0.0)
    assert [run["status"] for run in world.replica().api.get("/v1/runs")["runs"]] == ["ready"]
    assert world.replica().api.get("/v1/runs/run")["status"] == "ready"


def test_images_that_moved_are_on_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart nothing is planned, and each image that moved is where it was, beside the bucket of its own."""
    api, _ = put(world)
    before = [api.get(f"/v1/runs/run/images/{image}", epoch=1) for image in range(200)]
    moved = [about for about in before if about["bucket"] != about["nearest"]["bucket"]]
    assert len(moved) == api.get("/v1/runs/run/stats")["moved"] > 0
    of_ranks = [
        api.get("/v1/runs/run/batches", epoch=1, step=0, rank=rank, count=12)["batches"] for rank in range(2)
    ]
    bucket_of = {
        image: batch["bucket"] for batches in of_ranks for batch in batches for image in batch["ids"]
    }
    assert [about["bucket"] for about in moved if about["served"]] == [
        bucket_of[about["id"]] for about in moved if about["id"] in bucket_of
    ]
    monkeypatch.setattr(plan_store, "prepare", None)
    fresh = world.replica().api
    for about in moved:
        assert fresh.get(f"/v1/runs/run/images/{about['id']}", epoch=1) == about


def test_a_refused_run_leaves_no_plan_unless_another_needs_it(world: World) -> None:
    api = world.replica().api
    api.put_csv("small", SMALL)
    api.put("/v1/runs/run", {**SPEC, "world_size": 1000}, 422)
    folder = world.data_dir / "plans"
    assert [path.name for path in folder.iterdir()] == ["lock"]
    fingerprint = api.put("/v1/runs/run", SPEC, 201)["fingerprint"]
    api.put("/v1/runs/other", {**SPEC, "world_size": 1000}, 422)
    assert (folder / fingerprint).is_dir()


def test_a_deleted_run_is_not_built_on(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    is_there, go_on = threading.Event(), threading.Event()
    folders: list[Path] = []

    def wait(checkpoint: build_checkpoint.BuildCheckpoint, state: object) -> None:
        folders.append(checkpoint.folder)
        is_there.set()
        assert go_on.wait(60)

    monkeypatch.setattr(build_checkpoint.BuildCheckpoint, "keep", wait)
    monkeypatch.setattr(chunked_passes, "CHUNK", 20)
    monkeypatch.setattr(registry, "WAIT_FOR_PLAN_S", 0.0)
    api = world.replica().api
    api.put_csv("small", SMALL)
    api.put("/v1/runs/run", SPEC, 202)
    assert is_there.wait(60)
    api.put("/v1/runs/other", {**SPEC, "seed": 1}, 202)  # waits its turn
    for run in ("run", "other"):
        api.ask("DELETE", f"/v1/runs/{run}", 204)
    go_on.set()
    world.close()  # waits for what is being built
    assert [path.name for path in (world.data_dir / "plans").iterdir()] == ["lock"]
    assert len(folders) == 1  # of 20 chunks, and of two plans
