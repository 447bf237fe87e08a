from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bucketline_service.errors import Invalid
from bucketline_service.planning.buckets import ladder_generators

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("novelai-*.json"))
LADDER_FIELDS = {"max_size", "divisible", "min_dim", "dim_limit", "base_res"}

KOHYA_512 = [
    *[
        (256, 1024),
        (256, 960),
        (256, 896),
        (256, 832),
        (320, 768),
        (320, 704),
        (384, 640),
        (448, 576),
        (512, 512),
    ],
    *[(576, 448), (640, 384), (704, 320), (768, 320), (832, 256), (896, 256), (960, 256), (1024, 256)],
]


def walked_novelai(max_size, divisible, min_dim, dim_limit, base_res):
    """The published generator as a walk, token by token: sizes and recorded aspects in its order."""
    tokens = max_size[0] / 8 * (max_size[1] / 8)
    found = {}

    def fits(width, height):
        return width / 8 * (height / 8) <= tokens

    side = min_dim
    while fits(side, min_dim) and side <= dim_limit:
        other, seen_base = min_dim, False
        while fits(side, other + divisible) and other + divisible <= dim_limit:
            seen_base = seen_base or (side, other) == base_res
            other += divisible
        if seen_base:
            found[base_res] = 1
        found[side, other] = side / other
        side += divisible
    side = min_dim
    while fits(side, min_dim) and side <= dim_limit:
        other = min_dim
        while fits(side, other + divisible) and other + divisible <= dim_limit:
            other += divisible
        found[other, side] = other / side
        side += divisible
    sizes = sorted(found, key=lambda size: size[0] * 4096 - size[1])
    return sizes, [found[size] for size in sizes]


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_novelai_is_the_recorded_ladder(path):
    golden = json.loads(path.read_text())
    made = ladder_generators.novelai(**{k: v for k, v in golden["settings"].items() if k in LADDER_FIELDS})
    assert [list(size) for size in made.sizes] == golden["buckets"]
    assert made.base == tuple(golden["settings"].get("base_res", [512, 512]))


sides = st.integers(1, 40).map(lambda n: n * 32)


@given(
    max_size=st.tuples(sides, sides),
    divisible=st.sampled_from([8, 32, 50, 64, 96]),
    min_dim=sides,
    dim_limit=st.integers(1, 3000),
    base_res=st.tuples(sides, sides),
)
def test_novelai_is_the_walk(max_size, divisible, min_dim, dim_limit, base_res):
    assume(min_dim <= dim_limit and min_dim**2 <= max_size[0] * max_size[1])
    sizes, aspects = walked_novelai(max_size, divisible, min_dim, dim_limit, base_res)
    made = ladder_generators.novelai(max_size, divisible, min_dim, dim_limit, base_res)
    assert made.sizes == sizes
    assert made.aspects.tolist() == aspects


def test_novelai_records_a_base_that_is_not_square_as_square():
    made = ladder_generators.novelai(base_res=(512, 320))
    assert made.aspects[made.sizes.index((512, 320))] == 1


def test_novelai_keeps_an_order_that_is_not_always_by_aspect():
    made = ladder_generators.novelai((768, 768), 64, 320, 1280, (640, 640))
    assert np.any(np.diff(made.aspects) < 0)


def test_kohya_is_the_known_ladder():
    made = ladder_generators.kohya()
    assert made.sizes == KOHYA_512
    assert made.base == (512, 512)
    assert ladder_generators.kohya(512).sizes == KOHYA_512
    assert ladder_generators.kohya([512, 512]).sizes == KOHYA_512


