"""The demo's proof can fail: each kind of wrong delivery is found."""

from __future__ import annotations

from typing import Any

import pytest

from bucketline_service.demo.proof import Proof, RankLog, prove

STATS: dict[str, Any] = {"num_steps": 4, "dropped": 1, "mixed_steps": 0}
IMAGES = set(range(17))


def logs() -> list[RankLog]:
    """Two ranks, four steps, two images a batch; image 16 is left out."""
    return [
        RankLog([(step, 64, 64, [4 * step + 2 * rank, 4 * step + 2 * rank + 1]) for step in range(4)])
        for rank in (0, 1)
    ]


def check(found: list[RankLog]) -> Proof:
    return prove(found, IMAGES, STATS)


def test_a_right_delivery_is_proven() -> None:
    proof = check(logs())
    assert proof.holds
    assert (proof.once, proof.twice, proof.left_out, proof.mixed_steps, proof.gaps) == (16, 0, 1, 0, 0)


def test_a_step_of_several_shapes_is_right_only_where_the_plan_has_one() -> None:
    mixed = logs()
    mixed[0].records[1] = (1, 64, 32, [4, 5])
    stats = {**STATS, "mixed_steps": 1}
    assert prove(mixed, IMAGES, stats).holds
    assert not prove(logs(), IMAGES, stats).holds


def test_batches_that_a_crash_took_back_do_not_count() -> None:
    found = logs()
    records = found[1].records
    found[1].records = [*records[:3], *records[1:]]  # killed after step 2, came back at its cursor, step 1
    found[1].crashes = [(3, 1)]
    proof = check(found)
    assert proof.holds
    assert proof.again == 2


def test_another_batch_after_a_crash_is_seen() -> None:
    found = logs()
    records = found[1].records
    found[1].records = [*records[:2], (1, 64, 64, [16, 7]), *records[1:]]
    found[1].crashes = [(3, 1)]
    proof = check(found)
    assert proof.again_differs == 1
    assert not proof.holds


@pytest.mark.parametrize(
    ("rank", "at", "record", "counts"),
    [
        (0, 1, (1, 64, 64, [0, 5]), {"twice": 1, "left_out": 2}),
        (0, 1, (1, 64, 32, [4, 5]), {"mixed_steps": 1}),
        (1, 3, (2, 64, 64, [14, 15]), {"gaps": 1}),
        (1, 3, (3, 64, 64, [14, 16]), {"left_out": 1}),
    ],
)
def test_a_wrong_delivery_is_seen(rank: int, at: int, record: Any, counts: dict[str, int]) -> None:
    found = logs()
    found[rank].records[at] = record
    proof = check(found)
    assert {name: getattr(proof, name) for name in counts} == counts
    # as many are left out as planned where one image stands in for another: only the plan itself could tell
    assert proof.holds is (counts == {"left_out": 1})


def test_a_missing_batch_is_seen() -> None:
    found = logs()
    del found[0].records[2]
    assert not check(found).holds
