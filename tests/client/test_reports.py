"""Reports of images that could not be used: in the background, once, and never raised into the loop."""

from __future__ import annotations

import multiprocessing
from types import SimpleNamespace
from typing import Any

import pytest

from bucketline import BucketClient, Cursor, Operator, UsageError
from bucketline._outbox import INTERVAL_S, MAX_CALL, MAX_WAITING, NEVER_S, Outbox
from tests.waiting import until

from .coordinators import COCO, LOSE, PACKED, Canned, Proxy, new_run
from .test_faults import BUSY, persist

JSON = {"Content-Type": "application/problem+json"}
NO_PATH = Canned(404, JSON, b'{"code": "not_found", "status": 404, "detail": "there is no path /v1/runs"}')
NO_METHOD = Canned(405, JSON, b'{"code": "method_not_allowed", "status": 405, "detail": "only GET"}')


def reported(url: str, run: str) -> list[dict[str, Any]]:
    with Operator(url) as operator:
        found = operator.reports(run)
    assert found["num_images"] == len(found["reports"])
    return list(found["reports"])


def counts(url: str, run: str) -> dict[Any, int]:
    return {each["id"]: each["count"] for each in reported(url, run)}


def calls(proxy: Proxy) -> int:
    return sum(path.endswith("/reports") for path in proxy.seen)


def test_a_report_arrives_by_itself(url, run, connect):
    client = connect(url, timeout_s=60)
    batch = client.next_batch(1)
    client.report(1, batch, batch.ids[3], "missing", FileNotFoundError("no such file"))
    (found,) = until("it is reported", lambda: reported(url, run))
    place = {"epoch": 0, "step": 0, "rank": 1, "at": found["first"]["at"]}
    assert found == {
        "number": 1, "id": batch.ids[3], "map": "coco", "count": 1, "reason": "missing", "detail": "no such file",
        "first": place, "last": place,
    }  # fmt: skip


def test_flush_and_close_wait_for_reports(url, run, connect):
    client = connect(url)
    first, second, third = (client.next_batch(0) for _ in range(3))
    client.report(0, first, first.ids[:2], "unreadable")
    client.flush()
    assert counts(url, run) == dict.fromkeys(first.ids[:2], 1)
    client.report(0, second, second.ids[0], "rejected")
    client.report(0, third, third.ids[0], "rejected")
    client.flush()  # although the last one was sent less than a second ago
    assert len(counts(url, run)) == 4
    client.report(0, third, third.ids[1], "other")
    client.close()
    assert list(counts(url, run)) == [*first.ids[:2], second.ids[0], third.ids[0], third.ids[1]]


def test_no_lease_is_needed(url, run, connect):
    """A validation has none, nor has a process that reads for another one."""
    with Operator(url) as operator:
        batch = operator.batches(run, 3, 5, 0)[0]
        client = connect(url)
        client.report(0, batch, batch.ids, "unreadable")
        client.report(0, Cursor(3, 6), batch.ids[0], "unreadable")
        client.flush()
        assert counts(url, run) == {**dict.fromkeys(batch.ids, 1), batch.ids[0]: 2}
        assert {each["holder"] for each in operator.ranks(run)} == {None}


def test_packs_and_items(url, connect):
    run = new_run(url, **PACKED)
    client = connect(url, run)
    pack = client.next_pack(0)
    client.report(0, pack, pack.ids[0], "unreadable")
    item = SimpleNamespace(
        id=pack.ids[1], epoch=pack.epoch, step=pack.step, map=None
    )  # as bucketline.torch has it
    client.report(0, item, item.id, "wrong_size")
    client.flush()
    assert list(counts(url, run)) == pack.ids[:2]


def test_the_map_of_an_id_that_several_maps_have(url, connect):
    with Operator(url) as operator:
        operator.put_map("coco-again", COCO)
        spec = {"maps": [{"map": "coco"}, {"map": "coco-again"}], "world_size": 2, "batch_size": 128}
        operator.put_run("of-two", spec)
    client = connect(url, "of-two")
    batch = client.next_batch(0)
    client.report(0, batch, batch.ids[0], "unreadable")
    client.flush()
    (found,) = reported(url, "of-two")
    assert (found["map"], found["id"]) in zip(batch.maps, batch.ids, strict=True)


def test_many_images_of_one_batch_are_several_calls(url, connect):
    run = new_run(url, batch_size=2048, ladder={"kind": "explicit", "sizes": [[256, 256]]}, world_size=1)
    client = connect(url, run)
    batch = client.next_batch(0)
    assert len(batch.ids) > MAX_CALL
    client.report(0, batch, batch.ids, "unreadable")
    client.flush()
    assert counts(url, run) == dict.fromkeys(batch.ids, 1)


