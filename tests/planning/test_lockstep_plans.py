"""One plan under several locksteps: which one ranks get, and that it plans as if it had been asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketline_service.errors import Invalid
from bucketline_service.planning.buckets import ladder_generators
from bucketline_service.planning.build_plan import new_planner, prepare
from bucketline_service.planning.images import Images, Part
from bucketline_service.planning.lockstep_plans import NUM_KEPT, Locksteps, pure_lockstep
from bucketline_service.planning.plan_spec import MAX_LOCKSTEP, PlanSpec

WIDTHS = np.tile(np.array([512, 640, 768, 512, 704], dtype=np.uint32), 40)
HEIGHTS = np.tile(np.array([512, 512, 512, 640, 448], dtype=np.uint32), 40)
IMAGES = Images([Part(WIDTHS, HEIGHTS)])


def spec_of(**fields) -> PlanSpec:
    ladders = (ladder_generators.explicit([(512, 512), (640, 512), (768, 512), (512, 640)]).by_aspect(),)
    return PlanSpec(
        **{
            "planner": "line",
            "tiers": ladders,
            "batch_size": 2,
            "seed": 7,
            "lockstep": 4,
            "tails": "spill",
            **fields,
        }
    )


def layouts_of(spec: PlanSpec) -> Locksteps:
    prepared = prepare(spec, IMAGES)
    return Locksteps(spec, prepared, IMAGES, new_planner(spec, prepared, IMAGES))


sizes = st.integers(1, 4096)


@given(sizes, st.integers(1, MAX_LOCKSTEP), sizes)
def test_each_step_has_one_shape_wherever_it_had_one_as_planned(world_size, own, planned_for):
    lockstep = pure_lockstep(world_size, own, planned_for)
    if own % world_size == 0:
        assert lockstep == own
    elif own % planned_for == 0:
        assert lockstep % world_size == 0
        # as many steps of one shape, so that gradients can still be accumulated over them
        assert lockstep // world_size == own // planned_for
    else:
        assert lockstep == own
    assert pure_lockstep(planned_for, own, planned_for) == own


@pytest.mark.parametrize("tails", ["spill", "pad", "drop", "catch_all"])
def test_another_lockstep_plans_as_if_it_had_been_asked_for(tails):
    locksteps = layouts_of(spec_of(tails=tails))
    for lockstep in (1, 3, 6, 12):
        assert locksteps.may_be(lockstep)
        spec, planner = locksteps.of(lockstep)
        assert spec.lockstep == lockstep
        asked_for = spec_of(tails=tails, lockstep=lockstep)
        fresh = new_planner(asked_for, prepare(asked_for, IMAGES), IMAGES)
        for epoch in (0, 5):
            num = fresh.num_batches(epoch, 1)
            assert planner.num_batches(epoch, 1) == num > 0
            ours, theirs = (each.batches(epoch, np.arange(num), 1) for each in (planner, fresh))
            assert np.array_equal(ours.rows, theirs.rows)
            assert np.array_equal(ours.repeats, theirs.repeats)
            assert np.array_equal(ours.buckets, theirs.buckets)


@pytest.mark.parametrize("tails", ["spill", "pad", "drop", "catch_all"])
def test_ranks_get_the_plans_own_where_no_epoch_has_a_unit_for_them(tails):
    locksteps = layouts_of(spec_of(tails=tails))
    for world_size in (1, 2, 3, 4, 7, 39, 40, 41, 99, 100, 101, 4096):
        lockstep = locksteps.lockstep_for(world_size, 4)
        wanted = pure_lockstep(world_size, 4, 4)
        try:
            prepare(spec_of(tails=tails, lockstep=wanted), IMAGES)
        except Invalid:
            assert not locksteps.may_be(wanted)
            assert lockstep == 4
        else:
            assert lockstep == wanted


def test_units_that_boundaries_were_not_moved_for_spill():
    """Moved for units of 4 batches of 2; whole units of 6 batches would leave whole buckets out for ever."""
    locksteps = layouts_of(spec_of(tails="shift", steps="same_shape"))
    spec, planner = locksteps.of(6)
    assert (locksteps.of(None).spec.tails, spec.tails) == ("shift", "spill")
    seen = set()
    for epoch in range(60):
        seen |= set(planner.batches(epoch, np.arange(planner.num_batches(epoch, 1)), 1).rows.tolist())
    assert len(seen) == len(WIDTHS)
    # units of any shapes have whole batches of each bucket, whatever their number
    balanced = layouts_of(spec_of(tails="shift", steps="balanced"))
    assert balanced.of(6).spec.tails == "shift"


def test_there_is_no_lockstep_over_the_most_that_a_spec_may_have():
    locksteps = layouts_of(spec_of(tails="pad", lockstep=1024))
    assert locksteps.lockstep_for(1536, 1) == 1024
    assert not locksteps.may_be(MAX_LOCKSTEP + 1)


def test_few_are_remembered_and_the_own_one_is_always_there():
    locksteps = layouts_of(spec_of())
    own, third = locksteps.of(None), locksteps.of(3)
    assert own is locksteps.of(4)
    assert locksteps.of(3) is third
    for lockstep in range(5, 5 + NUM_KEPT):
        locksteps.of(lockstep)
    assert locksteps.of(3) is not third
    assert locksteps.of(None) is own


def test_novelai_has_its_own_alone():
    base = ladder_generators.novelai((768, 512), 64, 256, 1024, (512, 512))
    spec = spec_of(
        planner="novelai", tiers=(base,), tails="catch_all", metric="abs", max_ar_error=4.0, lockstep=1
    )
    prepared = prepare(spec, IMAGES)
    locksteps = Locksteps(spec, prepared, IMAGES, new_planner(spec, prepared, IMAGES, np.arange(len(WIDTHS))))
    assert [locksteps.lockstep_for(world_size, 4) for world_size in (1, 3, 8)] == [1, 1, 1]
    assert not locksteps.may_be(3)
