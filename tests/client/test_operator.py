"""The operator's calls against a real coordinator."""

import csv
import io
import json
import socket
import threading

import pyarrow.parquet
import pytest

from bucketline import (
    BucketClient,
    Conflict,
    CoordinatorUnavailable,
    Forbidden,
    Invalid,
    NotFound,
    Operator,
    PlanFailed,
    ProtocolError,
    Unauthorized,
    UsageError,
)
from bucketline.operator import _runs

from .coordinators import COCO, Canned, Coordinator, new_run, put_run


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
        with BucketClient(url, "job") as client:
            client.next_batch(0)
        with pytest.raises(Conflict, match="rank 0") as refused:
            operator.delete_run("job")
        assert refused.value.problem["num_ranks"] == 1
        operator.delete_run("job", force=True)
        operator.delete_map("photos")
        with pytest.raises(NotFound):
            operator.map("photos")


def test_warnings_are_waited_for(canned, monkeypatch):
    """They may take longer than the answer about a plan that is ready."""

    def answers(*warnings):
        headers = {"Content-Type": "application/json"}
        bodies = [json.dumps({"status": "ready", "warnings": each}).encode() for each in warnings]
        canned.script = {"/v1/runs/job": [Canned(200, headers, body) for body in bodies]}
        canned.seen.clear()

    monkeypatch.setattr(_runs, "POLL_S", 0.0)
    told = [{"code": "crop", "message": "m", "remedy": "r"}]
    with Operator(canned.url) as operator:
        answers(None, None, told)
        assert operator.put_run("job", {})["warnings"] == told
        assert len(canned.seen) == 3
        answers(None, told)
        assert operator.put_run("job", {}, wait=False)["warnings"] is None
        # at most so long
        answers(None, told)
        assert operator.put_run("job", {}, timeout_s=0)["warnings"] is None
        # an older coordinator does not know them
        canned.script = {
            "/v1/runs/job": [Canned(200, {"Content-Type": "application/json"}, b'{"status": "ready"}')]
        }
        assert operator.put_run("job", {}) == {"status": "ready"}


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


def test_plans_side_by_side_with_charts(url, run):
    with Operator(url) as operator:
        specs = {"four": {"world_size": 4, "batch_size": 8}, "none": {"world_size": 4, "batch_size": 9999}}
        found = operator.compare(operator.run(run)["spec"]["map"], specs, theme="dark", narrow=True)
        with pytest.raises(Invalid) as caught:
            operator.compare(operator.run(run)["spec"]["map"], specs, theme="grey")
    assert caught.value.field == "figure"
    assert [sorted(each) for each in found["previews"]] == [
        ["figure", "spec", "stats", "warnings"],
        ["problem", "spec"],
    ]
    assert found["comparison"]["rows"][0]["cells"] == ["5,000", None]
    assert "four" in str(found["comparison"]["figure"]["data"])


def test_batches_for_another_world_size(url, run):
    """As a run of so many ranks has them."""
    of_one = new_run(url, world_size=1)
    with Operator(url) as operator:
        one = operator.batches(run, 0, 0, 0, 4, world_size=1)
        two = operator.batches(of_one, 0, 0, 1, 4, world_size=2)
        assert [batch.ids for batch in one] == [batch.ids for batch in operator.batches(of_one, 0, 0, 0, 4)]
        assert [batch.ids for batch in two] == [batch.ids for batch in operator.batches(run, 0, 0, 1, 4)]


def test_steps_of_one_shape_for_ranks_that_divide_them(url):
    run = new_run(url, steps="same_shape")
    with Operator(url) as operator:
        one = operator.batches(run, 0, 0, 0, 4, world_size=1)
        two = [operator.batches(run, 0, 0, rank, 2) for rank in (0, 1)]
    assert [batch.ids for batch in one] == [two[r][s].ids for s in (0, 1) for r in (0, 1)]


