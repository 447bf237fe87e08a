"""What operators ask of one run or of the coordinator, as text."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from bucketline_service import tables
from bucketline_service.cli import phrases

Json = dict[str, Any]
MAX_RANKS = 32
"""That are shown with a run: the slowest."""
WHY_PRUNED = {
    "max_ar_error": "its aspect is too far from that of any bucket (assign.max_ar_error)",
    "max_crop_loss": "too much of it would be cropped away (assign.max_crop_loss)",
    "min_size": "its shorter side has too few pixels (assign.min_size)",
    "bucket_no_upscale": "it fills no bucket without upscaling (ladder.bucket_no_upscale)",
    "num_frames": "it is shorter than every length (frame_buckets)",
    "num_repeats": "its map says that it never comes (num_repeats 0)",
    "valid_ids": "it is none of valid_ids",
}
WHY_LEFT_OUT = {
    "small_bucket": "its bucket has fewer images than a unit, in every epoch",
    "tail": "it is in the rest of its bucket that fills no unit in this epoch",
    "last_step": "it is in the batches that do not fill a last step of all ranks",
    "not_drawn": "it comes less than once an epoch, and this is not one of its epochs",
}


def image(console: Console, answer: Json) -> None:
    for line in _image_lines(answer):
        console.print(line)


def _image_lines(answer: Json) -> Iterator[str]:
    frames = "" if answer["num_frames"] is None else f", {phrases.counted(answer['num_frames'], 'frame')}"
    yield (
        f"image {answer['id']} of map {answer['map']}: {answer['width']}x{answer['height']}, "
        f"aspect {answer['aspect']:.3f}{frames}"
    )
    near = answer["nearest"]
    fit = (
        f"{near['width']}x{near['height']}: resized to {near['resize_width']}x{near['resize_height']}, "
        f"cropped from ({near['crop_left']}, {near['crop_top']}), {near['crop_loss']:.2%} lost"
    )
    if answer["pruned"]:
        why = WHY_PRUNED.get(answer["pruned"], answer["pruned"])
        yield f"in no bucket: {why}; the nearest is {near['bucket']}, {fit}"
        return
    yield f"bucket {near['bucket']}, {fit}"
    if len(answer["buckets"]) > 1:
        yield "comes to buckets " + ", ".join(f"{each['bucket']}" for each in answer["buckets"])
    yield from (_coming(answer, each) for each in answer["served"])
    if answer["left_out"]:
        why = WHY_LEFT_OUT.get(answer["left_out"], answer["left_out"])
        yield f"epoch {answer['epoch']}: left out: {why}"


def _coming(answer: Json, coming: Json) -> str:
    where = (
        f"at no step of the present ranks, position {coming['position']:,} of the epoch's stream"
        if coming["step"] is None
        else f"step {coming['step']:,} on rank {coming['rank']}, image {coming['slot']} of its batch"
    )
    if coming["bucket"] != answer["nearest"]["bucket"]:
        size = f"{coming['width']}x{coming['height']}"
        where += f"; served in bucket {coming['bucket']}, {size}, {coming['crop_loss']:.2%} lost"
    return f"epoch {answer['epoch']}: {where}" + ("; a repeat, to fill a tail" if coming["repeat"] else "")


def stats(console: Console, answer: Json) -> None:
    tables.buckets(console, answer)
    console.print()
    tables.previews(console, {"previews": [{"spec": {}, "stats": answer}]}, [answer["run"]])


def ranks(console: Console, answer: Json) -> None:
    console.print(ranks_table(answer["ranks"], time.time()))
    if answer["num_more"]:
        console.print(f"and {phrases.counted(answer['num_more'], 'rank')} more, no further behind")


def run_detail(console: Console, answer: Json) -> None:
    tables.runs(console, {"runs": [answer["run"]]})
    if answer["run"]["detail"]:
        console.print(answer["run"]["detail"])
    if "stats" not in answer:
        return
    console.print()
    tables.buckets(console, answer["stats"])
    console.print()
    slowest, num_more = slowest_first(answer["ranks"], MAX_RANKS)
    console.print(ranks_table(slowest, time.time()))
    if num_more:
        console.print(
            f"and {phrases.counted(num_more, 'rank')} more: bucketline run ranks {answer['run']['run']}"
        )


def slowest_first(ranks: list[Json], most: int | None) -> tuple[list[Json], int]:
    """At most so many, and how many more there are."""
    ordered = sorted(ranks, key=lambda each: (-each["steps_behind"], each["rank"]))
    return ordered[:most], max(0, len(ordered) - (len(ordered) if most is None else most))


def ranks_table(ranks: list[Json], now_s: float) -> tables.Columns:
    """``now_s``: to tell how long ago they were seen."""
    table = tables.Columns("#rank", "#epoch?", "#step", "#behind", "#batches/s?", "#last seen?", "holder?")
    for each in ranks:
        rate, last_seen = each["batches_per_s"], each["last_seen"]
        cells = [*map(str, (each["rank"], each["epoch"], each["step"], each["steps_behind"]))]
        cells.append("" if rate is None else phrases.rate(rate))
        cells.append("never" if last_seen is None else f"{phrases.lasting(now_s - last_seen)} ago")
        table.add_row(*cells, each["holder"] or "", style="yellow" if each["steps_behind"] else "")
    return table


def status(console: Console, answer: Json) -> None:
    root = f", map root {answer['map_root']}" if "map_root" in answer else ""
    console.print(f"{answer['url']}: {answer['status']}, bucketline {answer['version']}{root}")
    for risk in answer.get("store_risks", []):
        console.print(risk)


def events(console: Console, answer: Json) -> None:
    if answer["num_more"]:
        console.print(f"and {phrases.counted(answer['num_more'], 'event')} more, which are older: --most")
    for each in answer["events"]:
        console.print(event_line(each))
    if not answer["events"]:
        console.print("no events yet")


def event_line(event: Json) -> str:
    """As a log has it."""
    where = [f"run {event['run']}"] if event["run"] is not None else []
    where += [f"rank {event['rank']}"] if event["rank"] is not None else []
    fields = [f"{name}={_value(value)}" for name, value in event["fields"].items()]
    times = [f"{event['count']} times"] if event["count"] > 1 else []
    return "  ".join([phrases.moment(event["at"]), event["event"], *times, *where, *fields])


def _value(value: object) -> str:
    return value if isinstance(value, str) and value and " " not in value else json.dumps(value)