@given(
    resolution=st.tuples(st.integers(64, 2048), st.integers(64, 2048)),
    below=st.integers(0, 1024),
    above=st.integers(0, 1024),
    step=st.sampled_from([8, 32, 64]),
)
def test_kohya_is_the_published_list(resolution, below, above, step):
    low = max(step, (min(resolution) - below) // step * step)
    high = -(-(max(resolution) + above) // step) * step
    area = resolution[0] * resolution[1]
    square = int(area**0.5 // step) * step
    pairs = [(side, min(high, area // side // step * step)) for side in range(low, high + 1, step)]
    expected = {(square, square)} | {p for pair in pairs if pair[1] >= low for p in (pair, pair[::-1])}
    made = ladder_generators.kohya(resolution, low, high, step)
    assert sorted(made.sizes) == sorted(expected)
    assert made.base == (square, square)
    assert np.all(np.diff(made.aspects) >= 0)


def test_kohya_rounds_its_bounds_to_steps_as_the_trainer_does():
    assert (
        ladder_generators.kohya(512, 300, 1000, 64).sizes == ladder_generators.kohya(512, 256, 1024, 64).sizes
    )


def test_explicit_is_ordered_by_aspect_then_area():
    made = ladder_generators.explicit([[1024, 512], [512, 1024], [512, 512], [1024, 1024], [256, 512]])
    assert made.sizes == [(256, 512), (512, 1024), (512, 512), (1024, 1024), (1024, 512)]
    assert made.aspects.tolist() == [0.5, 0.5, 1, 1, 2]
    assert made.base == (1024, 1024)


def test_explicit_takes_the_first_of_equally_square_bases():
    assert ladder_generators.explicit([(640, 320), (320, 640)]).base == (320, 640)


def test_a_ladder_can_not_be_written_to():
    made = ladder_generators.kohya()
    for array in (made.widths, made.heights, made.aspects):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: ladder_generators.novelai(divisible=0), "ladder.divisible"),
        (lambda: ladder_generators.novelai(divisible=64.0), "ladder.divisible"),
        (lambda: ladder_generators.novelai(min_dim=True), "ladder.min_dim"),
        (lambda: ladder_generators.novelai(min_dim=-1), "ladder.min_dim"),
        (lambda: ladder_generators.novelai(max_size=(768,)), "ladder.max_size"),
        (lambda: ladder_generators.novelai(max_size="768x512"), "ladder.max_size"),
        (lambda: ladder_generators.novelai(max_size=None), "ladder.max_size"),
        (lambda: ladder_generators.novelai(max_size=(128, 128)), "ladder.max_size"),
        (lambda: ladder_generators.novelai(base_res=(0, 512)), "ladder.base_res"),
        (lambda: ladder_generators.novelai(dim_limit=65_537), "ladder.dim_limit"),
        (lambda: ladder_generators.novelai(dim_limit=255), "ladder.dim_limit"),
        (lambda: ladder_generators.novelai((65_536, 65_536), 1, 1, 65_536), "ladder.divisible"),
        (lambda: ladder_generators.kohya(0), "ladder.resolution"),
        (lambda: ladder_generators.kohya((512, 512, 512)), "ladder.resolution"),
        (lambda: ladder_generators.kohya(1280), "ladder.resolution"),
        (lambda: ladder_generators.kohya(128), "ladder.resolution"),
        (lambda: ladder_generators.kohya(min_bucket_reso=63), "ladder.min_bucket_reso"),
        (lambda: ladder_generators.kohya(max_bucket_reso=0), "ladder.max_bucket_reso"),
        (lambda: ladder_generators.kohya(bucket_reso_steps=0), "ladder.bucket_reso_steps"),
        (lambda: ladder_generators.kohya(8192, 1, 65_536, 1), "ladder.bucket_reso_steps"),
        (lambda: ladder_generators.explicit([]), "ladder.sizes"),
        (lambda: ladder_generators.explicit(512), "ladder.sizes"),
        (lambda: ladder_generators.explicit([(512, 512), (512,)]), "ladder.sizes[1]"),
        (lambda: ladder_generators.explicit([(512, 512), (640, 512), (512, 512)]), "ladder.sizes[2]"),
        (lambda: ladder_generators.explicit([(512, 65_537)]), "ladder.sizes[0]"),
        (lambda: ladder_generators.explicit((w, 1) for w in range(1, 5000)), "ladder.sizes"),
    ],
)
def test_what_can_not_be_used_is_named(make, field):
    with pytest.raises(Invalid) as caught:
        make()
    assert caught.value.field == field
    assert "Use" in str(caught.value) or "Give" in str(caught.value)