@pytest.mark.parametrize("fault", [[LOSE], [BUSY, LOSE, BUSY], [Canned(502), LOSE]])
def test_what_is_lost_on_the_way_is_sent_again_and_counts_once(proxy, url, run, connect, fault):
    client = connect(proxy.url)
    batches = [client.next_batch(0) for _ in range(3)]
    proxy.script["/reports"] = list(fault)
    for batch in batches:
        client.report(0, batch, [batches[0].ids[0]] if batch is batches[0] else batch.ids[:2], "unreadable")
    client.flush()
    assert not proxy.script["/reports"]
    assert set(counts(url, run).values()) == {1}
    assert len(counts(url, run)) == 5


def test_a_coordinator_killed_in_between_loses_and_doubles_none(own):
    """Every image of a few batches, each reported as it is handed out, through kills and restarts."""
    expected: dict[Any, int] = {}
    with BucketClient(own.url, "run", window=4) as client:
        for batch in client.epoch(0):
            for id in batch.ids[:3]:
                client.report(0, batch, id, "unreadable")
                expected[id] = expected.get(id, 0) + 1
            if batch.step in (1, 5):
                own.kill()
                client.report(0, batch, batch.ids[3], "missing")
                expected[batch.ids[3]] = expected.get(batch.ids[3], 0) + 1
                own.start()
            if batch.step == 8:
                break
    assert counts(own.url, "run") == expected


def test_a_dead_coordinator_is_a_warning_and_the_reports_wait(own, caplog):
    client = BucketClient(own.url, "run", timeout_s=0.3)
    batch = persist(lambda: client.next_batch(0))
    own.kill()
    client.report(0, batch, batch.ids[0], "unreadable")
    client.flush()
    assert "1 reports of images are not sent yet" in caplog.text
    own.start()
    until("it is reported", lambda: counts(own.url, "run") == {batch.ids[0]: 1})
    client.close()
    assert "lost" not in caplog.text


def test_closing_warns_of_what_is_lost(own, caplog):
    client = BucketClient(own.url, "run", timeout_s=0.3)
    batch = persist(lambda: client.next_batch(0))
    own.kill()
    client.report(0, batch, batch.ids[:2], "unreadable")
    client.close()
    assert "2 reports of images that could not be used are lost" in caplog.text


@pytest.mark.parametrize("answer", [NO_PATH, NO_METHOD])
def test_an_older_coordinator_is_a_warning_once(proxy, url, run, connect, caplog, answer):
    client = connect(proxy.url)
    proxy.script["/reports"] = [answer, answer]
    for _ in range(2):
        batch = client.next_batch(0)
        client.report(0, batch, batch.ids[0], "unreadable")
        client.flush()
    told = [each.getMessage() for each in caplog.records if "reports of images" in each.getMessage()]
    assert len(told) == 1
    assert "older release" in told[0]
    batch = client.next_batch(0)  # a rolling upgrade went on
    client.report(0, batch, batch.ids[0], "unreadable")
    client.flush()
    assert counts(url, run) == {batch.ids[0]: 1}


def test_an_image_that_the_run_does_not_have_takes_none_of_the_others_along(url, run, connect, caplog):
    client = connect(url)
    batch = client.next_batch(0)
    client.report(0, Cursor(batch.epoch, batch.step), [batch.ids[0], 10**15, batch.ids[1]], "unreadable")
    client.flush()
    assert list(counts(url, run)) == batch.ids[:2]
    assert "the run does not have are dropped: 1000000000000000" in caplog.text
    caplog.clear()
    unknown = list(range(10**15, 10**15 + 500))  # a loader of another run
    client.report(0, Cursor(batch.epoch, batch.step), unknown, "missing")
    client.flush()
    (told,) = [record.getMessage() for record in caplog.records if "dropped" in record.getMessage()]
    assert "1000000000000000, 1000000000000001, 1000000000000002 and 497 more" in told


def test_an_exception_that_cannot_say_what_it_is_is_named(url, run, connect):
    class BrokenError(Exception):
        def __str__(self):
            raise RuntimeError

    client = connect(url)
    batch = client.next_batch(0)
    client.report(0, batch, batch.ids[0], "unreadable", BrokenError())
    client.flush()
    assert reported(url, run)[0]["detail"] == "BrokenError"


def test_bad_text_in_a_detail_is_made_good(url, run, connect):
    client = connect(url)
    batch = client.next_batch(0)
    client.report(0, batch, batch.ids[0], "unreadable", "photos/\udcff.jpg" + "x" * 300)
    client.flush()
    (found,) = reported(url, run)
    assert found["detail"] == ("photos/?.jpg" + "x" * 300)[:200]


