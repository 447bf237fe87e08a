"""The pictures of docs/ are there and described, and the numbers that they draw hold."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from docs.pictures import example, pack_plans, plans, quality, urn
from docs.pictures.plans import BALANCED, SAME_SHAPE

from bucketline_service.cli import offline_preview
from bucketline_service.planning.geometry import crop_loss
from bucketline_service.planning.line.permutation import SMALL
from bucketline_service.planning.line.remainders import POLICIES
from tests.server import COCO

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "concepts" / "mathematics.md").read_text()
WORDS = re.sub(r"\s+", " ", TEXT)
PLANNING = (ROOT / "docs" / "concepts" / "planning.md").read_text()
PLANNING_WORDS = re.sub(r"\s+", " ", PLANNING)
PACKS = (ROOT / "docs" / "concepts" / "packs.md").read_text()
PACKS_WORDS = re.sub(r"\s+", " ", PACKS)
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


OF_UNITS = [policy for policy in POLICIES if policy not in ("shift", "short")]


@pytest.mark.exhaustive
def test_what_computes_the_pictures_needs_no_matplotlib() -> None:
    computing = "example, pack_plans, plans, quality, urn"
    program = f"import sys; from docs.pictures import {computing}; sys.exit('matplotlib' in sys.modules)"
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


@pytest.mark.parametrize("ladder", plans.LADDERS)
@pytest.mark.parametrize("fields", [SAME_SHAPE, BALANCED], ids=lambda fields: fields["steps"])
def test_what_the_pictures_count_is_what_the_stats_say(ladder: str, fields: dict[str, str]) -> None:
    plan = plans.planned(ladder, **fields)
    stats = plan.stats
    assert plan.nearest_crops.mean() == pytest.approx(stats["crop_loss"]["mean"])
    assert plan.imbalance == pytest.approx(stats["step_imbalance"])
    assert (np.ptp(plan.steps, axis=1) > 0).sum() == stats["mixed_steps"]
    assert (plan.nearest != plan.buckets).sum() == stats["moved"]
    assert len(plan.left_out) == stats["dropped"]
    assert len(plan.rows) == plan.steps.size * plans.BATCH_SIZE
    extra = plan.crops(np.arange(plans.NUM_IMAGES), plan.buckets) - plan.nearest_crops
    assert extra.max() == pytest.approx(stats["max_extra_crop"], abs=1e-8)


def test_the_table_of_the_two_defaults_is_what_is_planned() -> None:
    assert "\n".join(plans.table()) in PLANNING


def test_the_text_says_what_the_picture_of_the_crops_shows() -> None:
    before, now = (plans.planned("NovelAI", **fields) for fields in (SAME_SHAPE, BALANCED))
    crops = (f"{100 * plan.served_crops.mean():.1f} %" for plan in (before, now))
    assert "crops {} of an image on average with `same_shape`, and {}".format(*crops) in PLANNING_WORDS
    assert f"{100 * now.nearest_crops.mean():.1f} % of its pixels in the mean" in PLANNING_WORDS
    assert [len(np.unique(plan.served)) for plan in (before, now)] == [4, 8]
    assert f"leave out {len(now.left_out)}, fewer than the {8 * 8} of a step" in PLANNING_WORDS
    assert len(before.left_out) == len(now.left_out) < now.steps.shape[1] * plans.BATCH_SIZE
    assert f"serve {len(now.rows)} images in {len(now.steps)} steps" in PLANNING_WORDS
    assert [len(np.unique(plan.nearest[plan.left_out])) for plan in (before, now)] == [1, 5]
    assert "above in one bucket, below in five" in PLANNING_WORDS


def test_the_text_says_what_the_picture_of_the_steps_shows() -> None:
    before, now = (plans.planned("NovelAI", **fields) for fields in (SAME_SHAPE, BALANCED))
    assert not np.ptp(before.steps, axis=1).any()
    mixed = np.flatnonzero(np.ptp(now.steps, axis=1))
    assert f"steps {mixed[0]} and {mixed[1]} are mixed: {len(mixed)} of {len(now.steps)}" in PLANNING_WORDS
    for step in mixed.tolist():
        for width, height in now.sizes[np.unique(now.steps[step])].tolist():
            assert f"{width} x {height}" in PLANNING_WORDS.split(f"step {step} mixes ")[1].split("Below")[0]
    waiting = 100 * (1 - 1 / now.imbalance)
    assert f"mean batches: {now.imbalance:.3f} here." in PLANNING_WORDS
    assert f"ranks wait {waiting:.1f} % of their time" in PLANNING_WORDS
    shuffled = plans.planned("NovelAI", **BALANCED, lockstep=1)
    assert f"in random order, it would be {shuffled.imbalance:.3f}" in PLANNING_WORDS
    sdxl = (plans.planned("SDXL", **fields).stats["num_shapes"] for fields in (BALANCED, SAME_SHAPE))
    assert "{} instead of {} for SDXL above".format(*sdxl) in PLANNING_WORDS


def test_the_text_says_what_the_picture_of_the_boundaries_shows() -> None:
    plan = plans.planned("NovelAI", **BALANCED)
    before, after = (np.bincount(of, minlength=len(plan.sizes)) for of in (plan.nearest, plan.buckets))
    for counts in (before, after):
        *others, last = (str(count) for count in counts[counts > 0])
        assert f"buckets of {', '.join(others)} and {last} images" in PLANNING_WORDS
    largest = np.argmax(before)
    rest = after % plans.BATCH_SIZE
    assert rest[largest] == plans.NUM_IMAGES % plans.BATCH_SIZE
    assert np.delete(rest, largest).sum() == 0
    *some, last = (
        f"{width} x {height}" for width, height in plan.sizes[(before > 0) & (after == 0)].tolist()
    )
    assert f"Here {', '.join(some)} and {last} are empty" in PLANNING_WORDS
    moved = np.flatnonzero(plan.nearest != plan.buckets)
    assert f"{len(moved)} of the {plans.NUM_IMAGES} images move" in PLANNING_WORDS
    extra = plan.crops(moved, plan.buckets[moved]) - plan.nearest_crops[moved]
    worst = moved[np.argmax(extra)]
    own, there = (tuple(plan.sizes[of[worst]].tolist()) for of in (plan.nearest, plan.buckets))
    assert before[plan.nearest[worst]] == 1
    said = f"only image of {own[0]} x {own[1]}: it loses {100 * extra.max():.0f} percentage points more in "
    assert f"{said}{there[0]} x {there[1]}" in PLANNING_WORDS


@pytest.mark.parametrize("world_size", [4, 64])
def test_the_text_says_what_all_5000_images_lose(world_size: int) -> None:
    specs = [{"world_size": world_size, "batch_size": 8, **fields} for fields in (SAME_SHAPE, BALANCED)]
    answer = offline_preview.run(COCO, specs, ["before", "now"], offline_preview.Reading())
    before, now = (each["stats"] for each in answer["previews"])
    lost = [f"{100 * stats['crop_loss_served']:.1f} %" for stats in (before, now)]
    imbalance = f"imbalance {'is' if world_size == 4 else 'of'} {now['step_imbalance']:.3f}"
    said = "All 5,000 images on 4 ranks lose {} with `same_shape` and {} with `balanced`, whose "
    if world_size == 64:
        said = "On 64 ranks it is {} and {}, with an "
    assert said.format(*lost) + imbalance in PLANNING_WORDS


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


# --- packs: the numbers are those of the packs that HiGHS finds in the version of constraints.txt ---


@pytest.mark.parametrize("world_size", [8, 64])
def test_what_the_picture_of_the_packs_counts_is_what_the_stats_say(world_size: int) -> None:
    packed = pack_plans.planned(pack_plans.photos(), world_size)
    assert packed.stats is not None
    stats = packed.stats["packs"]
    # counted in one epoch, and expected over epochs with the same packs
    assert packed.full == pytest.approx(stats["full"], abs=1e-3)
    assert packed.imbalance == pytest.approx(stats["attention_imbalance"])
    assert packed.num_kinds == stats["num_kinds"]
    assert len(packed.tokens) == packed.stats["num_steps"]
    for tokens, slots in zip(packed.tokens, packed.slots, strict=True):
        assert all(
            (image <= slot).all() and slot.sum() <= pack_plans.MAX_TOKENS
            for image, slot in zip(tokens, slots, strict=True)
        )


def test_the_text_says_what_packs_of_few_images_are() -> None:
    packing, _, stats = pack_plans.plan(pack_plans.photos(), 8)
    packs = packing.packs
    of_packs = packs.kinds.sum(axis=1)
    assert f"have {packs.num_packs} packs of {len(packs.kinds)} kinds" in PACKS_WORDS
    assert f"{100 * stats['packs']['unused']:.3f} % are in no slot" in PACKS_WORDS
    assert f"{stats['num_steps']} steps, {stats['mixed_steps']} of them mixed" in PACKS_WORDS
    assert f"an imbalance of {stats['step_imbalance']:.3f}" in PACKS_WORDS
    num_left_out = packs.num_packs - stats["num_batches"]
    without = stats["num_samples"] - packs.slots.sum()
    words = f"{num_left_out} of {packs.num_packs} packs, and {without} images without a slot"
    assert words in PACKS_WORDS
    assert f"{of_packs.min()} to {of_packs.max()} in the plan of COCO's 5,000 images" in PACKS_WORDS
    many, few = (pack(pack_plans.photos(), 64) for pack in (pack_plans.planned, pack_plans.greedy))
    words = f"{len(many.tokens)} steps, all mixed, and {many.imbalance:.3f}, which is no better"
    assert f"{words} than greedy packs ({few.imbalance:.3f})" in PACKS_WORDS
    sizes = pack_plans.photos().astype(np.int64).T
    crops = crop_loss(*sizes, *pack_plans.NATIVE.sizes(*sizes))
    assert f"| native sizes | {crops.mean():.2%} |" in PACKS
    assert f"At most {100 * crops.max():.1f} % is cropped of any of them" in PACKS_WORDS


@pytest.mark.exhaustive
def test_the_text_says_what_epochs_of_packs_leave_out() -> None:
    shares, lengths = pack_plans.left_out(200)
    assert shares.max() < 1
    longest, most, shortest = (100 * shares[lengths == length].mean() for length in (1600, 1014, 324))
    assert f"{longest:.1f} % of the images of the longest length (1,600 tokens)" in PACKS_WORDS
    assert f"{most:.1f} % of those of 1,014 tokens" in PACKS_WORDS
    assert f"and {shortest:.1f} % of those of the shortest (324)" in PACKS_WORDS
    assert f"leave out {100 * shares.mean():.1f} % in the mean" in PACKS_WORDS


@pytest.mark.exhaustive
def test_the_tables_of_packs_are_what_is_planned() -> None:
    assert "\n".join(pack_plans.table()) in PACKS
    rows = "\n".join(pack_plans.table_of_lengths())
    assert rows in PACKS.replace("32, the default", "32")
    stats = pack_plans.plan(pack_plans.web_like(), 8).stats
    assert f"{stats['mixed_steps']} of {stats['num_steps']:,} steps of the web-like images" in PACKS_WORDS
