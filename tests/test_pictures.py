"""The pictures of docs/ are there and described, and the numbers that they draw hold."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from docs.pictures import example, quality, urn

from bucketline_service.planning.line.permutation import SMALL
from bucketline_service.planning.line.remainders import POLICIES

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "concepts" / "mathematics.md").read_text()
WORDS = re.sub(r"\s+", " ", TEXT)
MIDDLE = int(np.argmax(example.COUNTS))


def pictures_in(text: str) -> dict[str, str]:
    """Of each picture that a text shows, its file and its alt text."""
    return {file: alt for alt, file in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", text)}


def test_every_picture_is_there_is_shown_and_is_described() -> None:
    pages = [path.read_text() for path in (ROOT / "docs").rglob("*.md")]
    shown = {Path(file).name: alt for text in pages for file, alt in pictures_in(text).items()}
    drawn = {file.name for kind in ("svg", "png") for file in (ROOT / "docs" / "pictures").glob(f"*.{kind}")}
    assert shown.keys() == drawn
    assert {Path(file).name for file in pictures_in(TEXT)} < drawn
    assert all(len(alt) > 80 for alt in shown.values())


def test_a_picture_without_a_description_would_be_noticed() -> None:
    assert pictures_in("see ![](pictures/a.svg) and [a link](b.md)") == {"pictures/a.svg": ""}


OF_UNITS = [policy for policy in POLICIES if policy != "shift"]


@pytest.mark.exhaustive
def test_what_computes_the_pictures_needs_no_matplotlib() -> None:
    program = (
        "import sys; from docs.pictures import example, quality, urn; sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("file", sorted((ROOT / "docs" / "pictures").glob("*.svg")), ids=lambda f: f.stem)
def test_a_picture_says_nothing_of_when_it_was_drawn(file: Path) -> None:
    assert not re.search(r"<dc:date>|<dc:creator>", file.read_text())


@pytest.mark.parametrize("policy", OF_UNITS)
def test_an_epoch_serves_the_tape_but_for_what_is_left_out(policy: str) -> None:
    epoch = example.epoch_of(policy)
    layout, first = epoch.layout, ~epoch.repeats
    assert len(np.unique(epoch.places[first])) == first.sum()
    assert first.sum() + len(epoch.left_out()) == example.COUNTS.sum()
    assert len(epoch.left_out()) == layout.left_out.sum()
    assert epoch.repeats.sum() == layout.repeated.sum()
    for target, num_units in enumerate(epoch.num_units.tolist()):
        assert [len(epoch.unit(target, unit)) for unit in range(num_units)] == [example.UNIT] * num_units
    assert len(epoch.places) == epoch.num_units.sum() * example.UNIT


@pytest.mark.parametrize("policy", OF_UNITS)
def test_the_flows_sum_to_buckets_and_to_stretches(policy: str) -> None:
    layout = example.plan(policy).layout
    buckets, targets, images = np.array(layout.flows()).T
    assert np.array_equal(np.bincount(buckets, images), example.COUNTS)
    assert np.array_equal(np.bincount(targets, images, len(layout.lengths)), layout.lengths)


@pytest.mark.parametrize("policy", OF_UNITS)
def test_the_text_says_what_the_picture_of_the_tails_shows(policy: str) -> None:
    epoch = example.epoch_of(policy)
    layout = epoch.layout
    moved = sum(images for _, _, images in example.moved(layout))
    cells = (epoch.num_units.sum(), layout.left_out.sum(), layout.repeated.sum(), moved)
    assert f"| `{policy}` | {' | '.join(map(str, cells))} |" in TEXT


def test_what_is_carried_makes_the_stretches_of_spill() -> None:
    layout = example.plan("spill").layout
    lengths = example.COUNTS.copy()
    for start, end, images in example.carried():
        assert images < example.UNIT
        assert abs(end - MIDDLE) < abs(start - MIDDLE)
        lengths[start] -= images
        lengths[end] += images
    assert np.array_equal(lengths, layout.lengths)


def test_what_spills_begins_the_neighbours_first_unit_from_outside() -> None:
    epoch = example.epoch_of("spill")
    for target in (set(range(len(example.COUNTS))) - {MIDDLE}) & set(epoch.targets.tolist()):
        strangers = np.flatnonzero((epoch.targets == target) & (epoch.buckets != target))
        outermost = 0 if target < MIDDLE else epoch.num_units[target] - 1
        assert set(epoch.units[strangers].tolist()) <= {outermost}
        own = epoch.buckets[epoch.unit(target, int(outermost))] == target
        assert np.array_equal(own, np.sort(own) if target < MIDDLE else np.sort(own)[::-1])


def test_each_step_has_one_shape_with_lockstep_and_not_without() -> None:
    assert np.ptp(example.dealt(0), axis=0).max() == 0
    assert example.mixed_steps(0, example.WORLD_SIZE) == 0
    assert example.mixed_steps(0, 1) == example.dealt(0, 1).shape[1] == 18


def test_two_epochs_have_the_same_units_in_another_order() -> None:
    first, second = example.stream(0), example.stream(1)
    assert np.array_equal(np.bincount(first), np.bincount(second))
    assert not np.array_equal(first, second)
    assert np.array_equal(first, example.dealt(0).T.ravel())


@pytest.mark.exhaustive
@pytest.mark.parametrize("compared", [urn.positions_of_the_small_bucket, urn.sequences_of_the_short_urn])
def test_the_urn_and_the_planner_are_of_one_law_and_another_is_not(compared) -> None:
    found = compared()
    assert found.urn.sum() == found.planner.sum() == found.other.sum() == urn.EPOCHS
    assert found.num_free == len(found.urn) - 1
    assert found.p > 1e-3
    assert found.p_of_other < 1e-9
    assert found.numbers() in WORDS


@pytest.mark.exhaustive
@pytest.mark.parametrize(("n", "rounds", "shuffled"), [(6, 8, True), (10, 6, False), (17, 8, False)])
def test_the_record_of_the_rounds_can_be_measured_again(n: int, rounds: int, shuffled: bool) -> None:
    again = quality.measured(n, rounds, quality.PAIRS, shuffled=shuffled)
    keys = ["n", "rounds", "shuffled", "pairs"]
    (row,) = [row for row in quality.recorded() if all(row[key] == again[key] for key in keys)]
    assert again.pop("smallest") == pytest.approx(row.pop("smallest"), rel=0.02)
    assert again == row


@pytest.mark.parametrize("pairs", [quality.PAIRS, quality.MANY_PAIRS])
def test_nothing_was_seen_of_eight_rounds_where_they_are_used(pairs: int) -> None:
    seen = dict(zip(*quality.series(8, pairs), strict=True))
    assert min(p for n, p in seen.items() if n > SMALL) > 1e-3
    assert {4**k + 1 for k in range(5, 9)} <= seen.keys()


def test_the_tables_of_the_text_are_the_record() -> None:
    assert "\n".join(quality.fewer_rounds()) in TEXT
    assert "\n".join(quality.eight_rounds()) in TEXT


@pytest.mark.exhaustive
@pytest.mark.parametrize("shuffled", [False, True])
def test_the_text_says_how_biased_the_smallest_network_is(shuffled: bool) -> None:
    statistic, num_free = quality.orders(6, 333_333, shuffled=shuffled)
    assert f"{statistic:,.0f} on {num_free} degrees of freedom" in WORDS
