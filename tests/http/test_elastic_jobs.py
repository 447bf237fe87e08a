"""Elastic jobs over HTTP, with real clients: chains of checkpoints, launchers' environments, peers."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from bucketline import BucketClient, Fenced, Operator, PlanMismatch, StartWarning
from tests import warm
from tests.client.coordinators import Coordinator, put_run

BALANCED = ("shift", "pad")
TAILS = ("shift", "spill", "pad", "drop", "catch_all")
MOST_RANKS = 9
LAUNCHERS = ("BUCKETLINE_", "TORCHELASTIC_", "SLURM_", "WORLD_SIZE", "RANK")
_names = map(str, itertools.count())

Connect = Callable[..., BucketClient]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    coordinator = Coordinator(tmp_path_factory.mktemp("elastic"))
    for tails in TAILS:
        steps = "balanced" if tails in BALANCED else "same_shape"
        put_run(coordinator.url, tails, tails=tails, steps=steps, batch_size=64, world_size=4)
    yield coordinator.url
    coordinator.stop()


@pytest.fixture
def connect(url: str) -> Iterator[Connect]:
    clients: list[BucketClient] = []

    def make(run: str, **options: Any) -> BucketClient:
        clients.append(BucketClient(url, run, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.__exit__(RuntimeError, None, None)


def get(url: str, path: str, **params: Any) -> Any:
    answer = httpx.get(f"{url}/v1/runs/{path}", params=params, verify=False)
    assert answer.status_code == 200, answer.text
    return answer.json()


def declared(url: str, run: str, epoch: int, world_size: int) -> Counter[int]:
    """How much more often than once the epoch has images that so many ranks deal from its start, or less often, as the
    ledger says."""
    found: Counter[int] = Counter()
    asked = {"from": epoch, "world_size": world_size}
    for row in httpx.get(f"{url}/v1/runs/{run}/ledger", params=asked, verify=False).text.splitlines()[1:]:
        _, what, _, id, num = row.split(",")
        found[int(json.loads(id))] += {"repeated": 1}.get(what.strip('"'), -1) * int(num)
    return found


def stream(url: str, run: str, lockstep: int) -> list[Any]:
    """Epoch 0's batches. As many ranks as the lockstep deal all of them."""
    found = []
    for rank in range(lockstep):
        asked = {"epoch": 0, "step": 0, "rank": rank, "count": 1024 // lockstep, "world_size": lockstep}
        found += [batch for batch in get(url, f"{run}/batches", **asked)["batches"] if batch["epoch"] == 0]
    return sorted(found, key=lambda batch: (batch["step"], batch["rank"]))


@settings(
    deadline=None, max_examples=max(1, settings().max_examples // 12), phases=[Phase.explicit, Phase.generate]
)
@given(st.data())
def test_clients_that_save_and_load_serve_an_epoch_once(url: str, data: st.DataObject) -> None:
    """Each start but the last is killed somewhere, after some of its ranks have gone further than the checkpoint. In
    the epoch after, every step has one shape where that is asked for."""
    run = data.draw(st.sampled_from(TAILS), label="tails")
    saved: list[tuple[dict[str, Any], list[Any]]] = []
    state: dict[str, Any] | str = "start"
    served: list[Any] = []
    starts = data.draw(
        st.lists(st.tuples(st.integers(1, MOST_RANKS), st.integers(0, 6)), min_size=1, max_size=4)
    )
    for world_size, num_steps in starts:
        client = BucketClient(url, run, session=next(_names))
        session = client.start_session(world_size, state)
        assert session.world_size == world_size
        # more batches are left than the next start has ranks, so that it begins in this epoch
        left = session.num_steps - session.cursor.step
        num_steps = max(0, min(num_steps, left - 1 - MOST_RANKS // world_size))
        for rank, _ in itertools.product(range(world_size), range(num_steps)):
            served = [*served, client.next_batch(rank)]
        saved.append((client.state_dict(None if num_steps else 0), served))
        client.next_batch(world_size - 1)  # handed out, and not in the checkpoint
        client.__exit__(RuntimeError, None, None)
        state, served = data.draw(st.sampled_from(saved), label="checkpoint")
    world_size = data.draw(st.integers(1, MOST_RANKS), label="world_size")
    with BucketClient(url, run, session=next(_names)) as client:
        session = client.load_state_dict(state, world_size)
        for rank in range(world_size):
            served = [*served, *client.epoch(rank)]
        after = [batch for rank in range(world_size) for batch in client.epoch(rank)]
    assert {batch.epoch for batch in served} == {0}
    assert {batch.epoch for batch in after} == {1}
    lockstep = session.deal.origin_lockstep
    planned = stream(url, run, lockstep)
    assert len(served) + session.left_out_batches == len(planned)
    check_shapes(
        served[len(served) - world_size * (session.num_steps - session.cursor.step) :], session.mixed_steps
    )
    ids = Counter(id for batch in served for id in batch.ids)
    ids.update(id for batch in planned[len(served) :] for id in batch["ids"])
    check_once(url, run, 0, lockstep, ids)
    if run not in BALANCED:
        check_shapes(after, 0)
    check_once(url, run, 1, world_size, Counter(id for batch in after for id in batch.ids))


def check_once(url: str, run: str, epoch: int, world_size: int, ids: Counter[int]) -> None:
    """Each image of the run, but for what is declared."""
    ids.subtract(declared(url, run, epoch, world_size))
    assert set(ids.values()) == {1}
    assert len(ids) == get(url, f"{run}/stats")["num_images"]


def check_shapes(batches: list[Any], mixed_steps: int) -> None:
    """At least the steps that are mixed are declared so."""
    shapes: dict[int, set[tuple[int, int]]] = {}
    for batch in batches:
        shapes.setdefault(batch.step, set()).add((batch.width, batch.height))
    assert sum(len(found) > 1 for found in shapes.values()) <= mixed_steps


# --- the names that launchers give ----------------------------------------------------------------------------------

RANK = """
import json, sys
from bucketline import BucketClient, Fenced
url, state, world_size = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
client = BucketClient(url, state["run"])
try:
    print(client.load_state_dict(state, world_size).generation)
except Fenced as error:
    print("fenced", error.problem["generation"])
"""


def started(
    url: str, state: dict[str, Any], environ: dict[str, str], *, num: int, world_size: int = 2
) -> list[str]:
    """What ``num`` processes of one start say, each with the launcher's variables."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(LAUNCHERS)}
    ranks = [
        warm.Popen(
            [sys.executable, "-c", RANK, url, json.dumps(state), str(world_size)],
            env={**clean, **environ, "WORLD_SIZE": str(world_size), "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(num)
    ]
    return [rank.communicate(timeout=60)[0].strip() for rank in ranks]


@pytest.mark.parametrize(
    ("job", "restarts"),
    [("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"), ("SLURM_JOB_ID", "SLURM_RESTART_COUNT")],
)
def test_every_rank_of_a_start_may_call_it_and_a_late_one_is_fenced(
    url: str, job: str, restarts: str
) -> None:
    run = f"launched-{next(_names)}"
    put_run(url, run)
    state = get(url, run)["state"]
    first, second = ({job: "job-7", restarts: count} for count in ("0", "1"))
    assert started(url, state, first, num=2) == ["2", "2"]
    assert started(url, state, second, num=1) == ["3"]
    # a rank of the first start comes back when the job has long been started again
    assert started(url, state, first, num=1) == ["fenced 3"]
    assert get(url, run)["generation"] == 3
    # nodes went: torchrun counts no restart for it, and it is a new start all the same
    assert started(url, state, second, num=1, world_size=1) == ["4"]
    assert started(url, state, second, num=1) == ["fenced 4"]


def test_an_old_start_that_comes_back_moves_nothing(url: str, connect: Connect) -> None:
    run = f"late-{next(_names)}"
    put_run(url, run)
    old = connect(run, session="old")
    old.start_session(2, "start")
    old.next_batch(0), old.next_batch(0)
    new = connect(run, session="new")
    new.load_state_dict(old.state_dict(0), 1)
    new.next_batch(0), new.next_batch(0)
    new.flush()
    before = get(url, f"{run}/ranks")["ranks"][0]
    for again in (
        lambda: old.start_session(2, "start"),
        lambda: connect(run, session="old").start_session(2),
    ):
        with pytest.raises(Fenced) as fenced:
            again()
        assert fenced.value.problem["generation"] == 3
    with pytest.raises(Fenced):
        old.flush()
    assert {**get(url, f"{run}/ranks")["ranks"][0], "batches_per_s": None} == {
        **before,
        "batches_per_s": None,
    }
    assert new.next_batch(0).step == 4


# --- peers ----------------------------------------------------------------------------------------------------------


def test_peers_of_one_holder_share_a_rank_until_another_takes_it(url: str, connect: Connect) -> None:
    run = f"peers-{next(_names)}"
    put_run(url, run)
    peers = [connect(run, holder="model-parallel-0") for _ in "12"]

    def step() -> int:
        return int(get(url, f"{run}/ranks")["ranks"][0]["step"])

    for _ in range(4):
        ours, theirs = (peer.next_batch(0) for peer in peers)
        assert ours == theirs
    for ahead, behind in (peers, peers[::-1]):
        ahead.next_batch(0), ahead.next_batch(0)
        ahead.ack(0)
        ahead.flush()
        assert step() == ahead.state_dict(0)["step"]
        # what the other acknowledges is behind that: no error, and nothing moves back
        behind.ack(0)
        behind.flush()
        assert step() == ahead.state_dict(0)["step"]
        assert [behind.next_batch(0).step, behind.next_batch(0).step][1] == ahead.state_dict(0)["step"] - 1
    with pytest.warns(StartWarning):
        connect(run, holder="another").next_batch(0)
    for peer in peers:
        with pytest.raises(Fenced):
            go_on(peer)


def go_on(client: BucketClient) -> None:
    client.next_batch(0), client.next_batch(0)
    client.flush()


# --- another plan ---------------------------------------------------------------------------------------------------


def test_a_checkpoint_of_another_plan_says_so_in_the_clients_error(url: str, connect: Connect) -> None:
    put_run(url, "seeded", seed=7)
    put_run(url, "plain")
    state = connect("seeded").state_dict(0)
    with Operator(url) as operator:
        expected = operator.run("plain")["fingerprint"]
    with pytest.raises(PlanMismatch, match="'seeded', which has a different seed") as refused:
        connect("plain").load_state_dict({**state, "run": "plain"}, session="s")
    assert refused.value.differs == ["spec"]
    assert (refused.value.expected, refused.value.given) == (expected, state["fingerprint"])
