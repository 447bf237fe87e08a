"""The text of ``bucketline run explain``: where an image is served, or why it is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console

from bucketline_service.terminal import readable

Json = dict[str, Any]
WHY_PRUNED = {
    "max_ar_error": "its aspect ratio is too far from every bucket's (assign.max_ar_error)",
    "max_crop_loss": "too much of it would be cropped away (assign.max_crop_loss)",
    "min_size": "its shorter side has too few pixels (assign.min_size)",
    "bucket_no_upscale": "it fills no bucket without upscaling (ladder.bucket_no_upscale)",
    "num_frames": "it is shorter than every clip length (frame_buckets)",
    "num_repeats": "its map says that it is never served (num_repeats 0)",
    "valid_ids": "it is not in valid_ids",
}
WHY_LEFT_OUT = {
    "small_bucket": "its bucket has fewer images than a unit, in every epoch",
    "tail": "it is in the remainder of its bucket, which does not fill a unit in this epoch",
    "last_step": "it is in the batches that do not fill a last step of all ranks",
    "not_drawn": "it is served less than once an epoch, and not in this one",
}
WHY_PRUNED_OF_PACKS = WHY_PRUNED | {
    "max_ar_error": "its aspect ratio is too far from that of its size in whole steps (assign.max_ar_error)",
    "bucket_no_upscale": "it is less than a step of the ladder on a side, and no image is scaled up (ladder.divisible)",
}
WHY_LEFT_OUT_OF_PACKS = WHY_LEFT_OUT | {"tail": "it has no slot in this epoch's packs"}


def explain(console: Console, answer: Json) -> None:
    for line in _lines(answer):
        console.print(line)


def _lines(answer: Json) -> Iterator[str]:
    frames = "" if answer["num_frames"] is None else f", {readable.counted(answer['num_frames'], 'frame')}"
    yield (
        f"image {answer['id']} of map {answer['map']}: {answer['width']}x{answer['height']}, "
        f"aspect {answer['aspect']:.3f}{frames}"
    )
    near = answer["nearest"]
    if near is None or "length" in near:
        yield from _of_packs(answer, near)
        return
    fit = _fit(near)
    if answer["pruned"]:
        why = WHY_PRUNED.get(answer["pruned"], answer["pruned"])
        yield f"in no bucket: {why}; the nearest is {near['bucket']}, {fit}"
        return
    yield f"bucket {near['bucket']}, {fit}"
    if len(answer["buckets"]) > 1:
        yield "served in buckets " + ", ".join(f"{each['bucket']}" for each in answer["buckets"])
    yield from (_served(answer, each) for each in answer["served"])
    if answer["left_out"]:
        why = WHY_LEFT_OUT.get(answer["left_out"], answer["left_out"])
        yield f"epoch {answer['epoch']}: left out: {why}"


def _fit(near: Json) -> str:
    return (
        f"{near['width']}x{near['height']}: resized to {near['resize_width']}x{near['resize_height']}, "
        f"cropped from ({near['crop_left']}, {near['crop_top']}), {near['crop_loss']:.2%} lost"
    )


def _of_packs(answer: Json, near: Json | None) -> Iterator[str]:
    if answer["pruned"]:
        why = WHY_PRUNED_OF_PACKS.get(answer["pruned"], answer["pruned"])
        yield f"in no pack: {why}{f'; its size would be {_fit(near)}' if near else ''}"
        return
    if near:
        yield f"length {near['length']}, {_fit(near)}"
    for each in answer["served"]:
        slot = f"kind {each['kind']}, a slot of {each['length']} tokens"
        yield f"epoch {answer['epoch']}: {_place(each, 'pack')}; {slot}"
    if answer["left_out"]:
        why = WHY_LEFT_OUT_OF_PACKS.get(answer["left_out"], answer["left_out"])
        yield f"epoch {answer['epoch']}: left out: {why}"


def _place(served: Json, batch: str = "batch") -> str:
    if served["step"] is None:
        return f"at no step of the current ranks, position {served['position']:,} of the epoch's stream"
    return f"step {served['step']:,} on rank {served['rank']}, image {served['slot']} of its {batch}"


def _served(answer: Json, served: Json) -> str:
    where = _place(served)
    if served["bucket"] != answer["nearest"]["bucket"]:
        size = f"{served['width']}x{served['height']}"
        where += f"; served in bucket {served['bucket']}, {size}, {served['crop_loss']:.2%} lost"
    repeat = "; a repeat, to fill a remainder" if served["repeat"] else ""
    return f"epoch {answer['epoch']}: {where}{repeat}"
