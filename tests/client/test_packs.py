"""A run of packs: its own calls, with all that batches have, and none that hands out the other type."""

import pickle

import pytest

from bucketline import Batch, BucketClient, Cursor, EndOfRun, Operator, Pack, UsageError
from bucketline.geometry import fit

from .coordinators import PACKED, new_run

NUM_STEPS = 16
CELL = 16


@pytest.fixture
def run(url):
    """A new run of packs."""
    return new_run(url, **PACKED)


@pytest.fixture
def planned(url, run):
    """Rank 0's first epoch."""
    with Operator(url) as operator:
        assert operator.stats(run)["num_steps"] == NUM_STEPS
        return operator.packs(run, 0, 0, 0, NUM_STEPS)


def cursor(url, run):
    with Operator(url) as operator:
        told = operator.ranks(run)[0]
    return told["epoch"], told["step"]


def test_an_epoch_is_exact(url, run, connect, planned):
    """As planned, each acknowledged when the next one is requested."""
    client = connect(window=4)
    assert list(client.packs(0)) == planned
    client.flush()
    assert cursor(url, run) == (1, 0)
    assert client.next_pack(0).epoch == 1
    assert next(client.packs(0)).step == 1


def test_a_pack_has_room_for_the_tokens_of_its_images(planned):
    """As many lengths in all packs of a kind, the longest first."""
    kinds = {}
    for pack in planned:
        assert type(pack) is Pack
        assert len(pack.ids) == len(pack.sizes) == len(pack.lengths) > 0
        assert sum(pack.lengths) <= PACKED["pack"]["max_tokens"]
        assert pack.lengths == sorted(pack.lengths, reverse=True)
        for (width, height), length in zip(pack.sizes, pack.lengths, strict=True):
            assert width % CELL == height % CELL == 0
            assert width // CELL * (height // CELL) <= length
        assert kinds.setdefault(pack.kind, pack.lengths) == pack.lengths
    assert len(kinds) > 1
    assert any(len(set(pack.sizes)) > 1 for pack in planned)


def test_images_come_with_their_geometry(url, run):
    """Each fits its own size."""
    with BucketClient(url, run, include=["original_size", "crop"]) as client:
        pack = client.next_pack(0)
    cuts = [fit(*each) for each in zip(pack.original_sizes, pack.sizes, strict=True)]
    assert pack.resize_sizes == [cut.resize_size for cut in cuts]
    assert pack.crop_left_tops == [(cut.crop_left, cut.crop_top) for cut in cuts]


def test_clips_have_their_own_number_of_frames_and_images_their_map(url):
    rows = [(id, 64 + 16 * (id % 3), 64, 1 + 4 * (id % 2)) for id in range(64)]
    content = "".join(f"{id},{width},{height},{frames}\n" for id, width, height, frames in rows)
    with Operator(url) as operator:
        for name in ("clips-a", "clips-b"):
            operator.put_map(name, f"id,width,height,num_frames\n{content}".encode(), format="csv")
        maps = {"map": None, "maps": [{"map": "clips-a"}, {"map": "clips-b"}]}
        packed = {**PACKED, "pack": {"max_tokens": 1024, "frame_stride": 4}, "frame_buckets": [1, 5]}
        [pack] = operator.packs(new_run(url, **packed, **maps), 0, 0, 0)
    assert set(pack.num_frames) == {1, 5}
    assert pack.num_frames == [1 + 4 * (id % 2) for id in pack.ids]
    assert set(pack.maps) == {"clips-a", "clips-b"}
    for (width, height), frames, length in zip(pack.sizes, pack.num_frames, pack.lengths, strict=True):
        assert width * height // CELL**2 * -(-frames // 4) <= length


def test_a_pack_goes_to_another_process(connect):
    pack = connect().next_pack(0)
    assert pickle.loads(pickle.dumps(pack)) == pack
    with pytest.raises(AttributeError):
        pack.ids = []