def test_wrong_arguments_send_nothing(url, run, connect):
    client = connect(url)
    batch = client.next_batch(0)
    for wrong, match in [
        (("0", batch, batch.ids[0], "unreadable"), "rank"),
        ((0, 5, batch.ids[0], "unreadable"), "epoch"),
        ((0, batch, batch.ids[0], "corrupt"), "reason must be one of 'unreadable'"),
        ((0, batch, -1, "unreadable"), "has no image -1"),
        ((0, batch, [], "unreadable"), "ids"),
        ((0, batch, 1.5, "unreadable"), "ids"),
        ((0, batch, [None], "unreadable"), "ids"),
        ((0, batch, True, "unreadable"), "ids"),
    ]:
        with pytest.raises(UsageError, match=match):
            client.report(*wrong)
    client.flush()
    assert counts(url, run) == {}


def _read_in_a_worker(client: BucketClient, place: Cursor, ids: list[Any]) -> None:
    client.report(0, place, ids[0], "unreadable")
    client.report(0, place, ids[1:], "missing")


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_a_loaders_worker_reports_and_ends(url, run, how):
    """What it has just said arrives, although its process ends at once."""
    with Operator(url) as operator:
        ids = operator.batches(run, 0, 0, 0)[0].ids[:3]
    worker = multiprocessing.get_context(how).Process(
        target=_read_in_a_worker, args=(BucketClient(url, run), Cursor(0, 0), ids)
    )
    worker.start()
    worker.join()
    assert worker.exitcode == 0
    assert counts(url, run) == dict.fromkeys(ids, 1)


def image(number: int) -> dict[tuple[str | None, int | str], dict[str, Any]]:
    return {(None, number): {"id": number}}


def sent(outbox: Outbox, now_s: float, *, flush: bool = False) -> list[tuple[int, Cursor, int]]:
    """What is due, all of it sent: rank, place and number of images of each call."""
    found = []
    while (report := outbox.take(now_s, flush)) is not None:
        found.append((report.rank, report.place, len(report.images)))
        outbox.settled(report)
    return found


class TestOutbox:
    def test_the_first_report_goes_at_once_and_those_that_follow_together(self):
        outbox, place, later = Outbox(), Cursor(0, 3), Cursor(0, 4)
        assert outbox.due_s == NEVER_S
        outbox.add(0, place, image(1))
        assert sent(outbox, 10.0) == [(0, place, 1)]
        for number in range(5):
            outbox.add(number % 2, place, image(number))
        outbox.add(0, later, image(1))
        assert (outbox.due_s, sent(outbox, 10.5)) == (10.0 + INTERVAL_S, [])
        assert sent(outbox, 11.0) == [(0, place, 3), (1, place, 2), (0, later, 1)]
        assert (outbox.num_waiting, outbox.due_s) == (0, NEVER_S)

    def test_a_flush_does_not_wait(self):
        outbox = Outbox()
        outbox.add(0, Cursor(0, 0), image(1))
        sent(outbox, 10.0)
        outbox.add(0, Cursor(0, 0), image(2))
        assert len(sent(outbox, 10.0, flush=True)) == 1

    def test_an_image_is_said_once_of_a_batch(self):
        outbox = Outbox()
        for number in (1, 2, 1):
            outbox.add(0, Cursor(0, 0), image(number))
        assert outbox.num_waiting == 2
        assert sent(outbox, 10.0) == [(0, Cursor(0, 0), 2)]

    def test_what_was_not_settled_is_next_again(self):
        outbox = Outbox()
        for step in range(3):
            outbox.add(0, Cursor(0, step), image(1) | image(2))
        report = outbox.take(10.0, False)
        assert report is not None
        assert outbox.take(10.0, False) is report
        assert outbox.settled(report, only=[0]) == [{"id": 1}]
        assert outbox.take(10.0, False) is report
        assert outbox.settled(report, only=[0]) == [{"id": 2}]
        assert [place.step for _, place, _ in sent(outbox, 10.0)] == [1, 2]

    def test_it_has_bounds(self):
        outbox = Outbox()
        for number in range(MAX_WAITING + 7):
            outbox.add(0, Cursor(0, 0), image(number))
        assert (outbox.num_waiting, outbox.num_refused) == (MAX_WAITING, 7)
        found = sent(outbox, 10.0)
        assert {num for _, _, num in found} == {MAX_CALL}
        assert sum(num for _, _, num in found) == MAX_WAITING
