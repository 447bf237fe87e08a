"""What batches cost: by pixels, by the work of a transformer, by what a training has measured; and batch sizes of a
budget of it."""

from __future__ import annotations

import math
import random
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.optimize import nnls

from bucketline_service.errors import Invalid
from bucketline_service.planning.batch_cost import MeasuredCost, Shapes, Timing, TransformerCost
from bucketline_service.planning.buckets.preset_ladders import PRESETS
from bucketline_service.planning.build_plan import prepare
from bucketline_service.planning.images import Images
from bucketline_service.plans.fingerprint import fingerprint
from bucketline_service.spec.batch_cost import COSTS
from bucketline_service.spec.batch_sizes import MAX_BATCH_SIZE
from bucketline_service.spec.run_spec import PlanFields

SIZES = [[512, 512], [256, 1000], [1024, 768], [100, 300], [2048, 64]]


def plan_of(sizes=SIZES, **fields):
    given = {"world_size": 2, "ladder": {"kind": "explicit", "sizes": sizes}, **fields}
    given.setdefault("batch_size", None if "max_cost_per_batch" in given else 4)
    return PlanFields.model_validate(given).resolved().plan_spec()


def measured(*rows):
    names = ("width", "height", "num_frames", "batch_size", "seconds")
    return {"kind": "measured", "seconds": [dict(zip(names, row, strict=True)) for row in rows]}


def costs_of(plan):
    """By (width, height, frames)."""
    shapes = zip(plan.targets, plan.target_frames.tolist(), strict=True)
    return {(*size, frames): cost for (size, frames), cost in zip(shapes, plan.costs.tolist(), strict=True)}


# --- pixels and transformers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame_buckets", [None, [1, 17]])
@pytest.mark.parametrize("sizes", [{"batch_size": 3}, {"max_pixels_per_batch": 2**25, "batch_size": None}])
def test_unless_said_a_batch_costs_its_pixels(frame_buckets, sizes):
    plan = plan_of(frame_buckets=frame_buckets, **sizes)
    assert plan.costs.dtype == np.float64
    assert plan.costs.tolist() == plan.pixels.tolist()
    assert plan.cost == plan_of(frame_buckets=frame_buckets, cost={"kind": "pixels"}, **sizes).cost


@given(
    st.integers(1, 8192), st.integers(1, 64), st.integers(1, 9), st.integers(1, 99), st.sampled_from([1, 33])
)
def test_a_transformer_s_cost_is_linear_and_quadratic_in_tokens(hidden, stride, frame_stride, num, frames):
    cost = {"kind": "transformer", "hidden_size": hidden, "stride": stride, "frame_stride": frame_stride}
    for (width, height, _), found in costs_of(
        plan_of(cost=cost, batch_size=num, frame_buckets=[frames])
    ).items():
        tokens = len(range(0, width, stride)) * len(range(0, height, stride))
        tokens *= len(range(0, frames, frame_stride))
        expected = num * (tokens + Fraction(tokens**2, 6 * hidden))
        assert math.isclose(found, expected, rel_tol=1e-14)


def test_a_token_is_16_pixels_wide_and_a_frame_long_unless_said():
    short = plan_of(cost={"kind": "transformer", "hidden_size": 64}, frame_buckets=[5])
    long = {"kind": "transformer", "hidden_size": 64, "stride": 16, "frame_stride": 1}
    assert short.costs.tolist() == plan_of(cost=long, frame_buckets=[5]).costs.tolist()


def test_attention_makes_the_long_side_dear():
    """At equal pixels a batch of few large images costs more than one of many small ones."""
    shapes = Shapes(np.array([1024, 512]), np.array([1024, 512]), np.array([1, 1]))
    large, small = TransformerCost(1152).of(shapes, np.array([2, 8]))
    assert large > 1.3 * small


# --- measured: the fit ------------------------------------------------------------------------------------------------

sides = st.integers(4, 32).map(lambda side: side * 64)
timings = st.lists(
    st.tuples(sides, sides, st.sampled_from([1, 17]), st.integers(1, 64), st.floats(1e-3, 1e3)),
    min_size=1,
    max_size=20,
    unique_by=lambda row: row[:4],
)


