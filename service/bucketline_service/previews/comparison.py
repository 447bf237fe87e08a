"""The comparison of plans: the rows of its table, their words and formats, and the best value of each.

Terminal, report and dashboard show this one table. Imports the standard library alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import takewhile
from operator import getitem
from typing import Any, NamedTuple

Json = dict[str, Any]

PRUNED = (
    "max_ar_error",
    "max_crop_loss",
    "min_size",
    "bucket_no_upscale",
    "num_frames",
    "num_repeats",
    "valid_ids",
)
"""Reasons of the planner, which is not loaded for a table."""


class Row(NamedTuple):
    """``level``: how deep the label stands below the row that it belongs to. ``help``: what it is. ``cells``: one for
    each preview, None if its spec cannot be met. ``best``: which of them, none where all are the same or no value
    is better than another."""

    label: str
    level: int
    help: str
    cells: list[str | None]
    best: list[bool]


class _Cost(NamedTuple):
    """``value``: its dotted name in the stats, or a function of them. ``better``: whether 1, more, or -1, less, is; 0
    where that depends on what one wants."""

    label: str
    level: int
    value: str | Callable[[Json], Any]
    help: str
    form: str = "num"
    better: int = 0


def rows(answer: Json, separator: str = ",") -> list[Row]:
    """Of the answer of ``POST /v1/previews``, or ``bucketline preview --json``. ``separator``: of thousands. A reason
    that prunes no image of any spec has no row, nor has what only packs have if no plan has packs."""
    stats = [each.get("stats") for each in answer["previews"]]
    prunes = {reason for each in stats if each for reason, num in each["pruned"].items() if num}
    is_of_packs = any(each and each.get("packs") for each in stats)
    return [
        _row(cost, stats, separator)
        for cost in (*_COSTS, *(_OF_PACKS if is_of_packs else ()))
        if cost.label not in {*PRUNED} - prunes
    ]


def _row(cost: _Cost, stats: Sequence[Json | None], separator: str) -> Row:
    values = [None if each is None else _value(cost, each) for each in stats]
    cells = [None if value is None else _FORMS[cost.form](value, separator) for value in values]
    return Row(cost.label, cost.level, cost.help, cells, _best(values, cells, cost.better))


def _value(cost: _Cost, stats: Json) -> Any:
    return reduce(getitem, cost.value.split("."), stats) if isinstance(cost.value, str) else cost.value(stats)


def _best(values: Sequence[Any], cells: Sequence[str | None], better: int) -> list[bool]:
    known = [index for index, value in enumerate(values) if value is not None]
    # as shown: of two that read the same none is the better
    if not better or len({cells[index] for index in known}) < 2:
        return [False] * len(cells)
    first = max(known, key=lambda index: better * values[index])
    return [cell == cells[first] for cell in cells]


def _pruned_by(reason: str, stats: Json) -> int:
    return int(stats["pruned"].get(reason, 0))


def _of_packs(name: str, stats: Json) -> Any:
    packs = stats.get("packs")
    return packs and packs[name]


def mean_area_px(stats: Json) -> float:
    """Pixels of a mean image, or frame of a clip, as it is served."""
    if stats.get("packs"):
        return float(stats["packs"]["mean_area_px"])
    served = [
        (each["num_batches"] * each["batch_size"], each["width"] * each["height"])
        for each in stats["buckets"]
    ]
    return float(sum(num * area for num, area in served) / sum(num for num, _ in served))


def shape(of: Json) -> str:
    """Its size in a word, and the length of its clips where it has one."""
    frames = of.get("num_frames")
    return f"{of['width']}x{of['height']}" + (f"x{frames}" if frames else "")


def named(answer: Json, names: Sequence[str] | None = None) -> list[str]:
    """A name for each preview of an answer: as given, or by its number."""
    return list(names or (f"spec {number}" for number in range(1, len(answer["previews"]) + 1)))


def short_names(names: Sequence[str], most: int) -> list[str]:
    """Each in at most so many letters, and distinct where possible: without the middle, or, where that is what they
    differ in, without what they all begin and end with."""
    short = [_without_middle(name, most) for name in names]
    if len(set(short)) == len(set(names)):
        return short
    head = _num_shared(names)
    rest = [name[head:] for name in names]
    tail = _num_shared([name[::-1] for name in rest])
    own = [f"…{name[: len(name) - tail]}{'…' if tail else ''}" for name in rest]
    return [_without_middle(name, most) for name in own]


def _num_shared(names: Sequence[str]) -> int:
    """With how many letters all of them begin."""
    return sum(1 for _ in takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False)))


def _without_middle(name: str, most: int) -> str:
    if len(name) <= most:
        return name
    tail = (most - 1) // 2
    return name[: most - 1 - tail] + "…" + name[len(name) - tail :]


_FORMS: dict[str, Callable[[Any, str], str]] = {
    "num": lambda value, separator: f"{value:,}".replace(",", separator),
    "share": lambda value, _: f"{value:.2%}",
    "error": lambda value, _: f"{value:.4f}",
    "ratio": lambda value, _: f"{value:.3f}",
    "area": lambda value, _: f"{value / 1e6:.3f} MP",
    "shape": lambda value, _: shape(value),
}

_COSTS = (
    _Cost("images", 0, "num_images", "in the map"),
    _Cost("assigned", 1, "num_assigned", "images that have a bucket", better=1),
    _Cost("pruned", 1, lambda stats: sum(stats["pruned"].values()), "images that have none", better=-1),
    *(_Cost(reason, 2, partial(_pruned_by, reason), "pruned for this reason") for reason in PRUNED),
    _Cost(
        "crop loss, mean",
        0,
        "crop_loss.mean",
        "the share of an image's pixels that is cut away in its own bucket, or, packed, at its own size",
        "share",
        -1,
    ),
    _Cost("median", 1, "crop_loss.median", "half of the images lose no more", "share", -1),
    _Cost("p95", 1, "crop_loss.p95", "95 of 100 images lose no more", "share", -1),
    _Cost("max", 1, "crop_loss.max", "what the worst image loses", "share", -1),
    _Cost(
        "as served",
        1,
        "crop_loss_served",
        "the mean of what an epoch serves, images moved to another bucket included",
        "share",
        -1,
    ),
    _Cost(
        "aspect error, mean",
        0,
        "aspect_error.mean",
        "the difference of width / height between an image and its bucket, or, packed, its size in the pack",
        "error",
        -1,
    ),
    _Cost("median", 1, "aspect_error.median", "of half of the images", "error", -1),
    _Cost("p95", 1, "aspect_error.p95", "of 95 in 100 images", "error", -1),
    _Cost("max", 1, "aspect_error.max", "of the worst image", "error", -1),
    _Cost("batches an epoch", 0, "num_batches", "of all ranks together"),
    _Cost("steps", 0, "num_steps", "of each rank in an epoch"),
    _Cost(
        "of mixed shapes",
        1,
        "mixed_steps",
        "steps at which ranks may have different sizes, or kinds of pack, and wait for each other",
        better=-1,
    ),
    _Cost(
        "imbalance",
        1,
        "step_imbalance",
        "the cost of each step's slowest rank over the ranks' mean, in the cost of the spec; 1 is perfect",
        "ratio",
        -1,
    ),
    _Cost("left out", 0, "dropped", "images that an epoch does not serve", better=-1),
    _Cost(
        "in every epoch",
        1,
        "never_served",
        "images of buckets that are too small to be served in any epoch",
        better=-1,
    ),
    _Cost("repeated", 0, "repeated", "images served again to fill a batch", better=-1),
    _Cost("spilled", 0, "spilled", "images that an epoch serves in another bucket than their own", better=-1),
    _Cost("moved", 0, "moved", "images that all epochs serve in another bucket than the nearest", better=-1),
    _Cost(
        "shapes",
        0,
        "num_shapes",
        "distinct sizes of batches, or kinds of pack: a compiled model is compiled for each",
        better=-1,
    ),
    _Cost(
        "largest",
        1,
        "largest_shape",
        "the size whose batches need the most memory; packs all have the same budget",
        "shape",
    ),
    _Cost(
        "size, mean",
        0,
        mean_area_px,
        "megapixels of an image as served: detail that is seen, and work",
        "area",
    ),
)

_OF_PACKS = (
    _Cost(
        "packs, full",
        0,
        partial(_of_packs, "full"),
        "the share of the tokens of all packs that are those of images",
        "share",
        1,
    ),
    _Cost(
        "padding",
        1,
        partial(_of_packs, "padding"),
        "the share that is reserved for images which have fewer tokens",
        "share",
        -1,
    ),
    _Cost("unused", 1, partial(_of_packs, "unused"), "the share that is reserved for no image", "share", -1),
    _Cost(
        "imbalance in tokens",
        1,
        partial(_of_packs, "token_imbalance"),
        "reserved tokens of each step's fullest pack over the ranks' mean; 1 is perfect",
        "ratio",
        -1,
    ),
    _Cost(
        "in attention",
        2,
        partial(_of_packs, "attention_imbalance"),
        "the same in their squares, of each image by itself, as attention costs",
        "ratio",
        -1,
    ),
)
