"""The geometry of one image in the client: the service's numbers, and crops that are the same on every machine."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketline import Cursor, Operator, UsageError
from bucketline.geometry import Fit, fit
from bucketline_service.planning.geometry import cover

image_side = st.integers(1, 2**31 - 1)
target_side = st.integers(1, 65_536)
sizes = st.tuples(image_side, image_side), st.tuples(target_side, target_side)


@given(*sizes)
def test_the_centre_crop_is_the_services(original, target):
    cut, theirs = fit(original, target), cover(*original, *target)
    assert (*cut.resize_size, cut.crop_left, cut.crop_top) == theirs[:4]
    assert (cut.original_size, cut.target_size) == (original, target)


def test_the_table_of_cases_that_the_service_shares():
    for case in json.loads((Path(__file__).parents[1] / "geometry_cases.json").read_text()):
        cut = fit(case["size"], case["target_size"])
        assert [list(cut.resize_size), [cut.crop_left, cut.crop_top]] == [
            case["resize_size"],
            case["crop_left_top"],
        ]


def test_it_is_what_the_coordinator_tells_of_an_image(url, run):
    with Operator(url) as operator:
        for id in operator.batches(run, 0, 0, 0, 1)[0].ids[:20]:
            told = operator.image(run, id)
            near = told["nearest"]
            cut = fit((told["width"], told["height"]), (near["width"], near["height"]))
            assert cut.resize_size == (near["resize_width"], near["resize_height"])
            assert (cut.crop_left, cut.crop_top) == (near["crop_left"], near["crop_top"])


def test_batches_bring_it_along_where_the_client_asks(url, run, connect):
    """Through every call, and the same: what is handed out, what is read ahead, and the plan."""
    client = connect(include=["crop", "original_size"])
    handed = [client.next_batch(0) for _ in range(3)]
    assert handed == list(itertools.islice(client.reader(0, holder=client.holder).epoch(Cursor(0, 0)), 3))
    with Operator(url) as operator:
        assert handed == operator.batches(run, 0, 0, 0, 3, include=["original_size", "crop"])
        [plain] = operator.batches(run, 0, 0, 0)
        assert (plain.original_sizes, plain.resize_sizes, plain.crop_left_tops) == (None, None, None)
        told = operator.image(run, handed[0].ids[7])
        assert handed[0].original_sizes[7] == (told["width"], told["height"])
        with pytest.raises(UsageError, match="'original_size' and 'crop'"):
            operator.batches(run, 0, 0, 0, include=["size"])
    for batch in handed:
        cuts = [fit(size, (batch.width, batch.height)) for size in batch.original_sizes]
        assert batch.resize_sizes == [cut.resize_size for cut in cuts]
        assert batch.crop_left_tops == [(cut.crop_left, cut.crop_top) for cut in cuts]
        assert len(cuts) == len(batch.ids)


def test_a_client_may_ask_for_one_of_the_two(connect):
    batch = connect(include=["crop"]).next_batch(0)
    assert batch.original_sizes is None
    assert len(batch.resize_sizes) == len(batch.crop_left_tops) == len(batch.ids)


@given(*sizes, st.integers(0, 2**32 - 1), st.integers(0, 10**6), st.integers() | st.text(max_size=8))
def test_a_random_crop_is_inside_and_scaled_alike(original, target, seed, epoch, id):
    cut, middle = fit(original, target, "random", seed, epoch=epoch, id=id), fit(original, target)
    assert cut.resize_size == middle.resize_size
    left, top, right, bottom = cut.crop_box
    assert 0 <= left <= right <= cut.resize_size[0]
    assert 0 <= top <= bottom <= cut.resize_size[1]
    assert (right - left, bottom - top) == target
    assert cut == fit(original, target, "random", seed, epoch=epoch, id=id)


def test_each_of_seed_epoch_and_id_draws_again():
    def left(seed, epoch, id):
        return fit((4000, 1000), (512, 512), "random", seed, epoch=epoch, id=id).crop_left

    drawn = [left(*each) for each in itertools.product((0, 1, 2), (0, 1, 2), (0, 1, 2, "1", "2"))]
    assert len(set(drawn)) > 40  # of 45, over 1,537 places


def test_every_place_is_drawn_alike():
    counts = [0] * 8
    for id in range(1600):
        counts[fit((519, 512), (512, 512), "random", id=id).crop_left] += 1
    # chi-squared, 7 degrees of freedom: 24.3 is its 0.1 % point, and the draws are always the same
    assert sum((count - 200) ** 2 / 200 for count in counts) < 24.3


def test_a_crop_is_the_same_in_another_process():
    """And therefore on another machine: Python's own hashes, which each process salts, are not used."""
    text = "from bucketline.geometry import fit; print(fit((9, 1), (1, 1), 'random', 7, epoch=3, id='a').crop_left)"
    assert subprocess.run([sys.executable, "-c", text], capture_output=True, check=True).stdout == b"4\n"


def test_the_conditioning_of_sdxl():
    cut = fit((4000, 1000), (704, 512))
    assert cut == Fit((4000, 1000), (2048, 512), (704, 512), 672, 0)
    assert cut.crop_coords_top_left == (0, 672)
    assert cut.time_ids == (1000, 4000, 0, 672, 512, 704)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (((0, 1), (1, 1)), "original_size: width"),
        (((1, 1), (1, 2.5)), "target_size: height"),
        (((1, 2, 3), (1, 1)), "original_size"),
        (((1, 1), "11"), "target_size"),
        (((1, 1), 512), "target_size"),
        (((1, 1), (1, 1), "middle"), "crop"),
        (((1, 1), (1, 1), "random"), "id"),
    ],
)
def test_what_is_wrong_is_named(arguments, field):
    with pytest.raises(UsageError, match=field):
        fit(*arguments)


def test_a_seed_is_a_whole_number():
    with pytest.raises(UsageError, match="seed"):
        fit((1, 1), (1, 1), "random", -1, id=1)
