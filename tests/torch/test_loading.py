"""What loaders get, what of it is acknowledged, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bucketline import BucketClient, Operator, RepeatedBatchesWarning, UsageError
from bucketline.geometry import fit
from tests.client.coordinators import put_run

from .conftest import NUM_STEPS
from .loaders import ALLOWED, Names, Sampled, Seen, Streamed, data, some

from bucketline.torch import BucketBatchSampler, BucketIterableDataset, Item  # isort: skip - needs torch

pytestmark = ALLOWED

KINDS = pytest.mark.parametrize("kind", [Sampled, Streamed])


def cursor(url: str, rank: int = 0) -> tuple[int, int]:
    with Operator(url) as operator:
        told = operator.ranks("small")[rank]
    return told["epoch"], told["step"]


@KINDS
@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_the_loop_asks_past_is_acknowledged_and_nothing_else(
    kind: Any, num_workers: int, url: str, start: Callable[..., BucketClient]
) -> None:
    """Four workers have the whole epoch pulled before the loop has had its first batch."""
    client = start()
    job = kind(client, num_workers=num_workers)
    for num_done, (_, step, _) in enumerate(job.epoch()):
        assert step == num_done
        client.flush()
        assert cursor(url) == (0, num_done)
        assert job.source.state_dict()["step" if step + 1 < NUM_STEPS else "epoch"] == (
            step + 1 if step + 1 < NUM_STEPS else 1
        )
    client.flush()
    assert cursor(url) == (1, 0)


def test_leaving_a_with_block_acknowledges_nothing_that_was_only_pulled(
    url: str, start: Callable[..., BucketClient]
) -> None:
    with start() as client:
        some(Sampled(client, num_workers=2).epoch(), 3)
    assert cursor(url) == (0, 2)


def test_the_clients_own_state_counts_nothing_that_was_only_pulled(
    start: Callable[..., BucketClient],
) -> None:
    client = start()
    job = Sampled(client, num_workers=2)
    some(job.epoch(), 3)
    assert client.state_dict()["step"] == 2
    assert job.source.state_dict()["step"] == 3


def test_ack_by_hand(plan: list[Seen], start: Callable[..., BucketClient]) -> None:
    """Where a framework owns the loop. What is not acknowledged comes again."""
    job = Sampled(start(), num_workers=2)
    for num_done, _ in enumerate(job.loader):
        assert job.source.state_dict()["step"] == num_done
        if num_done == 3:
            break
        job.source.ack()
    assert list(job.epoch()) == plan[3:NUM_STEPS]


def test_an_epoch_of_which_nothing_is_acknowledged_is_not_given_again(
    start: Callable[..., BucketClient],
) -> None:
    job = Sampled(start())
    assert len(list(job.loader)) == NUM_STEPS
    with pytest.raises(UsageError, match=r"follow\(loader\)"):
        list(job.loader)
    unfollowed = Streamed(start())
    with pytest.raises(UsageError, match=r"follow\(loader\)"):
        list(unfollowed.loader)


def test_items_tell_all_of_an_image(plan: list[Seen], url: str, start: Callable[..., BucketClient]) -> None:
    batch = next(iter(BucketBatchSampler(start(), 0)))
    with Operator(url) as operator:
        [known] = operator.batches("small", 0, 0, 0, 1)
    assert batch == [Item(id, known.width, known.height, 0, 0, known.bucket) for id in known.ids]
    assert next(iter(BucketBatchSampler(start(), 0, ids_only=True))) == plan[0][2]


def test_items_bring_the_geometry_along(url: str) -> None:
    """To the loader's workers, so that a dataset needs no second look-up."""
    with BucketClient(url, "small", include=["original_size", "crop"]) as client:
        client.start_session(2, "start", session="geometry")
        loader = data.DataLoader(
            Names(), batch_sampler=BucketBatchSampler(client, 0), num_workers=1, collate_fn=list
        )
        for item in next(iter(loader)):
            cut = fit(item.original_size, (item.width, item.height))
            assert (item.resize_size, item.crop_left_top) == (cut.resize_size, (cut.crop_left, cut.crop_top))
        dataset = BucketIterableDataset(client, lambda batch: set(batch.resize_sizes), rank=0)
        loader = data.DataLoader(dataset, batch_size=None, num_workers=1)
        batch, loaded = next(dataset.follow(loader))
        size = batch.width, batch.height
        assert loaded == {fit(original_size, size).resize_size for original_size in batch.original_sizes}


def test_a_run_of_repeats(url: str, start: Callable[..., BucketClient]) -> None:
    put_run(url, "padded", batch_size=300, tails="pad")
    job = Sampled(start("padded"))
    items = [item for batch in job.source.follow(job.loader) for item in batch]
    with Operator(url) as operator:
        repeated = operator.stats("padded")["repeated"]
    assert any(item.is_repeat for item in items)
    assert sum(item.is_repeat for item in items) <= repeated


@KINDS
def test_a_run_that_ends(kind: Any, url: str, start: Callable[..., BucketClient]) -> None:
    put_run(url, "ending", batch_size=300, epochs=2)
    job = kind(start("ending"), num_workers=2)
    assert [len({epoch for epoch, _, _ in job.epoch()}) for _ in range(4)] == [1, 1, 0, 0]