def test_the_ledger_as_a_file_and_as_a_stream(url, run, tmp_path):
    table, text, stream = tmp_path / "l.parquet", tmp_path / "l.csv", io.BytesIO()
    with Operator(url) as operator:
        assert operator.ledger(run, table, from_epoch=2, to_epoch=4) == table.stat().st_size
        assert operator.ledger(run, str(text), from_epoch=2, to_epoch=4) == text.stat().st_size
        operator.ledger(run, stream, from_epoch=2, to_epoch=4, world_size=2)
        operator.ledger(run, tmp_path / "now.txt", format="csv")
    assert stream.getvalue() == text.read_bytes()
    rows = pyarrow.parquet.read_table(table).to_pylist()
    assert {row["epoch"] for row in rows} >= {2, 3, 4}
    with text.open(newline="") as file:
        assert [row["id"] for row in rows] == [int(row["id"]) for row in csv.DictReader(file)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["l.csv", "l.parquet", "now.txt"]


def test_the_assignments_as_a_file_and_as_a_stream(url, run, tmp_path):
    table, stream = tmp_path / "a.parquet", io.BytesIO()
    with Operator(url) as operator:
        assert operator.assignments(run, table) == table.stat().st_size
        assert operator.assignments(run, stream) == len(stream.getvalue())
        with pytest.raises(UsageError, match="format must be csv or parquet"):
            operator.assignments(run, tmp_path / "a.xlsx")
    rows = pyarrow.parquet.read_table(table).to_pylist()
    told = csv.DictReader(io.StringIO(stream.getvalue().decode()))
    assert [{name: str(value) for name, value in row.items()} for row in rows] == list(told)


def test_a_ledger_that_is_refused_leaves_no_file(url, run, tmp_path):
    kept = tmp_path / "l.csv"
    kept.write_text("before")
    with Operator(url) as operator:
        with pytest.raises(UsageError, match="format"):
            operator.ledger(run, tmp_path / "l.xlsx")
        with pytest.raises(UsageError, match="format"):
            operator.ledger(run, tmp_path / "l.csv", format="jsonl")
        with pytest.raises(Invalid) as caught:
            operator.ledger(run, kept, from_epoch=3, to_epoch=1)
        assert caught.value.field == "to"
        with pytest.raises(NotFound):
            operator.ledger("none", kept)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["before"]


CSV = {"Content-Type": "text/csv; charset=utf-8"}
CUT = Canned(200, {**CSV, "Content-Encoding": "gzip"}, b"half of it")


def test_a_ledger_that_fails_is_asked_for_again(canned, tmp_path):
    canned.script["/ledger"] = [Canned(503), CUT, Canned(200, CSV, b"whole")]
    with Operator(canned.url) as operator:
        assert operator.ledger("r", tmp_path / "l.csv") == 5
    assert (tmp_path / "l.csv").read_bytes() == b"whole"
    assert len(canned.seen) == 3


def test_a_ledger_that_is_no_table_is_asked_for_again_and_told(canned, tmp_path):
    page = Canned(200, {"Content-Type": "text/html"})
    canned.script["/ledger"] = [page, Canned(200, CSV, b"whole")]
    with Operator(canned.url) as operator:
        assert operator.ledger("r", tmp_path / "l.csv") == 5
    canned.script["/ledger"] = [page] * 1000
    with (
        Operator(canned.url, timeout_s=0.2) as operator,
        pytest.raises(ProtocolError, match="expected text/csv"),
    ):
        operator.ledger("r", tmp_path / "new.csv", timeout_s=0.2)
    assert not (tmp_path / "new.csv").exists()


@pytest.fixture
def breaking():
    """Answers the first request with the begin of a ledger, and hangs up; the others with all of it."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        asked = []

        def answer():
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    asked.append(connection.recv(1 << 16))
                    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/csv\r\nContent-Length: 8\r\n\r\n"
                    connection.sendall(head + (b"half" if len(asked) == 1 else b"all of i"))

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_file_that_broke_off_is_begun_again(breaking, tmp_path):
    with Operator(breaking) as operator:
        assert operator.ledger("r", tmp_path / "l.csv") == 8
    assert (tmp_path / "l.csv").read_bytes() == b"all of i"


def test_a_stream_that_broke_off_is_reported(breaking):
    stream = io.BytesIO()
    with Operator(breaking) as operator, pytest.raises(CoordinatorUnavailable, match="after 4 bytes"):
        operator.ledger("r", stream)
    assert stream.getvalue() == b"half"


def test_columns_can_be_named(url):
    table = b"key,image_w,image_h\n1,640,480\n2,480,640\n"
    with Operator(url) as operator:
        columns = {"id": "key", "width": "image_w", "height": "image_h"}
        assert operator.put_map("named", table, format="csv", columns=columns)["num_images"] == 2


def test_what_is_refused_before_anything_is_sent(tmp_path):
    with Operator("http://127.0.0.1:9") as operator:
        with pytest.raises(FileNotFoundError):
            operator.put_map("m", tmp_path / "none.csv")
        with pytest.raises(UsageError, match=r"map.xlsx: .* name it .csv"):
            operator.put_map("m", tmp_path / "map.xlsx")
        with pytest.raises(UsageError, match="format"):
            operator.put_map("m", b"")
        with pytest.raises(UsageError, match=f"bucketline scan {tmp_path} -o {tmp_path.name}.parquet"):
            operator.put_map("m", tmp_path, format="csv")
        with pytest.raises(UsageError, match="format"):
            operator.put_map("m", b"", format="xlsx")
        with pytest.raises(UsageError, match="timeout_s"):
            operator.put_run("r", {}, timeout_s="3")
    with pytest.raises(UsageError, match="timeout_s"):
        Operator("http://127.0.0.1:9", timeout_s="3")


def test_how_far_a_run_is_planned_is_reported_until_it_is(canned, monkeypatch):
    monkeypatch.setattr("bucketline.operator._runs.POLL_S", 0.01)

    def answers(*found):
        return [
            Canned(200, {"Content-Type": "application/json"}, json.dumps({"run": "r", **each}).encode())
            for each in found
        ]

    begun, further = ({"status": "planning", "progress": share} for share in (0.1, 0.6))
    canned.script["/r"] = answers(begun, further, {"status": "ready", "progress": None})
    told = []
    with Operator(canned.url) as operator:
        assert operator.put_run("r", {}, progress=told.append)["status"] == "ready"
    assert [each["progress"] for each in told] == [0.1, 0.6]
    canned.script["/r"] = answers(begun, {"status": "failed", "detail": "no memory"})
    with Operator(canned.url) as operator, pytest.raises(PlanFailed, match="no memory"):
        operator.put_run("r", {})


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
