"""Batches taken ahead of the training loop, as by a loader: only those that are acknowledged count as finished."""

import pytest

from bucketline import BucketClient, Cursor, Operator, UsageError
from bucketline._types import Deal, Lease
from bucketline._wire import batch_from, next_request

NUM_STEPS = 19  # of the run that ``run`` makes


def cursor(url, run):
    with Operator(url) as operator:
        return operator.ranks(run)[0]["step"]


def test_only_ack_finishes_what_is_taken_ahead(url, run, connect):
    client = connect()
    ahead = list(client.epoch(0, ahead=True))
    assert [batch.step for batch in ahead] == list(range(NUM_STEPS))
    assert client.state_dict()["step"] == 0
    client.ack(0)  # names no batch: of those that are ahead it says nothing
    client.flush()
    assert cursor(url, run) == 0
    client.ack(0, ahead[4])
    client.ack(0, ahead[2])  # is finished already
    client.flush()
    assert cursor(url, run) == 5
    assert client.state_dict()["step"] == 5
    assert client.state_dict(0, after=ahead[6])["step"] == 7
    client.close(finished=True)
    assert cursor(url, run) == 5


def test_what_is_put_back_comes_again(connect):
    client = connect()
    ahead = list(client.epoch(0, ahead=True))
    client.ack(0, ahead[3])
    client.put_back(0)
    assert list(client.epoch(0, ahead=True)) == ahead[4:]


def test_what_another_process_has_read_can_be_acknowledged(url, run):
    with BucketClient(url, run, holder="both") as trains, BucketClient(url, run, holder="both") as reads:
        batches = list(reads.reader(0, holder="both").epoch(Cursor(0, 0)))
        assert [batch.step for batch in batches] == list(range(NUM_STEPS))
        trains.ack(0, batches[6])
        trains.flush()
        assert cursor(url, run) == 7
        assert trains.state_dict(0)["step"] == 7


def test_the_length_of_an_epoch(connect):
    client = connect()
    assert client.num_steps(0, 0) == NUM_STEPS
    assert client.num_steps(0, 7) is None


def test_a_state_after_a_batch_needs_its_rank(connect):
    with pytest.raises(UsageError, match="rank"):
        connect().state_dict(after=Cursor(0, 3))


def test_include_is_asked_for_and_read(url):
    lease = Lease(1, 1, Cursor(0, 0), 9, Deal(Cursor(0, 0), 0, 1), "f")
    assert "include" not in next_request("r", 0, lease, None, None, 1).body
    asked = next_request("r", 0, lease, None, None, 1, ("original_size", "crop"))
    assert asked.body["include"] == ["original_size", "crop"]
    batch = {"ids": [7], "width": 512, "height": 512, "epoch": 0, "step": 0, "rank": 0, "bucket": 0}
    read = batch_from({**batch, "original_sizes": [[2000, 1000]], "resize_sizes": [[1024, 512]]})
    assert (read.original_sizes, read.resize_sizes, read.crop_left_tops) == (
        [(2000, 1000)],
        [(1024, 512)],
        None,
    )
    for wrong in ("crop", ["crops"]):
        with pytest.raises(UsageError, match="'original_size' and 'crop'"):
            BucketClient(url, "r", include=wrong)
