"""Sizes that no image reaches, beside a look at every image and every size."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bucketline_service.planning import chunked_passes
from bucketline_service.planning.images import Images, Part
from bucketline_service.planning.unreached_sizes import unreached_sizes
from bucketline_service.spec.run_spec import RunSpec

SPEC = {"map": "a", "world_size": 1, "batch_size": 1}
LADDERS = [
    {"kind": "novelai"},
    {"kind": "explicit", "sizes": [[64, 64], [128, 128], [128, 64], [64, 256], [512, 64]]},
    {"kind": "tiers", "resolution": [128, 256]},
    {"kind": "preset", "name": "sd15"},
]
sides = st.integers(1, 1100)
frames = st.integers(1, 40)


def plan(**fields):
    return RunSpec.model_validate({**SPEC, **fields}).resolved().plan_spec()


def images_of(rows):
    widths, heights, lengths = np.array(rows, np.uint32).T
    return Images([Part(widths, heights, num_frames=lengths)])


@given(
    ladder=st.sampled_from(LADDERS),
    lengths=st.sampled_from([None, [1], [1, 17], [9, 33]]),
    rows=st.lists(st.tuples(sides, sides, frames), min_size=1, max_size=30),
    chunk=st.integers(1, 7),
    data=st.data(),
)
def test_they_are_those_that_every_image_would_be_scaled_up_to(ladder, lengths, rows, chunk, data):
    spec = plan(ladder=ladder, frame_buckets=lengths)
    sizes = list(zip(spec.targets, spec.target_frames.tolist(), strict=True))
    is_reached = [
        any(
            w >= width and h >= height and (lengths is None or f == num_frames or f > num_frames > 1)
            for w, h, f in rows
        )
        for (width, height), num_frames in sizes
    ]
    flags = st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes))
    is_occupied = data.draw(flags)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked_passes, "CHUNK", chunk)
        found = unreached_sizes(spec, images_of(rows), is_occupied)
        every = unreached_sizes(spec, images_of(rows), is_occupied, with_unsought=True)
    assert every == [target for target, reached in enumerate(is_reached) if not reached]
    assert set(found) <= set(every)
    assert {target for target in every if is_occupied[target]} <= set(found)
    # the empty ones are the nearest of their tier to an aspect that has images
    for section in spec.sections:
        here = range(section.first, section.first + len(section.ladder))
        having = [
            math.log(width / height)
            for ((width, height), num_frames), occupied in zip(sizes, is_occupied, strict=True)
            if occupied and num_frames == section.num_frames
        ]
        for target in here:
            if is_occupied[target] or is_reached[target]:
                continue
            own = distance_to(sizes[target], having)
            others = [distance_to(sizes[other], having) for other in here]
            nearest = [min(column) for column in zip(*others, strict=True)]
            sought = any(mine <= least for mine, least in zip(own, nearest, strict=True)) or not having
            assert (target in found) == sought


def distance_to(size, aspects):
    """Rounded: bounds between two sizes are halfway to the last digit."""
    (width, height), _ = size
    return [round(abs(math.log(width / height) - aspect), 9) for aspect in aspects]


def test_a_pixel_less_does_not_reach():
    spec = plan(ladder={"kind": "explicit", "sizes": [[512, 512]]})
    for size, found in (((512, 512), []), ((511, 9999), [0]), ((9999, 511), [0])):
        assert unreached_sizes(spec, images_of([(*size, 1)]), [True]) == found


def test_a_long_clip_reaches_shorter_lengths():
    spec = plan(ladder={"kind": "explicit", "sizes": [[512, 512]]}, frame_buckets=[9, 17, 33])
    assert unreached_sizes(spec, images_of([(512, 512, 20)]), [True] * 3) == [2]


def test_a_clip_is_no_still_image():
    spec = plan(ladder={"kind": "explicit", "sizes": [[512, 512]]}, frame_buckets=[1, 17])
    for num_frames, found in ((1, [1]), (16, [0, 1]), (17, [0])):
        assert unreached_sizes(spec, images_of([(512, 512, num_frames)]), [True, True]) == found
    # where all images are still images, their lengths do not matter
    spec = plan(ladder={"kind": "explicit", "sizes": [[512, 512]]})
    assert unreached_sizes(spec, images_of([(512, 512, 40)]), [True]) == []


def test_two_images_do_not_reach_it_together():
    spec = plan(ladder={"kind": "explicit", "sizes": [[512, 512]]})
    assert unreached_sizes(spec, images_of([(600, 400, 1), (400, 600, 1)]), [True]) == [0]


def test_an_aspect_that_no_image_has_is_no_surprise():
    spec = plan(ladder={"kind": "explicit", "sizes": [[512, 512], [1024, 1024], [4096, 512]]})
    occupied = [size == (512, 512) for size in spec.targets]
    found = unreached_sizes(spec, images_of([(600, 600, 1)]), occupied)
    assert [spec.targets[target] for target in found] == [(1024, 1024)]