def relative_errors(found, rows):
    """[rows] of the fitted costs, ``found`` (linear, quadratic)."""
    tokens = np.array([width * height * frames / 256 for width, height, frames, _, _ in rows])
    sizes, seconds = np.array([row[3:] for row in rows]).T
    return sizes * (tokens * found[0] + tokens**2 * found[1]) / seconds - 1, tokens, sizes, seconds


@given(timings)
@example([(512, 512, 1, 4, 1.0), (1024, 1024, 1, 4, 2.0)])  # falls short of linear: no quadratic part
@example([(512, 512, 1, 4, 1.0), (1024, 1024, 1, 4, 64.0)])  # more than quadratic: no linear part
@example([(512, 512, 1, 4, 1.0), (1024, 1024, 1, 4, 8.0)])
@example([(512, 512, 1, 4, 1.0)])
@example([(512, 512, 1, 4, 1.0), (1024, 256, 1, 8, 3.0)])
def test_the_fit_is_the_nonnegative_least_squares_of_relative_errors(rows):
    fit = MeasuredCost(tuple(sorted(Timing(*row) for row in rows))).fit
    assert min(fit) >= 0
    assert max(fit) > 0
    errors, tokens, sizes, seconds = relative_errors(fit, rows)
    design = np.stack([sizes * tokens, sizes * tokens**2], axis=1) / seconds[:, None]
    scale = np.linalg.norm(design, axis=0)  # columns of one length, so that the reference is exact enough
    _, best = nnls(design / scale, np.ones(len(rows)))
    assert np.linalg.norm(errors) <= best + 1e-6
    if len(set(tokens)) == 1:
        assert fit.quadratic == 0


@given(
    st.floats(1e-7, 1e-3),
    st.floats(1e-11, 1e-7),
    st.lists(st.tuples(sides, sides, st.integers(1, 9)), min_size=2, max_size=9),
)
@example(1e-5, 1e-9, [(1024, 1024, 1), (1024, 1088, 1)])
def test_what_is_exactly_of_the_form_is_found_again(linear, quadratic, shapes):
    """Also from shapes whose numbers of tokens hardly differ."""
    tokens = {width * height * frames / 256 for width, height, frames in shapes}
    assume(len(tokens) > 1)
    rows = {
        Timing(width, height, frames, 4, 4 * (linear * s + quadratic * s**2))
        for width, height, frames in shapes
        for s in [width * height * frames / 256]
    }
    fit = MeasuredCost(tuple(sorted(rows))).fit
    for s in tokens:
        assert math.isclose(
            linear * s + quadratic * s**2, fit.linear * s + fit.quadratic * s**2, rel_tol=1e-9
        )
    assert math.isclose(fit.quadratic, quadratic, rel_tol=1e-3)


def test_the_fit_has_the_same_bits_everywhere():
    """Two replicas that differ in the last digit would deal other batches: so no library's sum may decide it."""
    draw = random.Random(5)
    rows = [
        Timing(w, h, 1, 8, w * h * (w * h + 2**20) * draw.randrange(1000, 1010) / 1e15)
        for w, h in sorted(PRESETS["sdxl"])
    ]
    plan = plan_of([[1024, 960], [512, 512], [*rows[0][:2]]], cost=measured(*rows), batch_size=7)
    assert [value.hex() for value in MeasuredCost(tuple(rows)).fit] == [
        "0x1.19e2e0946e99ep-15",
        "0x1.1b44a31f81350p-27",
    ]
    assert [cost.hex() for cost in plan.costs.tolist()] == [
        "0x1.ad4e516d3c398p+0",
        "0x1.349d8830c50a4p-2",
        "0x1.c0b4b4dff9bd6p+0",
    ]


# --- measured: what was timed -----------------------------------------------------------------------------------------


