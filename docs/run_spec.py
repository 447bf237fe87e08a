"""The tables of docs/reference/run-spec.md, written from the pydantic models: ``python -m docs.run_spec``.

The page has its prose in place and its tables between markers, ``<!-- fields MODEL: name name … -->`` and
``<!-- end -->``; this rewrites what is between them. A test says when the page is not what the models say.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from bucketline_service.spec.batch_cost import COSTS, MeasuredCostSpec, TimingSpec, TransformerCostSpec
from bucketline_service.spec.batch_sizes import PackSpec
from bucketline_service.spec.ladder_kinds import AnyLadder
from bucketline_service.spec.maps import MapSpec
from bucketline_service.spec.run_spec import AssignSpec, FrameBucketSpec, RunSpec

PAGE = Path(__file__).parent / "reference" / "run-spec.md"
REGION = re.compile(r"(<!-- fields (\w+): ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)

_KINDS = get_args(get_args(AnyLadder)[0])
LADDERS: list[type[BaseModel]] = [
    get_args(each)[0] if get_origin(each) is Annotated else each for each in _KINDS
]
OTHERS: list[type[BaseModel]] = [
    *(RunSpec, AssignSpec, FrameBucketSpec, MapSpec, PackSpec),
    *(TransformerCostSpec, MeasuredCostSpec, TimingSpec),
]
MODELS: dict[str, type[BaseModel]] = {model.__name__: model for model in (*OTHERS, *LADDERS)}
LINKS = {
    "MapSpec": "[entry of `maps`](#entries-of-maps)",
    "FrameBucketSpec": "[length](#clips)",
    "AssignSpec": "[object](#assignment)",
    "TimingSpec": "[timing](#measured)",
    "PackSpec": "[object](#packs)",
    **{model.__name__: "[cost](#cost)" for model in COSTS.values()},
}


def page() -> str:
    """The page as the models say that it is."""

    def region(match: re.Match[str]) -> str:
        return f"{match[1]}{table(MODELS[match[2]], match[3].split())}\n{match[4]}"

    return REGION.sub(region, PAGE.read_text())


def table(model: type[BaseModel], names: list[str]) -> str:
    schema = model.model_json_schema()
    defaults = defaults_of(model)
    rows = ["| field | values | default | meaning |", "| --- | --- | --- | --- |"]
    for name in names:
        given = schema["properties"][name]
        default = f"`{defaults[name]}`" if name in defaults else ""
        meaning = given.get("description", "").replace("|", "\\|")
        rows.append(f"| `{name}` | {values(given)} | {default} | {meaning} |")
    return "\n".join(rows)


def defaults_of(model: type[BaseModel]) -> dict[str, str]:
    """The default of each optional field, as a user would write it: where the model has None, what resolving the spec
    makes of it."""
    found = {
        name: about.get_default(call_default_factory=True)
        for name, about in model.model_fields.items()
        if not about.is_required()
    }
    if model is RunSpec:
        plain = RunSpec(map="m", world_size=4, batch_size=8).resolved()
        budget = RunSpec(map="m", world_size=4, max_tokens_per_batch=10**6).resolved()
        for resolved in (budget, plain):
            made = {name: getattr(resolved, name) for name, value in found.items() if value is None}
            found |= {name: value for name, value in made.items() if value is not None}
        found |= {"map": None, "batch_size": None, "max_tokens_per_batch": None, "lockstep": "world_size"}
        found |= {"ladder": found["ladder"].kind, "assign": {}, "cost": found["cost"].model_dump()}
    if model is AssignSpec:
        found["metric"] = RunSpec(map="m", world_size=4, batch_size=8).resolved().assign.metric
    return {name: _told(value) for name, value in found.items() if value is not None}


def _told(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def values(given: dict[str, Any]) -> str:
    """The values that a field accepts, in words, of its JSON schema."""
    if "$ref" in given:
        return LINKS.get(given["$ref"].rpartition("/")[2], "[ladder](#ladder)")
    if "oneOf" in given:
        return values(given["oneOf"][0])
    if "anyOf" in given:
        kinds = dict.fromkeys(values(each) for each in given["anyOf"] if each.get("type") != "null")
        return ", or ".join(kinds)
    if "const" in given:
        return f"`{given['const']}`"
    if "enum" in given:
        return " or ".join(f"`{value}`" for value in given["enum"])
    kind = given.get("type")
    if kind == "array":
        return _list(given)
    if kind in ("integer", "number"):
        return kind + _bounds(given)
    return {"string": "string", "boolean": "`true` or `false`"}.get(kind or "", "[ladder](#ladder)")


def _list(given: dict[str, Any]) -> str:
    if "prefixItems" in given:
        return f"[{', '.join(values(each) for each in given['prefixItems'])}]"
    least, most = given.get("minItems"), given.get("maxItems")
    num = f" ({least or 0} to {most:,})" if most else ""
    return f"list{num} of {values(given['items'])}"


def _bounds(given: dict[str, Any]) -> str:
    words = {
        "minimum": ">= {}",
        "exclusiveMinimum": "> {}",
        "maximum": "<= {}",
        "exclusiveMaximum": "< {}",
    }
    found = [
        text.format(f"{given[name]:,}".removesuffix(".0")) for name, text in words.items() if name in given
    ]
    return " " + ", ".join(found) if found else ""


if __name__ == "__main__":
    PAGE.write_text(page())