def test_load_runs_in_the_workers(start: Callable[..., BucketClient]) -> None:
    dataset = BucketIterableDataset(start(), lambda batch: data.get_worker_info().id, rank=0)
    loader = data.DataLoader(dataset, batch_size=None, num_workers=2)
    assert [worker for _, worker in dataset.follow(loader)] == [step % 2 for step in range(NUM_STEPS)]


def test_the_length_is_the_epochs(start: Callable[..., BucketClient]) -> None:
    job = Sampled(start(), num_workers=2)
    assert len(job.loader) == NUM_STEPS
    some(job.epoch(), 4)
    assert len(job.loader) == NUM_STEPS
    list(job.epoch())
    assert len(job.loader) == NUM_STEPS


def test_rank_and_world_size_are_the_launchers(
    monkeypatch: pytest.MonkeyPatch, start: Callable[..., BucketClient]
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert Sampled(start(), None, None).epoch().__next__()[1] == 0
    assert BucketBatchSampler(start()).rank == 1
    assert BucketIterableDataset(start()).rank == 1


def test_rank_and_world_size_are_the_process_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: Callable[..., BucketClient]
) -> None:
    dist = pytest.importorskip("torch.distributed")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        job = Sampled(start(world_size=1), None, None)
        assert job.source.rank == 0
        list(job.epoch())
    finally:
        dist.destroy_process_group()


@KINDS
def test_a_job_of_another_size_than_the_run_deals_to_is_refused(
    kind: Any, start: Callable[..., BucketClient]
) -> None:
    client = start()
    for world_size in (4, None):
        job = kind(client, 0 if world_size else None, world_size)  # None: one process alone
        with pytest.raises(UsageError, match=r"over 2 ranks, but this job has [14]\. Call begin"):
            list(job.epoch())


@KINDS
def test_loaders_that_cannot_be_followed_are_refused(kind: Any, start: Callable[..., BucketClient]) -> None:
    with pytest.raises(UsageError, match="in_order"):
        list(kind(start(), num_workers=2, in_order=False).epoch())
    with pytest.raises(UsageError, match="snapshot_every_n_steps"):
        list(kind(start(), stateful=True, snapshot_every_n_steps=2).epoch())
    job = kind(start())
    with pytest.raises(UsageError, match="loader"):
        list(job.source.follow(data.DataLoader([1, 2, 3])))


@KINDS
def test_a_checkpoint_without_a_state_is_refused(kind: Any, start: Callable[..., BucketClient]) -> None:
    with pytest.raises(UsageError, match=r"state must .* got None"):
        kind(start()).source.load_state_dict({"model": {}}.get("data"))


def test_batches_of_batches_are_refused(start: Callable[..., BucketClient]) -> None:
    dataset = BucketIterableDataset(start(), None, 0)
    with pytest.raises(UsageError, match="batch_size=None"):
        list(dataset.follow(data.DataLoader(dataset)))


def test_two_passes_at_once_are_refused(start: Callable[..., BucketClient]) -> None:
    sampler = BucketBatchSampler(start(), 0)
    first, second = iter(sampler), iter(sampler)
    next(first)
    with pytest.warns(RepeatedBatchesWarning):
        next(second)
    with pytest.raises(UsageError, match="another pass"):
        next(first)


def test_ack_of_nothing_is_refused(start: Callable[..., BucketClient]) -> None:
    with pytest.raises(UsageError, match="ack"):
        BucketBatchSampler(start(), 0).ack()


def test_spawned_workers_share_the_lease(plan: list[Seen], start: Callable[..., BucketClient]) -> None:
    job = Streamed(start(), num_workers=1, multiprocessing_context="spawn")
    assert list(job.epoch()) == plan[:NUM_STEPS]
    assert isinstance(Names()[Item(1, 2, 3, 4, 5, 6)], Item)


@KINDS
def test_batches_without_an_image_end_the_epoch_and_count(
    kind: Any, url: str, start: Callable[..., BucketClient]
) -> None:
    """With ``tails: "short"`` every image comes once, and one rank has nothing at the last step."""
    put_run(url, "short", batch_size=110, tails="short")
    epochs: list[list[Seen]] = []
    with Operator(url) as operator:
        num_steps = operator.stats("short")["num_steps"]
        assert operator.stats("short")["num_batches"] == 2 * num_steps
        sizes = [
            [len(batch.ids) for batch in operator.batches("short", 0, 0, rank, num_steps)] for rank in (0, 1)
        ]
    assert sorted(size == 0 for of_rank in sizes for size in of_rank[-1:]) == [False, True]
    for rank in (0, 1):
        client = start("short", resumes=rank > 0)
        job = kind(client, rank=rank)
        epochs.append([each for each in job.epoch() if each[2]])
        client.flush()
        assert len(epochs[rank]) == num_steps - sizes[rank].count(0)
        assert job.source.epoch == 1
    ids = [image_id for of_rank in epochs for _, _, batch in of_rank for image_id in batch]
    assert len(ids) == len(set(ids)) == 5000
