"""A damaged SQLite file and a removed write-ahead log are noticed, and reported with a remedy. What was acknowledged is
kept if any process still has it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bucketline_service.errors import StoreUnavailable
from bucketline_service.store import Cursor, open_store
from tests.checked import Api
from tests.server import ServerProcess
from tests.store.jobs import Job
from tests.worlds import SMALL

SPEC = {"map": "small", "world_size": 1, "batch_size": 4}
DAMAGED = "is damaged"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory of a coordinator that has stopped, with a run whose first three steps are acknowledged."""
    data = tmp_path_factory.mktemp("stopped") / "data"
    server = ServerProcess(data)
    try:
        api = server.api()
        api.put_csv("small", SMALL, 201)
        api.put("/v1/runs/run", SPEC, 201)
        api.ack("run", 0, api.lease("run", 0)["lease"], 0, 2)
        assert server.stop()[0] == 0
    finally:
        server.close()
    return data


@pytest.fixture
def server(stopped: Path, data: Path) -> Iterator[ServerProcess]:
    """A coordinator over a copy of it."""
    shutil.copytree(stopped, data)
    server = ServerProcess(data)
    assert acked(server.api()) == 3
    yield server
    server.close()


def database(data: Path, suffix: str = "") -> Path:
    return data / f"state.sqlite{suffix}"


def acked(api: Api) -> int:
    cursors: list[tuple[int, int]] = api.cursors("run")
    return cursors[0][1]


@pytest.mark.parametrize(
    ("suffixes", "is_replaced"),
    [
        (["-wal"], True),
        (["-wal", "-shm"], False),
        pytest.param(["-wal"], False, marks=pytest.mark.exhaustive),
        pytest.param(["-shm"], False, marks=pytest.mark.exhaustive),
        pytest.param(["-shm"], True, marks=pytest.mark.exhaustive),
        pytest.param(["-wal", "-shm"], True, marks=pytest.mark.exhaustive),
    ],
)
def test_a_log_that_is_taken_away_takes_nothing_along(
    server: ServerProcess, data: Path, suffixes: list[str], is_replaced: bool
) -> None:
    """Without a check, nobody would notice until the next restart, when the file would be as old as its last
    checkpoint."""
    api = server.api()
    lease = api.lease("run", 0)["lease"]
    for suffix in suffixes:
        database(data, suffix).unlink()
        if is_replaced:
            database(data, suffix).write_bytes(b"not a log" * 1000)
    for step in range(3, 9):
        assert api.ack("run", 0, lease, 0, step)["cursor"]["step"] == step + 1
    assert api.get("/readyz") == {"status": "ready"}
    server.kill()
    server.start()
    assert acked(server.api()) == 9
    assert server.api().get("/v1/runs/run")["status"] == "ready"


@pytest.mark.parametrize(
    "suffixes",
    [
        ["-wal"],
        pytest.param(["-shm"], marks=pytest.mark.exhaustive),
        pytest.param(["-wal", "-shm"], marks=pytest.mark.exhaustive),
    ],
)
def test_two_processes_whose_log_is_taken_away_keep_it_until_both_have_ended(
    server: ServerProcess, data: Path, suffixes: list[str]
) -> None:
    """None can know what the other still writes. So the first to notice it lets go, and the other saves it: at its next
    request, or as it ends."""
    other = ServerProcess(data)
    try:
        apis = [server.api(), other.api()]
        lease = apis[0].lease("run", 0)["lease"]
        assert acked(apis[1]) == 3
        apis[1].ack("run", 0, lease, 0, 5)
        for suffix in suffixes:
            database(data, suffix).unlink()
        question = {"lease": lease, "ack": {"epoch": 0, "step": 6}}
        answers = [api.ask("POST", "/v1/runs/run/ranks/0/next", json=question) for api in apis]
        refused = [answer for answer in answers if answer.status_code == 503]
        assert refused
        assert all("SIGTERM" in answer.json()["detail"] for answer in refused)
        num_ready = sum(api.ask("GET", "/readyz").status_code == 200 for api in apis)
        assert num_ready == len(answers) - len(refused)
        server.stop()
        other.stop()
        server.start()
        assert acked(server.api()) == (6 if len(refused) == len(answers) else 7)
    finally:
        other.close()


