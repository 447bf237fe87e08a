"""The operator's calls against a real coordinator."""

import pytest

from bucketline import Conflict, Forbidden, Invalid, NotFound, Operator, Unauthorized, UsageError

from .coordinators import COCO, Coordinator, put_run


def test_maps_and_runs(url):
    with Operator(url) as operator:
        about = operator.put_map("photos", COCO)
        assert about["num_images"] == 5000
        assert operator.put_map("photos", COCO.read_bytes(), format="csv") == about
        assert about in operator.maps()
        assert operator.map("photos")["digest"] == about["digest"]
        document = operator.put_run("job", {"map": "photos", "world_size": 2, "batch_size": 64})
        assert document["status"] == "ready"
        assert "job" in [each["run"] for each in operator.runs()]
        assert operator.run("job")["fingerprint"] == document["fingerprint"]
        assert operator.stats("job")["num_images"] == 5000
        assert [each["rank"] for each in operator.ranks("job")] == [0, 1]
        with pytest.raises(Conflict):
            operator.delete_map("photos")
        operator.delete_run("job")
        operator.delete_map("photos")
        with pytest.raises(NotFound):
            operator.map("photos")


def test_where_an_image_is(url, run):
    with Operator(url) as operator:
        batch = operator.batches(run, 3, 5, 1)[0]
        served = operator.image(run, batch.ids[7], epoch=3)["served"]
    assert [(each["step"], each["rank"]) for each in served] == [(5, 1)]


def test_previews(url, run):
    with Operator(url) as operator:
        specs = [{"world_size": 2, "batch_size": 8}, {"world_size": 2, "batch_size": 9999}]
        found = operator.preview(operator.run(run)["spec"]["map"], specs)
        assert found[0]["stats"]["num_images"] == 5000
        assert (sorted(found[1]), found[1]["problem"]["field"]) == (["problem", "spec"], "batch_size")
        with pytest.raises(NotFound):
            operator.preview("none", specs)
        with pytest.raises(Invalid) as caught:
            operator.preview("none", [])
    assert caught.value.field == "specs"


def test_batches_for_another_world_size(url, run):
    with Operator(url) as operator:
        one = operator.batches(run, 0, 0, 0, 4, world_size=1)
        two = [operator.batches(run, 0, 0, rank, 2) for rank in (0, 1)]
    assert [batch.ids for batch in one] == [two[r][s].ids for s in (0, 1) for r in (0, 1)]


def test_columns_can_be_named(url):
    table = b"key,image_w,image_h\n1,640,480\n2,480,640\n"
    with Operator(url) as operator:
        columns = {"id": "key", "width": "image_w", "height": "image_h"}
        assert operator.put_map("named", table, format="csv", columns=columns)["num_images"] == 2


def test_what_is_refused_before_anything_is_sent(tmp_path):
    with Operator("http://127.0.0.1:9") as operator:
        with pytest.raises(FileNotFoundError):
            operator.put_map("m", tmp_path / "none.csv")
        with pytest.raises(UsageError, match="format"):
            operator.put_map("m", tmp_path / "map.xlsx")
        with pytest.raises(UsageError, match="format"):
            operator.put_map("m", b"", format="xlsx")
        with pytest.raises(UsageError, match="timeout_s"):
            operator.put_run("r", {}, timeout_s="3")
    with pytest.raises(UsageError, match="timeout_s"):
        Operator("http://127.0.0.1:9", timeout_s="3")


def test_what_the_coordinator_refuses(url):
    with Operator(url) as operator:
        with pytest.raises(Invalid, match="height"):
            operator.put_map("broken", b"id,width\n1,2\n", format="csv")
        put_run(url, "standing")
        with pytest.raises(Conflict):
            put_run(url, "standing", seed=1)
        with pytest.raises(Invalid) as caught:
            put_run(url, "odd", batch_size=0)
        assert caught.value.field == "batch_size"


def test_tokens(tmp_path, monkeypatch):
    coordinator = Coordinator(
        tmp_path, BUCKETLINE_WORKER_TOKEN="worker", BUCKETLINE_OPERATOR_TOKEN="operator,schlüssel"
    )
    try:
        with Operator(coordinator.url) as operator, pytest.raises(Unauthorized):
            operator.runs()
        with Operator(coordinator.url, "worker") as operator:
            assert operator.runs() == []
            with pytest.raises(Forbidden):
                operator.put_map("coco", COCO)
        monkeypatch.setenv("BUCKETLINE_TOKEN", "operator")
        with Operator(coordinator.url) as operator:
            operator.put_map("coco", COCO)
        with Operator(coordinator.url, "schlüssel") as operator:
            operator.delete_map("coco")
    finally:
        coordinator.stop()
