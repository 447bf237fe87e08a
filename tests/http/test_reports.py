"""``/v1/runs/{run}/reports``: what a worker says of images that it could not use, the same on all replicas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bucketline_service.http import Tokens
from bucketline_service.runs import image_reports
from bucketline_service.store.port import REPORT_REASONS
from tests.checked import Api
from tests.http.test_contract import PutRun
from tests.http.test_events import has, until
from tests.http.test_several_maps import CATS, DOGS
from tests.worlds import World

PATH = "/v1/runs/run/reports"


def image(id: int | str, reason: str = "unreadable", **more: Any) -> dict[str, Any]:
    return {"id": id, "reason": reason, **more}


def report(
    api: Api, *images: dict[str, Any], epoch: int = 0, step: int = 0, rank: int = 0, status: int = 200
) -> Any:
    place = {"rank": rank, "epoch": epoch, "step": step}
    return api.ask("POST", PATH, status, json={**place, "images": list(images)}).json()


def counts(api: Api) -> dict[Any, int]:
    return {each["id"]: each["count"] for each in api.get(PATH, after=0, limit=1000)["reports"]}


def test_a_report_is_listed_on_every_replica(world: World) -> None:
    api = world.replica().api
    api.put_csv("small", CATS)
    api.put("/v1/runs/run", {"map": "small", "world_size": 2, "batch_size": 8})
    assert api.get(PATH) == {"num_images": 0, "num_not_kept": 0, "reports": []}
    detail = "cannot identify image file 'ü'"
    answer = report(api, image(7, "missing", detail=detail), image(9), epoch=1, step=3, rank=1)
    assert answer == {"num_new": 2, "num_images": 2, "num_not_kept": 0}
    other = world.replica().api
    assert report(other, image(9, "wrong_size"), image(11), epoch=1, step=4)["num_new"] == 1
    found = other.get(PATH)
    assert (found["num_images"], [each["number"] for each in found["reports"]]) == (3, [1, 2, 3])
    first, second, _ = found["reports"]
    at = first["first"]["at"]
    place = {"epoch": 1, "step": 3, "rank": 1, "at": at}
    assert first == {
        "number": 1, "id": 7, "map": "small", "count": 1, "reason": "missing", "detail": detail,
        "first": place, "last": place,
    }  # fmt: skip
    assert (second["count"], second["reason"], second["detail"]) == (2, "wrong_size", None)
    assert (second["first"], second["last"]["step"], second["last"]["rank"]) == (place, 4, 0)
    assert found == api.get(PATH)


def test_a_repeat_changes_nothing(api: Api, put_run: PutRun) -> None:
    put_run()
    for step in (3, 5):
        report(api, image(7), image(9), step=step)
    before = api.get(PATH)
    for step in (5, 3, 4):
        assert report(api, image(7, "other"), image(9), step=step)["num_new"] == 0
    assert api.get(PATH) == before
    assert counts(api) == {7: 2, 9: 2}


def test_an_image_has_one_report_however_its_id_is_written(api: Api, put_run: PutRun) -> None:
    put_run()
    report(api, image(7))
    report(api, image("7"), step=1)
    assert counts(api) == {7: 2}


def test_images_of_several_maps(api: Api) -> None:
    """40 to 79 are in both."""
    api.put_csv("cats", CATS)
    api.put_csv("dogs", DOGS)
    maps = [{"map": "cats"}, {"map": "dogs"}]
    api.put("/v1/runs/run", {"maps": maps, "world_size": 1, "batch_size": 1, "tails": "drop"}, 201)
    problem = report(api, image(7), image(50), status=422)
    assert (problem["field"], problem["index"]) == ("images.1.map", 1)
    assert "cats and dogs both have an image 50" in problem["detail"]
    problem = report(api, image(7, map="cats"), image(8, map="mice"), status=422)
    assert (problem["field"], problem["index"]) == ("images.1.map", 1)
    assert counts(api) == {}
    report(api, image(50, map="cats"), image(50, map="dogs"), image(7), image(139))
    found = [(each["map"], each["id"]) for each in api.get(PATH)["reports"]]
    assert found == [("cats", 50), ("dogs", 50), ("cats", 7), ("dogs", 139)]


def test_an_image_that_the_run_does_not_have(api: Api, put_run: PutRun) -> None:
    put_run()
    problem = report(api, image(7), image(100_000), status=404)
    assert (problem["index"], problem["indexes"]) == (1, [1])
    assert "images.1: map 'small' has no image 100000" in problem["detail"]
    problem = report(api, image(7), image(100_000), image(8), image(100_001), status=404)
    assert (problem["index"], problem["indexes"]) == (1, [1, 3])
    assert "and 1 more are refused. Nothing was changed" in problem["detail"]
    assert counts(api) == {}


WRONG = [
    ({"rank": -1}, "rank"),
    ({"rank": 1 << 14}, "rank"),
    ({"epoch": "0"}, "epoch"),
    ({"step": 2**53}, "step"),
    ({"images": []}, "images"),
    ({"images": [image(7)] * 1025}, "images"),
    ({"images": [image(7), image(9, "corrupt")]}, "images.1.reason"),
    ({"images": [image(7, detail="x" * 201)]}, "images.0.detail"),
    ({"images": [{"reason": "missing"}]}, "images.0.id"),
    ({"images": [image(7, spare=9)]}, "images.0.spare"),
    ({"images": [image(True)]}, "images.0.id"),
    ({"lease": 1}, "lease"),
]


@pytest.mark.parametrize(
    ("change", "field"), WRONG, ids=[f"{field}-{i}" for i, (_, field) in enumerate(WRONG)]
)
def test_a_wrong_report_changes_nothing(
    api: Api, put_run: PutRun, change: dict[str, Any], field: str
) -> None:
    put_run()
    body = {"rank": 0, "epoch": 0, "step": 0, "images": [image(7)], **change}
    assert api.ask("POST", PATH, 422, json=body).json()["field"] == field
    assert counts(api) == {}


def test_an_epoch_after_the_last(api: Api, put_run: PutRun) -> None:
    put_run(epochs=2)
    assert report(api, image(7), epoch=2, status=422)["field"] == "epoch"
    report(api, image(7), epoch=1, step=10_000, rank=16383)  # no lease and no step of the plan is needed


def test_a_run_that_is_not_there(api: Api) -> None:
    assert report(api, image(7), status=404)["code"] == "not_found"
    assert api.ask("GET", PATH, 404).json()["code"] == "not_found"


def test_the_list_is_paged(api: Api, put_run: PutRun) -> None:
    put_run()
    report(api, *(image(number) for number in range(150)))

    def numbers(**params: Any) -> list[int]:
        return [each["number"] for each in api.get(PATH, **params)["reports"]]

    assert numbers() == list(range(51, 151))
    assert numbers(limit=3) == [148, 149, 150]
    assert numbers(limit=3, after=0) == [1, 2, 3]
    assert numbers(limit=1000, after=3) == list(range(4, 151))
    assert numbers(after=150) == []
    for wrong in ("limit=0", "limit=1001", "after=-1", "before=3"):
        api.ask("GET", f"{PATH}?{wrong}", 422)


def test_what_there_is_no_room_for_is_counted(
    api: Api, put_run: PutRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_reports, "MAX_REPORTED_IMAGES", 2)
    put_run()
    answer = report(api, *(image(number) for number in range(5)))
    assert answer == {"num_new": 2, "num_images": 2, "num_not_kept": 3}
    report(api, *(image(number) for number in range(5)))
    found = api.get(PATH)
    assert (len(found["reports"]), found["num_images"], found["num_not_kept"]) == (2, 2, 3)


def test_a_call_may_name_many_images_with_long_ids_and_details(api: Api) -> None:
    """More than other calls of a worker may send."""
    ids = [f"{'ü' * 500}{number:04}" for number in range(1024)]
    api.put_csv("long", "id,width,height\n" + "".join(f"{id},640,512\n" for id in ids))
    api.put("/v1/runs/run", {"map": "long", "world_size": 2, "batch_size": 8}, 201)
    answer = report(api, *(image(id, detail="\x00" * 200) for id in ids))
    assert answer == {"num_new": 1024, "num_images": 1024, "num_not_kept": 0}
    assert [each["id"] for each in api.get(PATH, after=1020)["reports"]] == ids[1020:]


def test_reports_outlive_a_start_of_the_job_and_end_with_the_run(api: Api, put_run: PutRun) -> None:
    put_run()
    report(api, image(7), epoch=3)
    api.session("run", "again")
    assert counts(api) == {7: 1}
    api.ask("DELETE", "/v1/runs/run?force=true", 204)
    put_run()
    assert counts(api) == {}
    assert report(api, image(7))["num_new"] == 1


def test_it_is_an_event_and_a_metric_but_a_repeat_is_not(api: Api, put_run: PutRun) -> None:
    put_run()
    newest = api.get("/v1/events", limit=1)["events"]
    after = newest[0]["id"] if newest else 0  # stores are shared
    for _ in range(3):
        report(api, image(7), image(9), image(11, "missing"), step=2, rank=1)
    events = until(api, has("images_reported"), run="run", after=after)
    event = next(each for each in events if each["event"] == "images_reported")
    assert (event["run"], event["rank"], event["count"]) == ("run", 1, 1)
    assert event["fields"] == {"num_images": 3, "reason": "unreadable", "num_reported": 3}
    lines = api.ask("GET", "/metrics", 200).text.splitlines()
    told = {line for line in lines if line.startswith("bucketline_reported_images_total")}
    values = {"unreadable": 2.0, "missing": 1.0}
    assert told == {
        f'bucketline_reported_images_total{{reason="{reason}",run="run"}} {values.get(reason, 0.0)}'
        for reason in REPORT_REASONS
    }
    api.ask("DELETE", "/v1/runs/run?force=true", 204)
    assert "bucketline_reported_images_total{" not in api.ask("GET", "/metrics", 200).text


def test_a_workers_token_reports(tmp_path: Path) -> None:
    world = World(f"sqlite:///{tmp_path / 'state.sqlite'}", tmp_path / "data")
    tokens = Tokens(worker=frozenset({"w"}), operator=frozenset({"o"}))
    api = world.replica(tokens=tokens).api
    operator, worker = {"Authorization": "Bearer o"}, {"Authorization": "Bearer w"}
    api.ask("PUT", "/v1/maps/small", content=CATS, headers={**operator, "Content-Type": "text/csv"})
    spec = {"map": "small", "world_size": 2, "batch_size": 8}
    api.ask("PUT", "/v1/runs/run", json=spec, headers=operator)
    body = {"rank": 0, "epoch": 0, "step": 0, "images": [image(7)]}
    api.ask("POST", PATH, 401, json=body)
    api.ask("GET", PATH, 401)
    api.ask("POST", PATH, 200, json=body, headers=worker)
    assert api.ask("GET", PATH, 200, headers=worker).json()["num_images"] == 1
    world.close()
