"""The text of ``bucketline map put``, ``map list`` and ``map show``."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from bucketline_service.terminal.columns import Columns

Json = dict[str, Any]
_BAR_WIDTH = 30


def put(console: Console, answer: Json) -> None:
    console.print(f"{answer['map']}: {answer['num_images']} images, digest {answer['digest'][:16]}")
    if skipped := answer.get("num_skipped"):
        console.print(f"left out without a size: {skipped} rows")
    if repeats := answer.get("num_repeats"):
        console.print("num_repeats {min:g} to {max:g}: {total:.12g} images an epoch".format(**repeats))
    if frames := answer.get("num_frames"):
        console.print("num_frames {min} to {max}".format(**frames))
    for note in answer.get("notes", ()):
        console.print(note)


def listing(console: Console, answer: Json) -> None:
    table = Columns("map", "#images", "ids?", "digest?")
    for each in answer["maps"]:
        table.add_row(each["map"], f"{each['num_images']}", each["id_kind"], each["digest"][:16])
    console.print(table if answer["maps"] else "no maps yet: bucketline map put NAME FILE")


def show(console: Console, answer: Json) -> None:
    put(console, answer)
    histogram = answer["histogram"]["aspect"]
    most = max(histogram["num_images"], default=0) or 1
    table = Columns("#aspect", "#images", "")
    for low, high, num_images in zip(
        histogram["edges"], histogram["edges"][1:], histogram["num_images"], strict=False
    ):
        if num_images:
            bar = "█" * round(_BAR_WIDTH * num_images / most)
            table.add_row(f"{low:.2f} - {high:.2f}", str(num_images), bar)
    console.print(table)
