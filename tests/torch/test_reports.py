"""Images that a DataLoader's workers cannot use are reported by them, to the last one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bucketline import BucketClient, Operator
from tests.client.coordinators import put_run

from .loaders import ALLOWED, Seen, data

from bucketline.torch import BucketBatchSampler, Item  # isort: skip - needs torch

pytestmark = ALLOWED

BROKEN = 7
"""Images whose id is a multiple of it cannot be read."""


class Images(data.Dataset):
    def __init__(self, client: BucketClient) -> None:
        self._client = client

    def __getitem__(self, item: Item) -> int:
        if item.id % BROKEN == 0:
            self._client.report(0, item, item.id, "unreadable", OSError("truncated"))
        return int(item.id)


@pytest.mark.parametrize(("num_workers", "how"), [(0, None), (2, "fork"), (1, "spawn")])
def test_a_dataset_reports_where_it_reads(
    num_workers: int, how: str | None, url: str, plan: list[Seen], start: Callable[..., BucketClient]
) -> None:
    run = f"reported-{how}"
    put_run(url, run, batch_size=256)  # as the plan's
    client = start(run)
    sampler = BucketBatchSampler(client, 0)
    loader: Any = data.DataLoader(
        Images(client), batch_sampler=sampler, num_workers=num_workers, multiprocessing_context=how
    )
    read = [int(id) for batch in sampler.follow(loader) for id in batch]
    client.flush()
    del loader
    with Operator(url) as operator:
        found = operator.reports(run)["reports"]
    assert {each["id"]: each["count"] for each in found} == {id: 1 for id in read if id % BROKEN == 0}
    steps = {id: step for epoch, step, ids in plan if epoch == 0 for id in ids}
    assert {each["id"]: each["first"]["step"] for each in found} == {
        each["id"]: steps[each["id"]] for each in found
    }