def test_a_batch_that_was_timed_costs_what_it_took():
    rows = [(512, 512, 1, 4, 0.3), (1024, 768, 1, 4, 1.7), (512, 512, 1, 8, 0.5), (512, 512, 9, 4, 3.0)]
    found = costs_of(plan_of(cost=measured(*rows)))
    assert (found[512, 512, 1], found[1024, 768, 1]) == (0.3, 1.7)
    assert costs_of(plan_of(cost=measured(*rows), batch_size=8))[512, 512, 1] == 0.5
    assert costs_of(plan_of(cost=measured(*rows), frame_buckets=[9]))[512, 512, 9] == 3.0


def test_other_batch_sizes_of_a_shape_scale_from_it():
    cost = measured(
        (512, 512, 1, 4, 1.0), (512, 512, 1, 8, 1.5), (512, 512, 1, 16, 4.0), (1024, 768, 1, 4, 9.0)
    )
    found = {
        num: costs_of(plan_of(cost=cost, batch_size=num))[512, 512, 1] for num in (1, 2, 4, 6, 8, 10, 16, 32)
    }
    assert found == {1: 0.25, 2: 0.5, 4: 1.0, 6: 1.25, 8: 1.5, 10: 2.125, 16: 4.0, 32: 8.0}


def test_a_batch_costs_no_less_than_a_smaller_one_that_took_longer():
    cost = measured((512, 512, 1, 4, 1.0), (512, 512, 1, 8, 0.75), (512, 512, 1, 16, 2.0))
    found = [costs_of(plan_of(cost=cost, batch_size=num))[512, 512, 1] for num in (4, 6, 8, 12, 16)]
    assert found == [1.0, 1.0, 1.0, 1.5, 2.0]


def test_what_was_not_timed_has_the_fitted_cost():
    rows = [(512, 512, 1, 4, 1.0), (1024, 1024, 1, 2, 3.0)]
    fit = MeasuredCost(tuple(Timing(*row) for row in rows)).fit
    tokens = 256 * 1000 / 256
    found = costs_of(plan_of(cost=measured(*rows), batch_size=5))[256, 1000, 1]
    assert math.isclose(found, 5 * (fit.linear * tokens + fit.quadratic * tokens**2), rel_tol=1e-12)


@given(timings, st.data())
def test_costs_are_positive_and_rise_with_the_batch(rows, data):
    cost = MeasuredCost(tuple(sorted(Timing(*row) for row in rows)))
    width, height, frames = data.draw(st.sampled_from([row[:3] for row in rows] + [(640, 448, 1)]))
    sizes = np.arange(1, 200)
    of = Shapes(*(np.full(len(sizes), side) for side in (width, height, frames)))
    found = cost.of(of, sizes)
    assert (found > 0).all()
    assert (np.diff(found) >= 0).all()
    # the cost of one batch depends on no other that is asked for
    one = data.draw(st.integers(0, len(sizes) - 1))
    assert cost.of(Shapes(*(side[one : one + 1] for side in of)), sizes[one : one + 1]).tolist() == [
        found[one]
    ]


@given(timings, st.randoms(use_true_random=False))
def test_the_order_of_the_timings_is_no_part_of_the_plan(rows, shuffler):
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    one, other = plan_of(cost=measured(*rows)), plan_of(cost=measured(*shuffled))
    assert one.costs.tolist() == other.costs.tolist()
    assert fingerprint(one, ["m"], [None]) == fingerprint(other, ["m"], [None])


# --- the budget -------------------------------------------------------------------------------------------------------

COST_OF = {
    "pixels": {"kind": "pixels"},
    "transformer": {"kind": "transformer", "hidden_size": 64},
    "measured": measured(
        (512, 512, 1, 4, 1.0), (512, 512, 1, 9, 1.5), (512, 512, 1, 7, 2.0), (1024, 768, 1, 4, 9.5)
    ),
}


def cost_at(kind, size, num):
    """The cost of ``num`` images of (width, height), of a plan with this fixed batch size."""
    return costs_of(plan_of([size], cost=COST_OF[kind], batch_size=num))[*size, 1]


def test_each_kind_is_tried():
    assert set(COST_OF) == set(COSTS)


