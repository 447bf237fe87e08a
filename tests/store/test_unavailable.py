"""A store that is down, late, full or not writable: ``StoreUnavailable``, until it is back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

from bucketline_service.errors import StoreUnavailable
from bucketline_service.store import Cursor, NewEvent, Store, open_store
from tests.store.jobs import FIRST, START, Job
from tests.store.test_runs import UNKNOWN

pytestmark = pytest.mark.anyio

SHORT_S = 0.4
"""Long enough for an answer, short to wait for if no answer comes."""

Outage = tuple[str, Callable[[], AbstractContextManager[None]]]


def moved_directory(request: pytest.FixtureRequest) -> Outage:
    """The disk is unmounted, as far as the store can tell."""
    directory = request.getfixturevalue("tmp_path") / "mounted"

    @contextmanager
    def outage() -> Iterator[None]:
        directory.rename(directory.with_name("elsewhere"))
        yield
        directory.with_name("elsewhere").rename(directory)

    return f"sqlite:///{directory}/state.db", outage


def killed_redis(request: pytest.FixtureRequest) -> Outage:
    server = request.getfixturevalue("own_redis_server")

    @contextmanager
    def outage() -> Iterator[None]:
        server.kill()
        yield
        server.start()

    return server.url, outage


def paused_redis(request: pytest.FixtureRequest) -> Outage:
    server = request.getfixturevalue("own_redis_server")

    @contextmanager
    def outage() -> Iterator[None]:
        server.pause()
        yield
        server.resume()

    return server.url, outage


@pytest.fixture(params=[moved_directory, killed_redis, paused_redis], ids=lambda param: param.__name__)
def outage(request: pytest.FixtureRequest) -> Outage:
    return request.param(request)


async def answering(store: Store) -> Store:
    """The store, as soon as it answers: a busy machine may take longer than ``SHORT_S``."""
    while True:
        with suppress(StoreUnavailable):
            await store.ping()
            return store


async def test_the_same_store_works_again_after_an_outage(outage: Outage, name: str) -> None:
    url, is_out = outage
    patient, store = open_store(url, timeout_s=30.0), open_store(url, timeout_s=SHORT_S)
    job = await Job.create(patient, name)
    lease = await job.lease()
    assert (await job.commit(lease.lease, Cursor(0, 1))).cursor == Cursor(0, 1)
    for _ in range(2):
        await answering(store)
        with is_out():
            for verb in ("read_run", "commit"):
                with pytest.raises(StoreUnavailable) as caught:
                    await UNKNOWN[verb](store, name)
                assert caught.value.__cause__ is not None
        assert (await job.record()).cursor == Cursor(0, 1)  # type: ignore[union-attr]
        assert (await patient.read_run(name)).generation == FIRST
    await job.commit(lease.lease, Cursor(0, 2))
    await answering(store)
    await store.close()
    await patient.close()


async def test_every_verb_says_that_the_store_is_gone(outage: Outage, name: str) -> None:
    url, is_out = outage
    verbs = (
        *UNKNOWN.values(),
        lambda store, _: store.ping(),
        lambda store, _: store.list_runs(),
        lambda store, run: store.create_run(run, b"", FIRST),
        lambda store, run: store.delete_run(run),
        lambda store, run: store.record([NewEvent("mark", run, b"")], 0),
        lambda store, run: store.events(run, 0, 1),
    )
    store = await answering(open_store(url, timeout_s=SHORT_S))
    told: list[StoreUnavailable] = []
    store.watch(told.append)
    with is_out():
        for verb in verbs:
            told.clear()
            with pytest.raises(StoreUnavailable) as caught:
                await verb(store, name)
            assert str(caught.value)
            assert told == [caught.value]
    await store.close()


async def test_a_closed_store_is_gone(store: Store, name: str) -> None:
    await Job.create(store, name)
    await store.close()
    for verb in UNKNOWN.values():
        with pytest.raises(StoreUnavailable, match="closed"):
            await verb(store, name)


async def test_a_redis_that_was_never_there(name: str, own_redis_server: object) -> None:
    own_redis_server.kill()  # type: ignore[attr-defined]
    store = open_store(own_redis_server.url, timeout_s=30.0)  # type: ignore[attr-defined]
    with pytest.raises(StoreUnavailable, match="Redis: "):
        await store.ping()
    own_redis_server.start()  # type: ignore[attr-defined]
    await store.ping()
    await store.close()


async def test_a_path_below_a_file_is_unavailable(tmp_path: Path) -> None:
    """As root too: no right lets anyone make a directory there."""
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "below" / "state.db"
    store = open_store(f"sqlite:///{path}")
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match=str(path)) as caught:
            await store.ping()
        assert isinstance(caught.value.__cause__, OSError)
    await store.close()


async def test_a_directory_in_the_files_place_is_unavailable(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}")
    with pytest.raises(StoreUnavailable, match=str(tmp_path)):
        await store.create_run("run", b"", FIRST)
    await store.close()


async def test_a_missing_directory_is_made(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/a/b c/%20#?/state.db")
    await Job.create(store, "run")
    assert (await store.ranks("run"))[0].origin == START
    await store.close()
    assert (tmp_path / "a" / "b c" / "%20#?" / "state.db").is_file()
