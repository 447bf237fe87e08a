"""The text and the file of ``bucketline run reports``: images that workers could not use."""

from __future__ import annotations

import csv
from typing import Any, TextIO

from rich.console import Console

from bucketline_service.terminal import readable
from bucketline_service.terminal.columns import Columns

Json = dict[str, Any]
PLACE = ("epoch", "step", "rank", "at")
MAX_SHOWN_DETAIL = 60


def listing(console: Console, answer: Json) -> None:
    """The reports of ``GET /v1/runs/{run}/reports``."""
    shown, num_images = answer["reports"], answer["num_images"]
    if shown:
        console.print(_table(shown, are_several=len({each["map"] for each in shown}) > 1))
    if num_images > len(shown):
        console.print(f"the newest {len(shown):,} of {num_images:,}; -o FILE.csv writes all of them")
    elif not num_images:
        console.print("no image was reported")
    if answer["num_not_kept"]:
        console.print(
            f"and {readable.counted(answer['num_not_kept'], 'report')} of further images, which are not kept"
        )


def _table(reports: list[Json], *, are_several: bool) -> Columns:
    """``are_several``: whether they are of more than one map."""
    maps = ["map"] if are_several else []
    table = Columns(
        "id", *maps, "#count", "reason", "#epoch?", "#step?", "#rank?", "last reported?", "detail?"
    )
    for each in reports:
        last, detail = each["last"], each["detail"] or ""
        if len(detail) > MAX_SHOWN_DETAIL:
            detail = f"{detail[: MAX_SHOWN_DETAIL - 1]}…"
        names = [each["map"]] if are_several else []
        place = (str(last[part]) for part in PLACE[:3])
        table.add_row(
            str(each["id"]),
            *names,
            f"{each['count']:,}",
            each["reason"],
            *place,
            readable.utc(last["at"]),
            detail,
        )
    return table


def write_csv(answer: Json, file: TextIO) -> None:
    """A line for each image, numbers without quotes; times in UTC."""
    writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    places = [f"{which}_{part}" for which in ("first", "last") for part in PLACE]
    writer.writerow(["id", "map", "reason", "count", "detail", *places])
    for each in answer["reports"]:
        row = [each["id"], each["map"], each["reason"], each["count"], each["detail"] or ""]
        for place in (each["first"], each["last"]):
            row += [*(place[part] for part in PLACE[:3]), readable.utc(place["at"])]
        writer.writerow(row)
