"""``BucketEpochSampler``: the same batches in every pass of a loader, with and without workers, in any framework."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bucketline import BucketClient, Operator, UsageError
from tests.client.coordinators import put_run

from .loaders import ALLOWED, Names, data

torch = pytest.importorskip("torch", reason="see make test-torch")

from bucketline.torch import BucketEpochSampler  # noqa: E402 - after the skip

pytestmark = ALLOWED


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[BucketClient]:
    put_run(url, "short", world_size=2, batch_size=300, tails="short")
    with BucketClient(url, "short") as client:
        yield client


def planned(client: BucketClient, rank: int, world_size: int) -> list[list[Any]]:
    with Operator(client.url) as operator:
        batches = operator.batches(client.run, 0, 0, rank, 1024, world_size=world_size)
    return [batch.ids for batch in batches if batch.epoch == 0]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_pass_is_the_whole_epoch(client: BucketClient, num_workers: int) -> None:
    served = []
    for rank in range(2):
        sampler = BucketEpochSampler(client, rank=rank, world_size=2)
        loader = data.DataLoader(Names(), batch_sampler=sampler, num_workers=num_workers, collate_fn=list)
        next(iter(loader))  # left early
        passes = [[[item.id for item in batch] for batch in loader] for _ in range(2)]
        expected = planned(client, rank, 2)
        assert passes == [[ids for ids in expected if ids]] * 2
        assert len(loader) == len(expected) >= len(passes[0])
        served += [image for batch in passes[0] for image in batch]
    assert sorted(served) == sorted({*served})
    assert len(served) == 5000


def test_it_takes_the_rank_of_the_launcher(client: BucketClient, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = BucketEpochSampler(client, ids_only=True)
    assert list(sampler) == [ids for ids in planned(client, 0, 1) if ids]
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    again = BucketEpochSampler(client, ids_only=True)
    assert list(again) == [ids for ids in planned(client, 2, 3) if ids]
    with pytest.raises(UsageError, match="world_size must be given with rank"):
        BucketEpochSampler(client, rank=0)
