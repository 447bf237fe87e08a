"""The results as markdown."""

from __future__ import annotations

import math
from typing import Any

from peers import OURS, PEERS, QUANTITIES, missing

Row = dict[str, Any]

HEADER = """\
| peer | buckets | build | start of an epoch | x ours | resume at half | x ours | per id | peak memory |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |"""
LEGEND = """\
Times are wall-clock times for one rank: the median of up to 15 runs in one process, each of another epoch, and in
brackets the very first run, if it took at least 1 ms and more than twice the median. "x ours" is the multiple of
bucketline's median. "per id" is measured in blocks of 4,096, for peers that can start at any position. Peak memory is
the highest of the row's measurements; in brackets are the parts of it that the imports and the images' sizes take.
What each peer is, and what it does not do:"""


def table(results: dict) -> str:
    """One table for each number of images, then the notes."""
    rows: list[Row] = results["rows"]
    found = {(row["num"], row["peer"], row["quantity"]): row for row in rows}
    names = list(dict.fromkeys(row["peer"] for row in rows))
    lines = [f"Python {results['python']}, {results['machine']}.", ""]
    for num in sorted({row["num"] for row in rows}):
        lines += [f"### {num:,} images", "", HEADER]
        ours = {quantity: found.get((num, OURS, quantity), {}) for quantity in QUANTITIES}
        for name in names:
            own = {quantity: found.get((num, name, quantity), {}) for quantity in QUANTITIES}
            lines.append(
                f"| {' | '.join([name, 'yes' if PEERS[name].buckets else 'no', *cells(own, ours)])} |"
            )
        lines.append("")
    lines += [LEGEND, ""]
    for name in names:
        known = (row["versions"] for row in rows if row["peer"] == name and "versions" in row)
        said = ", ".join(f"{package} {number}" for package, number in next(known, {}).items())
        lines.append(f"- **{name}** ({said or missing(PEERS[name]) or 'not run'}): {PEERS[name].note}")
    return "\n".join(lines) + "\n"


def cells(own: dict[str, Row], ours: dict[str, Row]) -> list[str]:
    """From build to peak memory."""
    reasons = {row.get("reason") for row in own.values() if row}
    if len(reasons) == 1 and None not in reasons:  # the same for all: said once
        return [reasons.pop(), *[""] * 6]
    of_id = own["ids"].get("ns_an_id")
    return [
        cell(own["build"]),
        cell(own["start"]),
        ratio(own["start"], ours["start"]),
        cell(own["resume"]),
        ratio(own["resume"], ours["resume"]),
        f"{of_id:,.0f} ns" if of_id else "",
        peaks(own),
    ]


def cell(row: Row) -> str:
    """The median; beside it the very first run, which is what a new process sees, where that is another figure."""
    if not row:
        return ""
    if row["status"] != "ok":
        return row["reason"]
    said, first = time_text(row["seconds"]), row["first_seconds"]
    return f"{said} ({time_text(first)})" if first > 2 * row["seconds"] and first >= 0.001 else said


def ratio(row: Row, ours: Row) -> str:
    if row.get("status") != "ok" or ours.get("status") != "ok":
        return ""
    return three_digits(row["seconds"] / ours["seconds"])


def peaks(own: dict[str, Row]) -> str:
    good = [row for row in own.values() if row.get("status") == "ok"]
    if not good:
        return ""
    most = max(good, key=lambda row: row["peak_bytes"])
    sizes = f", {megabytes(most['input_bytes'])}" if most["input_bytes"] >= 1e6 else ""
    return f"{megabytes(most['peak_bytes'])} ({megabytes(most['import_bytes'])}{sizes})"


def megabytes(num: float) -> str:
    return f"{num / 1e6:,.0f} MB"


def time_text(seconds: float) -> str:
    unit, name = next(
        (pair for pair in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")) if seconds >= pair[0]), (1e-9, "ns")
    )
    return f"{three_digits(seconds / unit)} {name}"


def three_digits(value: float) -> str:
    """Three of them at least, and no exponent."""
    if value <= 0:
        return "0"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(value)))}f}"
