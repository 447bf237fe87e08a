"""A plan with epochs that may have no batch is refused, and the suggested remedy works."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bucketline_service.errors import Invalid
from bucketline_service.planning.buckets import ladder_generators as ladders
from bucketline_service.planning.build_plan import check_world_size, new_planner, prepare
from bucketline_service.planning.images import Images, Part
from bucketline_service.planning.line.classify import Classification
from bucketline_service.planning.line.sample_quotas import SampleQuotas
from bucketline_service.planning.line.units import least_units
from bucketline_service.planning.plan_spec import Budget, FrameBucket, MapShare, PlanSpec

LOW = ladders.explicit([(256, 512), (256, 256), (512, 256)])
HIGH = ladders.explicit([(512, 1024), (512, 512), (1024, 512)])
SIZES = [(600, 1200), (600, 600), (1200, 600), (300, 600), (300, 300), (600, 300)]


def spec(tails="spill", batch_size=1, lockstep=1, times=1.0, keep=(1.0, 1.0), seed=42, **more):
    frames = (FrameBucket(1, keep),)
    shares = (MapShare(times),)
    return PlanSpec(
        "line", (LOW, HIGH), batch_size, seed, lockstep, tails, frame_buckets=frames, maps=shares, **more
    )


def images(counts):
    """So many of each of ``SIZES``."""
    table = np.repeat(np.array(SIZES, dtype=np.uint32), counts, axis=0)
    return Images.of(table[:, 0].copy(), table[:, 1].copy())


def portions_of(spec, images):
    classification = Classification(spec, images)
    classification.run()
    keys = classification.keys()
    groups = classification.classifier.groups(keys, classification.counts(keys))
    return SampleQuotas.of(classification.classifier, groups, spec.num_buckets)


def refusal(spec, images):
    try:
        prepare(spec, images)
    except Invalid as error:
        return error
    return None


batch_sizes = st.one_of(
    st.integers(1, 6), st.integers(18, 22).map(lambda log: Budget("max_pixels_per_batch", 2**log * 3, most=8))
)


@given(
    st.lists(st.integers(0, 5), min_size=6, max_size=6).filter(any),
    st.sampled_from(["spill", "pad", "drop"]),
    batch_sizes,
    st.integers(1, 3),
    st.sampled_from([0.2, 0.5, 1.0, 1.5]),
    st.sampled_from([(1.0, 1.0), (1.0, 0.5), (0.5, 0.3)]),
)
@example([0, 3, 0, 0, 0, 0], "spill", 3, 1, 1.0, (1.0, 1 / 6))
def test_no_epoch_of_a_plan_that_is_taken_is_empty(counts, tails, batch_size, lockstep, times, keep):
    of = images(counts)
    one = spec(tails, batch_size, lockstep, times, keep)
    refused = refusal(one, of)
    if refused:
        # what it says would do does
        assert refused.field in (
            "batch_size",
            "max_pixels_per_batch",
            "tails",
            "num_repeats",
            "frame_buckets",
        )
        if re.search("tails: (spill or )?pad", str(refused)):
            prepare(replace(one, tails="pad"), of)
        if "Use tails: spill" in str(refused):
            prepare(replace(one, tails="spill"), of)
        if limit := re.search(r"It may be at most ([\d,]+)", str(refused)):
            budget = batch_size._replace(limit=int(limit[1].replace(",", "")))
            prepare(replace(one, batch_size=budget), of)
        elif most := re.search(r"at most (\d+)", str(refused)):
            prepare(replace(one, batch_size=int(most[1]), lockstep=1), of)
            prepare(replace(one, batch_size=1, lockstep=int(most[1])), of)
        if refused.field == "frame_buckets":
            assert refusal(replace(one, frame_buckets=(FrameBucket(1, (1.0, 1.0)),), tails="pad"), of) is None
        elif refused.field == "num_repeats":
            quotas = portions_of(one, of)
            assert np.bincount(quotas.groups, quotas.samples).max() < 1
        return
    planner = new_planner(one, prepare(one, of), of)
    least = planner.least_batches(1)
    assert 0 < least <= min(planner.num_batches(epoch, 1) for epoch in range(40))
    check_world_size(planner, least)
    with pytest.raises(Invalid, match=f"at most {least}") as caught:
        check_world_size(planner, least + 1)
    assert caught.value.field == "world_size"


@given(
    st.lists(st.integers(0, 5), min_size=6, max_size=6).filter(any),
    st.sampled_from(["shift", "spill", "pad", "drop"]),
    batch_sizes,
    st.integers(1, 12),
    st.sampled_from([1.0, 1.5]),
    st.sampled_from(["drop", "fill"]),
)
def test_what_is_said_to_do_for_balanced_steps_does(counts, tails, batch_size, lockstep, times, last_step):
    of = images(counts)
    one = spec(tails, batch_size, lockstep, times, steps="balanced", last_step=last_step)
    refused = refusal(one, of)
    if not refused:
        planner = new_planner(one, prepare(one, of), of)
        assert lockstep <= planner.least_batches(1) <= planner.num_batches(3, 1)
        return
    assert refused.field in ("batch_size", "max_pixels_per_batch")
    if most := re.search(r"It may be at most ([\d,]+)", str(refused)):
        limit = int(most[1].replace(",", ""))
        smaller = limit if isinstance(batch_size, int) else batch_size._replace(limit=limit)
        prepare(replace(one, batch_size=smaller), of)
    told = dict(re.findall(r"(tails|last_step): (pad|fill)", str(refused)))
    if told:
        prepare(replace(one, **told), of)
    else:
        raise AssertionError(f"{refused} does not say what would do")


@given(
    st.lists(st.integers(0, 5), min_size=6, max_size=6).filter(any),
    st.integers(1, 8),
    st.sampled_from(["spill", "drop"]),
)
def test_where_all_numbers_are_whole_none_is_refused_that_has_a_unit(counts, batch_size, tails):
    of = images(counts)
    one = spec(tails, batch_size)
    has_units = least_units(one, portions_of(one, of)) > 0
    sections = [counts[:3], counts[3:]]
    expected = any(
        max(each) >= batch_size if tails == "drop" else sum(each) >= batch_size for each in sections
    )
    assert has_units == expected
    assert (refusal(one, of) is None) == expected


def test_images_that_hardly_ever_come_are_no_plan():
    with pytest.raises(Invalid, match="may have none") as caught:
        prepare(spec("pad", times=0.3), images([0, 2, 0, 0, 0, 0]))
    assert caught.value.field == "num_repeats"


def test_a_budget_is_named_by_its_own_name():
    of = Images([Part(np.full(2, 600, np.uint32), np.full(2, 600, np.uint32))])
    with pytest.raises(Invalid, match="batch sizes from 4 up = 4 images, but only 2 are assigned") as caught:
        prepare(spec(batch_size=Budget("max_tokens_per_batch", 8192, 16, most=16)), of)
    assert caught.value.field == "max_tokens_per_batch"


@pytest.mark.parametrize("seed", range(16, 25))
def test_a_budget_that_is_said_to_do_does_whichever_images_it_moves(seed):
    """With other batch sizes images are moved otherwise, also to buckets of larger batches: then there are fewer."""
    rng = np.random.default_rng(seed)
    sides = np.exp(rng.normal(0, 0.5, (2, 60))) * 600
    of = Images.of(*sides.astype(np.uint32))
    ladder = ladders.explicit([(128, 320), (256, 512), (512, 512), (512, 256), (384, 128)]).by_aspect()
    budget = Budget("max_pixels_per_batch", 2**22, most=64)
    one = PlanSpec("line", (ladder,), budget, 42, 8, "shift", steps="balanced")
    with pytest.raises(Invalid, match="It may be at most") as caught:
        prepare(one, of)
    limit = int(re.search(r"at most ([\d,]+)", str(caught.value))[1].replace(",", ""))
    prepare(replace(one, batch_size=budget._replace(limit=limit)), of)