def test_a_resume_is_exact(connect, planned):
    client = connect(session="first")
    client.begin(None)
    assert [client.next_pack(0) for _ in range(3)] == planned[:3]
    state = client.state_dict()
    assert client.state_dict(include_last=False)["step"] == 2
    assert client.state_dict(0, after=planned[6])["step"] == 7
    resumed = connect(session="second")
    resumed.begin(state)
    assert list(resumed.packs(0)) == planned[3:]


def test_packs_are_taken_ahead_and_put_back(url, run, connect, planned):
    client = connect()
    ahead = list(client.packs(0, ahead=True))
    assert ahead == planned
    client.ack(0, ahead[4])
    client.flush()
    assert cursor(url, run) == (0, 5)
    client.put_back(0)
    assert client.next_pack(0) == planned[5]


def test_another_process_reads_them(url, run, connect, planned):
    client = connect(holder="both")
    reader = connect(holder="both").reader(0, holder="both")
    assert list(reader.epoch(Cursor(0, 2))) == planned[2:]
    client.ack(0, planned[2])
    client.flush()
    assert cursor(url, run) == (0, 3)


def next_of(epoch):
    return lambda client: next(getattr(client, epoch)(0))


def ahead_of(epoch):
    return lambda client: next(getattr(client, epoch)(0, ahead=True))


WRONG = {
    "packs": [lambda client: client.next_batch(0), next_of("epoch"), ahead_of("epoch")],
    "batches": [lambda client: client.next_pack(0), next_of("packs"), ahead_of("packs")],
}


@pytest.mark.parametrize("call", range(3))
@pytest.mark.parametrize("served", WRONG)
def test_the_other_types_calls_are_refused_and_consume_nothing(url, connect, served, call):
    """Neither the first batch, nor a later one; and the one before it is not finished by them."""
    run = new_run(url, **(PACKED if served == "packs" else {}))
    client = connect(run=run, window=2)
    right = client.next_pack if served == "packs" else client.next_batch
    wrong = WRONG[served][call]
    named = "call next_pack or packs" if served == "packs" else "call next_batch or epoch"
    for step in range(5):
        for _ in range(2):
            with pytest.raises(UsageError, match=named):
                wrong(client)
        client.flush()
        assert cursor(url, run) == (0, max(0, step - 1))
        assert client.state_dict(0)["step"] == step
        assert right(0).step == step
    client.put_back(0)
    with pytest.raises(UsageError, match=named):
        wrong(client)
    assert right(0).step == 4


def test_no_call_takes_what_a_loader_took_ahead(connect, planned):
    client = connect()
    ahead = client.packs(0, ahead=True)
    assert [next(ahead) for _ in range(3)] == planned[:3]
    with pytest.raises(UsageError, match="next_pack"):
        client.next_batch(0)
    assert client.state_dict()["step"] == 0
    assert next(ahead) == planned[3]


def test_a_run_that_ends(url, connect):
    client = connect(run=new_run(url, **PACKED, epochs=1))
    assert len(list(client.packs(0))) == NUM_STEPS
    assert list(client.packs(0)) == []
    with pytest.raises(EndOfRun):
        client.next_pack(0)


def test_the_operator_reads_each_type_by_its_call(url, run):
    buckets = new_run(url)
    with Operator(url) as operator:
        with pytest.raises(UsageError, match=f"run '{run}' serves packs: call packs"):
            operator.batches(run, 0, 0, 0)
        assert [type(each) for each in operator.packs(run, 0, 0, 1, 2)] == [Pack, Pack]
        with pytest.raises(UsageError, match=f"run '{buckets}' serves batches .* call batches"):
            operator.packs(buckets, 0, 0, 0)
        assert type(operator.batches(buckets, 0, 0, 0)[0]) is Batch


def test_wrong_arguments_take_no_lease(proxy, run, connect):
    client = connect(proxy.url)
    for call in (lambda: client.next_pack("0"), lambda: next(client.packs(-1))):
        with pytest.raises(UsageError, match="rank must be an integer"):
            call()
    assert proxy.seen == []
