"""The protocol as pure functions: the requests that are sent, and how answers are read."""

import pytest

import bucketline
from bucketline import Cursor, ProtocolError, UsageError, _wire
from bucketline._types import Deal, Lease, State

DEAL = Deal(origin=Cursor(2, 500), offset=4000, world_size=6)
LEASE = Lease(17, 3, Cursor(2, 510), 900, DEAL, "f00d")
STATE = {"run": "r", "fingerprint": "f00d", "epoch": 2, "step": 510, "offset": 4060, "world_size": 6}
BATCH = {"epoch": 2, "step": 510, "rank": 1, "bucket": 4, "width": 640, "height": 448, "ids": [7, 9]}


def test_requests():
    lease = _wire.lease_request("a run", 3, "me", None)
    assert (lease.method, lease.path, lease.body) == (
        "POST",
        "/v1/runs/a%20run/ranks/3/lease",
        {"holder": "me"},
    )
    assert _wire.lease_request("r", 3, "me", "s").body == {"holder": "me", "session": "s"}
    plain = _wire.next_request("r", 1, LEASE, None, None, 1)
    assert plain.path == "/v1/runs/r/ranks/1/next"
    assert plain.body == {"lease": 17, "generation": 3, "count": 1}
    full = _wire.next_request("r", 1, LEASE, Cursor(2, 509), Cursor(2, 512), 5)
    assert full.body["ack"] == {"epoch": 2, "step": 509}
    assert full.body["from"] == {"epoch": 2, "step": 512}
    session = _wire.session_request("r", "s", 6, _wire.state_from(STATE))
    assert session.body == {"session": "s", "world_size": 6, "resume": STATE}
    assert _wire.session_request("r", "s", 6, "start").body["resume"] == "start"


def test_a_name_cannot_leave_its_path():
    assert _wire.run_path("../maps/x", "stats") == "/v1/runs/..%2Fmaps%2Fx/stats"


def test_batches_are_read():
    batch = _wire.batch_from(BATCH)
    assert (batch.ids, batch.width, batch.height, batch.repeats) == ([7, 9], 640, 448, None)
    assert _wire.batch_from({**BATCH, "repeats": [False, True]}).repeats == [False, True]
    with pytest.raises(AttributeError):
        batch.ids = []


def test_packs_are_read():
    told = {
        **{"epoch": 0, "step": 3, "rank": 1, "kind": 7, "ids": [7, "x"]},
        **{"sizes": [[640, 448], [32, 64]], "lengths": [1120, 9]},
    }
    pack = _wire.batch_from(told)
    assert pack == bucketline.Pack(
        [7, "x"], [(640, 448), (32, 64)], [1120, 9], epoch=0, step=3, rank=1, kind=7
    )
    more = {
        **{"num_frames": [9, 17], "maps": ["a", "b"], "original_sizes": [[800, 500], [33, 70]]},
        **{"resize_sizes": [[717, 448], [33, 70]], "crop_left_tops": [[38, 0], [0, 3]]},
    }
    full = _wire.batch_from({**told, **more})
    assert (full.num_frames, full.maps) == ([9, 17], ["a", "b"])
    assert full.original_sizes == [(800, 500), (33, 70)]
    assert full.resize_sizes == [(717, 448), (33, 70)]
    assert full.crop_left_tops == [(38, 0), (0, 3)]
    with pytest.raises(ProtocolError, match="'lengths'"):
        told.pop("lengths"), _wire.read(told, _wire.batch_from, "GET /x")


def test_a_deal_counts_what_the_job_has_consumed():
    assert DEAL.consumed(Cursor(2, 500)) == 4000
    assert DEAL.consumed(Cursor(2, 510)) == 4060
    assert DEAL.consumed(Cursor(3, 10)) == 60


def test_a_state_dict_goes_there_and_back():
    assert _wire.state_from(STATE).to_json() == STATE
    assert _wire.state_from(STATE) == State("r", "f00d", Cursor(2, 510), 4060, 6)
    told = {**STATE, "lockstep": 8}
    assert _wire.state_from(told).to_json() == told
    assert _wire.state_from(told).lockstep == 8


def test_a_deal_knows_the_lockstep_of_each_epoch():
    answer = {"origin": {"epoch": 2, "step": 500}, "offset": 4000, "world_size": 6}
    deal = _wire.deal_from({**answer, "origin_lockstep": 8, "lockstep": 6})
    assert [deal.lockstep_of(epoch) for epoch in (1, 2, 3)] == [6, 8, 6]
    # planner novelai has none, and a coordinator may be older
    for none in (answer, {**answer, "origin_lockstep": None, "lockstep": None}):
        assert _wire.deal_from(none) == DEAL


@pytest.mark.parametrize(
    "change",
    [
        {"step": -1},
        {"lockstep": 0},
        {"lockstep": "8"},
        {"epoch": True},
        {"offset": 1.0},
        {"world_size": 0},
        {"fingerprint": None},
        {"run": 3},
    ],
)
def test_what_is_no_state_dict_is_named(change):
    with pytest.raises(UsageError, match=next(iter(change))):
        _wire.state_from({**STATE, **change})
    with pytest.raises(UsageError, match="state dict"):
        _wire.state_from([STATE])


def test_unreadable_answers():
    with pytest.raises(ProtocolError, match="not JSON"):
        _wire.read_json(b"<html>sign in</html>", "GET /x")
    with pytest.raises(ProtocolError, match="object"):
        _wire.read_json(b"[]", "GET /x")
    with pytest.raises(ProtocolError, match="'cursor'"):
        _wire.read({"batches": []}, _wire.next_from, "GET /x")
    with pytest.raises(ProtocolError, match="cannot be read"):
        _wire.read({"batches": 3}, _wire.next_from, "GET /x")


@pytest.mark.parametrize(
    ("status", "problem", "kind"),
    [
        (422, {"code": "invalid", "detail": "d", "field": "ack"}, bucketline.Invalid),
        (404, {"code": "not_found"}, bucketline.NotFound),
        (409, {"code": "fenced"}, bucketline.Fenced),
        (409, {"code": "plan_mismatch"}, bucketline.PlanMismatch),
        (409, {"code": "conflict"}, bucketline.Conflict),
        (413, {"code": "too_large"}, bucketline.TooLarge),
        (401, {"code": "unauthorized"}, bucketline.Unauthorized),
        (403, {"code": "forbidden"}, bucketline.Forbidden),
        (409, {"status": 409}, bucketline.Refused),
        (400, {"code": ["odd"]}, bucketline.Refused),
    ],
)
def test_refusals_have_names(status, problem, kind):
    error = _wire.refusal(_wire.Request("GET", "/x"), status, problem)
    assert type(error) is kind
    assert (error.status, error.problem) == (status, problem)


def test_what_is_retried():
    assert all(_wire.is_retried(status) for status in (408, 429, 500, 502, 503, 504))
    assert not any(_wire.is_retried(status) for status in (400, 401, 403, 404, 409, 413, 422))
