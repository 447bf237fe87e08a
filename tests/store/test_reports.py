"""Reports of images that could not be used: counted once, in any order, and bounded."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bucketline_service.errors import NotFound
from bucketline_service.store import (
    ImageReport,
    ImageReports,
    NewReport,
    Place,
    Reported,
    ReportOutcome,
    Store,
    open_store,
)
from tests.store.conftest import TIMEOUT_S
from tests.store.jobs import FIRST, NOW_S, START, Job

pytestmark = pytest.mark.anyio

MOST = 1000
NEW, COUNTED, REPEATED, NOT_KEPT = ReportOutcome
NONE = ImageReports([], 0, 0)


async def report(
    job: Job, place: tuple[int, int, int], *images: str, most: int = MOST, now_s: float = NOW_S
) -> list[ReportOutcome]:
    reports = [NewReport(image, "unreadable") for image in images]
    return (await job.store.report(job.run, Place(*place), reports, most, now_s)).outcomes


async def kept(job: Job, after: int | None = 0, limit: int = 1000) -> ImageReports:
    return await job.store.reports(job.run, after, limit)


async def test_a_run_is_born_without_reports(job: Job) -> None:
    assert await kept(job) == await kept(job, None) == await kept(job, 2**53 - 1) == NONE


async def test_a_report_is_read_back(job: Job) -> None:
    images = ['["a map","ö {x} %"]', "[1]", "+", " two  words "]
    details = [None, "", "cannot identify\nimage file  'ü'", "-"]
    reports = [NewReport(*each) for each in zip(images, ["missing", "other", "x", "y"], details, strict=True)]
    place = Place(2**53 - 1, 2**53 - 1, 16383)
    answer = await job.store.report(job.run, place, reports, MOST, 12.25)
    assert answer == Reported([NEW] * 4, 4)
    assert (await kept(job)).reports == [
        ImageReport(number, image, 1, reason, detail, place, 12.25, place, 12.25)
        for number, (image, reason, detail) in enumerate(reports, 1)
    ]


async def test_a_later_report_counts_and_is_the_last(job: Job) -> None:
    await report(job, (0, 5, 1), "a", now_s=10.0)
    for place in [(0, 5, 2), (0, 6, 0), (1, 0, 0)]:
        assert await report(job, place, "a") == [COUNTED]
    later = NewReport("a", "missing", "no such file")
    answer = await job.store.report(job.run, Place(1, 10, 3), [later], MOST, 20.0)
    assert answer == Reported([COUNTED], 1)
    (found,) = (await kept(job)).reports
    first, last = Place(0, 5, 1), Place(1, 10, 3)
    assert found == ImageReport(1, "a", 5, "missing", "no such file", first, 10.0, last, 20.0)


async def test_a_repeat_in_any_order_changes_nothing(job: Job) -> None:
    places = [(0, 5, 1), (0, 10, 0), (2, 0, 3)]
    for place in places:
        await report(job, place, "a", "b")
    before = await kept(job)
    for place in [*places, *places[::-1], (1, 99, 3), (2, 0, 2)]:
        assert await report(job, place, "b", "a", now_s=NOW_S + 1) == [REPEATED, REPEATED]
    assert await kept(job) == before
    assert [each.count for each in before.reports] == [3, 3]


async def test_an_image_counts_once_in_a_batch(job: Job) -> None:
    assert await report(job, (0, 0, 0), "a", "a", "b") == [NEW, REPEATED, NEW]
    assert await report(job, (0, 1, 0), "a", "a", "b") == [COUNTED, REPEATED, COUNTED]
    assert [each.count for each in (await kept(job)).reports] == [2, 2]


async def test_where_there_is_no_room_the_reports_are_counted(job: Job) -> None:
    assert await report(job, (0, 0, 0), "a", "b", "c", most=2) == [NEW, NEW, NOT_KEPT]
    assert await report(job, (0, 0, 0), "a", "b", "c", most=2) == [REPEATED] * 3
    assert await report(job, (0, 10, 0), "d", "a", "c", most=2) == [NOT_KEPT, COUNTED, NOT_KEPT]
    assert await report(job, (0, 9, 0), "e", most=2) == [REPEATED]
    assert await report(job, (0, 9, 1), "e", most=2) == [NOT_KEPT]  # another rank's
    found = await kept(job)
    assert ([each.image for each in found.reports], found.num_images, found.num_not_kept) == (
        ["a", "b"],
        2,
        4,
    )


async def test_reports_are_read_by_number(job: Job) -> None:
    images = [f"image {number}" for number in range(1, 26)]
    await report(job, (0, 0, 0), *images[:20])
    await report(job, (0, 1, 0), *images[10:])

    async def read(after: int | None, limit: int) -> list[str]:
        found = await kept(job, after, limit)
        assert [each.image for each in found.reports] == [f"image {each.number}" for each in found.reports]
        assert found.num_images == 25
        return [each.image for each in found.reports]

    assert await read(0, 10) + await read(10, 10) + await read(20, 10) == images
    assert await read(None, 3) == images[-3:]
    assert await read(None, 1000) == images
    assert await read(25, 10) == []


async def test_many_reports_at_once(job: Job) -> None:
    images = [f"{number}" for number in range(1024)]
    assert await report(job, (0, 0, 0), *images, most=2000) == [NEW] * 1024
    found = await kept(job)
    assert [each.image for each in found.reports] == images[:1000]
    assert found.num_images == 1024


async def test_a_new_generation_keeps_them_and_a_deleted_run_takes_them_along(job: Job) -> None:
    await report(job, (3, 0, 0), "a", "b", most=1)
    before = await kept(job)
    assert (await job.begin(2, origin=START, world_size=1)).begun
    assert await kept(job) == before
    await job.store.delete_run(job.run)
    for verb in (report(job, (0, 0, 0), "a"), kept(job)):
        with pytest.raises(NotFound):
            await verb
    await job.store.create_run(job.run, b"", FIRST)
    assert await kept(job) == NONE
    assert await report(job, (0, 0, 0), "a") == [NEW]


async def test_runs_do_not_share_reports(job: Job, store: Store) -> None:
    other = await Job.create(store, job.run + "-other")
    await report(job, (0, 0, 0), "a", "b", most=1)
    assert await kept(other) == NONE
    await report(other, (0, 0, 0), "c")
    await store.delete_run(other.run)
    assert (await kept(job)).num_not_kept == 1


async def test_processes_that_report_together_lose_none(url: str, job: Job) -> None:
    """Each image is reported by all, at places of their own; the numbers have no gap."""
    stores = [open_store(url, timeout_s=TIMEOUT_S) for _ in range(4)]
    calls = [
        report(Job(store, job.run), (0, step, rank), f"{step}", f"{rank} {step}")
        for step in range(10)
        for rank, store in enumerate(stores)
    ]
    await asyncio.gather(*calls)
    found = await kept(job)
    assert [each.number for each in found.reports] == list(range(1, 51))
    assert len({each.image for each in found.reports}) == 50
    assert sum(" " not in each.image for each in found.reports) == 10
    for store in stores:
        await store.close()


_PLACES = st.builds(Place, st.integers(0, 2), st.integers(0, 12), st.integers(0, 3))
_CALLS = st.lists(st.tuples(_PLACES, st.lists(st.sampled_from("abcd"), min_size=1, max_size=4)), max_size=12)


@given(calls=_CALLS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_the_count_is_of_the_places_that_came_in_order(
    store: Store, name: str, calls: list[tuple[Place, list[str]]]
) -> None:
    """However calls are ordered and repeated, of each image those count whose place is a new maximum."""
    await store.delete_run(name)
    job = await Job.create(store, name)
    counted: dict[str, list[Place]] = {}
    for place, images in calls:
        outcomes = await report(job, place, *images, most=3)
        for image, outcome in zip(images, outcomes, strict=True):
            places = counted.get(image)
            if places is None and len(counted) < 3:
                counted[image] = [place]
                assert outcome is NEW
            elif places is None:
                assert outcome in (NOT_KEPT, REPEATED)
            elif place > places[-1]:
                places.append(place)
                assert outcome is COUNTED
            else:
                assert outcome is REPEATED
    found = await kept(job)
    assert [(each.image, each.count, each.first, each.last) for each in found.reports] == [
        (image, len(places), places[0], places[-1]) for image, places in counted.items()
    ]
    for place, images in calls:  # all of it again
        assert COUNTED not in await report(job, place, *images, most=3)
    assert (await kept(job)).reports == found.reports
