"""A run that is deleted and put again under its name, the same except for its birth: nothing of the old one is
valid."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bucketline_service.store import Begun, Cursor, Outcome
from tests.store.jobs import FIRST, START, Job, token

pytestmark = pytest.mark.anyio

NEW = replace(FIRST, birth="fedcba9876543210")


@pytest.fixture(params=[FIRST.birth, ""], ids=["born", "before there were births"])
async def old(request: pytest.FixtureRequest, job: Job) -> Job:
    """What a coordinator remembers of a deleted run, which was put again."""
    before = Job(job.store, job.run, replace(FIRST, birth=request.param))
    await job.store.delete_run(job.run)
    await job.store.create_run(job.run, b"document", before.first)
    await before.commit((await before.lease()).lease, Cursor(0, 3))
    await before.begin(2, session="old")
    await job.store.delete_run(job.run)
    await job.store.create_run(job.run, b"document", NEW)
    return before


@pytest.mark.parametrize("is_leased", [True, False])
@pytest.mark.parametrize("trusted", [True, False])
async def test_its_commits_are_stale(old: Job, is_leased: bool, trusted: bool) -> None:
    new = Job(old.store, old.run, NEW)
    lease = (await new.lease()).lease if is_leased else token(1)
    before = await new.record()
    for each in (lease, token(9)):
        commit = await old.commit(each, Cursor(0, 4), trusted=trusted, now_s=9e9)
        assert (commit.outcome, commit.cursor, commit.generation) == (Outcome.STALE, START, NEW)
    assert await new.record() == before


async def test_it_leases_nothing(old: Job) -> None:
    new = Job(old.store, old.run, NEW)
    for holder in ("worker", "other"):
        assert await old.store.lease(old.run, 0, holder, old.id(), token(9), 9e9) is None
        assert await old.store.lease(old.run, 0, holder, old.id(2), token(9), 9e9) is None
    assert await old.store.ranks(old.run) == (NEW, [])
    held = await new.lease()
    assert await old.store.lease(old.run, 0, "worker", old.id(), token(9), 9e9) is None
    assert await new.record() == held


@pytest.mark.parametrize("slowest", [None, START])
async def test_it_begins_nothing(old: Job, slowest: Cursor | None) -> None:
    for number in (1, 2, 3):
        assert await old.begin(number, slowest, session="late") == Begun(False, NEW)
    assert (await old.store.read_run(old.run)).generation == NEW
    assert await old.store.session(old.run, "late") == (NEW.id, None)


async def test_each_generation_has_its_own(old: Job) -> None:
    """A store that has lost a generation begins another of its number: nothing of the lost one is valid."""
    store, run = old.store, old.run
    lost, second = (Job(store, run, replace(NEW, number=2, birth=birth)) for birth in ("lost", "2nd"))
    assert await store.begin(run, replace(second.first, session="s"), NEW.id, None) == Begun(
        True, replace(second.first, session="s")
    )
    assert await store.session(run, "s") == (second.id(2), 2)
    lease = (await second.lease(generation=2)).lease
    for each in (lease, token(9)):
        commit = await lost.commit(each, Cursor(0, 1), generation=2, trusted=True)
        assert commit.outcome is Outcome.STALE
    assert await store.lease(run, 0, "worker", lost.id(2), token(9), 9e9) is None
    third = replace(NEW, number=3, birth="3rd")
    for follows in (lost.id(2), NEW.id, old.id(2)):
        assert not (await store.begin(run, third, follows, None)).begun
    assert (await second.commit(lease, Cursor(0, 1), generation=2)).outcome is Outcome.OK
    assert await store.begin(run, third, second.id(2), None) == Begun(True, third)
