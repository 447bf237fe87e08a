"""What a warning's remedy says to do, as changes of the spec."""

from __future__ import annotations

import json
import re
from typing import Any

_SET = re.compile(r'([\w.]+) to ("\w+"|[\d.]+)')
_NAMED = re.compile(r'\b(planner|last_step|tails|num_repeats) ("\w+"|[\d.]*\d)')
_LEAVE = re.compile(r"leave ([\w ]+?) out")
_RANKS = re.compile(r"use ([\d,]+) ranks")
_INSTEAD = re.compile(r"give (\w+) (\S+) instead of (\w+)")


def ways(remedy: str) -> list[dict[str, Any]]:
    """Of each of the remedy's ways that names all values, the fields that it sets; None: it leaves the field out."""
    found = []
    for way in remedy.removesuffix(".").split("; or "):
        fields: dict[str, Any] = {
            name: json.loads(value) for pattern in (_SET, _NAMED) for name, value in pattern.findall(way)
        }
        for names in _LEAVE.findall(way):
            fields |= dict.fromkeys(names.split(" and "))
        for budget, limit, other in _INSTEAD.findall(way.replace("Give", "give")):
            fields |= {budget: json.loads(limit), other: None}
        for num_ranks in _RANKS.findall(way):
            fields["world_size"] = int(num_ranks.replace(",", ""))
        # how much smaller batches are is for the reader to choose
        found.append({} if "use smaller" in way else fields)
    return [fields for fields in found if fields]


def followed(spec: dict[str, Any], way: dict[str, Any]) -> dict[str, Any]:
    """The spec with what one of the ways changes."""
    changed = {name: value for name, value in way.items() if "." not in name}
    for name, value in way.items():
        above, _, field = name.partition(".")
        if field:
            changed[above] = {**spec[above], field: value}
    return {name: value for name, value in {**spec, **changed}.items() if value is not None}