@given(
    st.sampled_from(list(COST_OF)),
    st.floats(0.2, 80),
    st.integers(1, 5),
    st.one_of(st.just(MAX_BATCH_SIZE), st.integers(5, 40)),
    st.integers(1, 5),
)
@example("measured", 1.0, 1, 9, 1)  # a batch that costs exactly the limit
@example("measured", 2.0, 1, MAX_BATCH_SIZE, 1)
def test_as_many_as_cost_no_more(kind, times, least, most, multiple):
    limit = cost_at(kind, [512, 512], 4) * times
    smallest = -(-least // multiple) * multiple
    assume(smallest <= most)

    def sizes(limit):
        bounds = {"min_batch_size": least, "max_batch_size": most, "batch_size_multiple": multiple}
        return plan_of(cost=COST_OF[kind], max_cost_per_batch=limit, **bounds)

    if any(cost_at(kind, size, smallest) > limit for size in SIZES):
        with pytest.raises(Invalid, match="is too small for the") as caught:
            sizes(limit)
        assert caught.value.field == "max_cost_per_batch"
        # what it says would do does, and nothing less
        enough = float(re.search(r"Use at least ([\d.,e+-]+\d)", str(caught.value)).group(1).replace(",", ""))
        sizes(enough)
        with pytest.raises(Invalid, match="is too small for"):
            sizes(math.nextafter(enough, 0))
        return
    plan = sizes(limit)
    assert (plan.costs <= limit).all()
    for size, num in zip(plan.targets, plan.batch_sizes.tolist(), strict=True):
        assert num % multiple == 0
        assert least <= num <= most
        assert num + multiple > most or cost_at(kind, [*size], num + multiple) > limit


def test_a_budget_of_pixels_is_one_of_cost_by_pixels():
    one = plan_of(max_cost_per_batch=2**23, max_batch_size=30, frame_buckets=[1, 5])
    other = plan_of(
        max_cost_per_batch=None,
        batch_size=None,
        max_pixels_per_batch=2**23,
        max_batch_size=30,
        frame_buckets=[1, 5],
    )
    assert one.batch_sizes.tolist() == other.batch_sizes.tolist()
    assert fingerprint(one, ["m"], [None]) == fingerprint(other, ["m"], [None])


def test_a_budget_of_cost_that_is_too_large_is_told_in_its_own_numbers():
    squares = Images.of(np.full(100, 600, np.uint32), np.full(100, 600, np.uint32))
    fields = {"world_size": 4, "cost": measured((512, 512, 1, 4, 0.5)), "lockstep": 4}
    given = {"max_cost_per_batch": 900.0, **fields}
    with pytest.raises(Invalid, match="It may be at most") as caught:
        prepare(PlanFields.model_validate(given).resolved().plan_spec(), squares)
    assert caught.value.field == "max_cost_per_batch"
    most = float(re.search(r"at most ([\d.,]+\d)", str(caught.value))[1].replace(",", ""))
    prepare(PlanFields.model_validate({**given, "max_cost_per_batch": most}).resolved().plan_spec(), squares)
    more = (
        PlanFields.model_validate({**given, "max_cost_per_batch": most + 900 * 1e-6}).resolved().plan_spec()
    )
    with pytest.raises(Invalid, match="an epoch has only"):
        prepare(more, squares)


# --- fingerprints -----------------------------------------------------------------------------------------------------


def test_costs_are_part_of_the_fingerprint_unless_they_are_pixels():
    """That of pixels is the one of before there was a choice: see tests/spec/test_same_aspect.py for a recorded one."""
    found = {
        fingerprint(plan_of(cost=cost), ["m"], [None])
        for cost in (
            COST_OF["transformer"],
            {"kind": "transformer", "hidden_size": 65},
            {"kind": "transformer", "hidden_size": 64, "stride": 8},
            {"kind": "transformer", "hidden_size": 64, "frame_stride": 4},
            measured((512, 512, 1, 4, 1.0)),
            measured((512, 512, 1, 4, 2.0)),
        )
    }
    assert len(found) == 6
    plain = fingerprint(plan_of(), ["m"], [None])
    assert plain not in found
    assert {part.split("-")[4] for part in found}.isdisjoint({plain.split("-")[4]})
    assert {part.split("-")[3] for part in found} == {plain.split("-")[3]}