def test_a_log_that_is_emptied_is_noticed(server: ServerProcess, data: Path) -> None:
    api = server.api()
    lease = api.lease("run", 0)["lease"]
    os.truncate(database(data, "-wal"), 0)
    problem = api.next("run", 0, lease, 503, ack={"epoch": 0, "step": 3})
    assert DAMAGED in problem["detail"]
    assert "backup" in problem["detail"]
    for _ in range(2):
        assert api.get("/readyz", 503)["detail"] == problem["detail"]
    server.stop()
    server.start()  # older, or damaged: never in between
    assert server.api().ask("GET", "/v1/runs/run").status_code in (200, 404, 503)


def test_a_deleted_file_says_what_would_do(server: ServerProcess, data: Path) -> None:
    database(data).unlink()
    api = server.api()
    for ask in (lambda: api.get("/readyz", 503), lambda: api.get("/v1/runs", 503)):
        assert "put a backup in its place and restart" in ask()["detail"]


def in_the_midst(content: bytearray) -> None:
    for i in range(4096, len(content), 37):
        content[i] ^= 0xFF


def at_the_head(content: bytearray) -> None:
    content[:100] = bytes(100)


def cut(content: bytearray) -> None:
    del content[len(content) // 2 :]


@pytest.mark.parametrize(
    "damage",
    [
        in_the_midst,
        pytest.param(at_the_head, marks=pytest.mark.exhaustive),
        pytest.param(cut, marks=pytest.mark.exhaustive),
    ],
)
def test_a_file_that_is_damaged_is_not_served_from(
    server: ServerProcess, data: Path, damage: Callable[[bytearray], None]
) -> None:
    server.stop()
    content = bytearray(database(data).read_bytes())
    damage(content)
    database(data).write_bytes(content)
    server.start()
    api = server.api()
    for path in ("/readyz", "/v1/runs", "/v1/runs/run", "/v1/events"):
        problem = api.get(path, 503)
        assert problem["code"] == "store_unavailable"
        assert DAMAGED in problem["detail"]
        assert "backup" in problem["detail"]
    metrics = api.ask("GET", "/metrics", 200).text
    assert "bucketline_store_up 0.0" in metrics
    api.get("/healthz")
    assert database(data).read_bytes() == content  # so that somebody can save what is left
    _, errors = server.stop()
    assert DAMAGED in errors


@pytest.mark.anyio
async def test_pages_that_are_damaged_under_a_store(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    store = open_store(f"sqlite:///{path}", timeout_s=30.0)
    told: list[StoreUnavailable] = []
    store.watch(told.append)
    job = await Job.create(store, "run")
    assert await store.examine() == []
    await _checkpoint(store)
    content = bytearray(path.read_bytes())
    for begin in range(4096, len(content), 4096):
        content[begin : begin + 64] = b"\xff" * 64
    with path.open("r+b") as file:
        file.write(content)
    with pytest.raises(StoreUnavailable, match=DAMAGED):
        await store.examine()
    assert len(told) == 1
    for verb in (store.ping, store.list_runs, lambda: job.lease(), store.examine):
        with pytest.raises(StoreUnavailable, match=DAMAGED):
            await verb()
    await store.close()


async def _checkpoint(store: Any) -> None:
    """What the log holds into the file, and nothing of it in memory."""

    def run(db: Any) -> None:
        db.execute("COMMIT")
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("BEGIN")
        db.execute("SAVEPOINT operation")

    await store._file.run(run, writes=False, alone=True)


@pytest.mark.anyio
async def test_a_log_that_somebody_has_brought_in_is_no_damage(tmp_path: Path) -> None:
    """As backup programs do: it is empty, and what it held is in the file."""
    url = f"sqlite:///{tmp_path / 'state.db'}"
    store, other = (open_store(url, timeout_s=30.0) for _ in range(2))
    job = await Job.create(store, "run")
    lease = (await job.lease()).lease
    await other.ping()
    await _checkpoint(other)
    assert (tmp_path / "state.db-wal").stat().st_size == 0
    assert (await job.commit(lease, Cursor(0, 1))).cursor == Cursor(0, 1)
    assert await store.list_runs() == ["run"]
    for each in (store, other):
        await each.close()


def test_a_copy_of_the_folder_is_whole(server: ServerProcess, data: Path, tmp_path: Path) -> None:
    """With its log, as of a coordinator that was killed."""
    server.kill()
    shutil.copytree(data, tmp_path / "copy")
    copy = ServerProcess(tmp_path / "copy")
    try:
        assert acked(copy.api()) == 3
    finally:
        copy.close()
