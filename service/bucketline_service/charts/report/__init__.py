"""Plans side by side as one self-contained HTML page, to be stored with a data set, mailed, or printed."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import PurePath
from string import Template
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from bucketline_service.charts.previews import comparison
from bucketline_service.charts.stats import plan
from bucketline_service.charts.style import Theme
from bucketline_service.previews.comparison import Row, named, rows

Json = dict[str, Any]

_THEMES: tuple[Theme, ...] = ("light", "dark")
_PLAN_PX = 380


def html(
    answer: Json,
    names: Sequence[str] | None = None,
    *,
    given: Sequence[Mapping[str, Any]] | None = None,
    columns: Mapping[str, str] | None = None,
    version: str = "",
    date: str = "",
) -> str:
    """The page of the answer of ``POST /v1/previews`` (of one map) or of ``bucketline preview --json``. ``names``: of
    the specs; ``given``: the specs as they were written, for the commands; ``columns``: of the map's file, where they
    had to be named."""
    names = named(answer, names)
    file = PurePath(answer["map"])
    said = [each["map"] for each in given or () if isinstance(each.get("map"), str)]
    map_name = as_name((said or [file.stem])[0], "map")
    specs = [
        _runnable(map_name, each["spec"] if given is None else given[index])
        for index, each in enumerate(answer["previews"])
    ]
    table = rows(answer)
    return Template(_read("page.html")).substitute(
        title=escape(f"Plans for {file.name}"),
        about=f"{answer['num_images']:,} images, {len(names)} {'plan' if len(names) == 1 else 'plans side by side'}",
        css=_read("page.css"),
        js=_read("page.js"),
        plotly=get_plotlyjs(),
        figures=_figures(answer, names),
        problems="".join(_problem(*each) for each in zip(names, answer["previews"], strict=True)),
        table=_table(table, names),
        words="".join(f"<dt>{escape(row.label)}</dt><dd>{escape(row.help)}</dd>" for row in table),
        map_command=escape(_map_command(map_name, str(file), columns or {})),
        plans="".join(
            _plan(index, name, each, spec)
            for index, (name, each, spec) in enumerate(zip(names, answer["previews"], specs, strict=True))
        ),
        version=escape(version),
        date=escape(date),
    )


def as_name(text: str, otherwise: str) -> str:
    """What a coordinator takes for the name of a map or a run, as near to this as may be."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).lstrip("._-")[:128] or otherwise


def run_command(name: str, spec: Mapping[str, Any]) -> str:
    """Opens a run, in a shell; nothing need be saved before."""
    # no line of JSON is the word alone, whatever strings are in it
    return f"bucketline run put {as_name(name, 'run')} /dev/stdin <<'JSON'\n{_pretty(spec)}\nJSON"


def _map_command(name: str, source: str, columns: Mapping[str, str]) -> str:
    options = [
        word for what, column in columns.items() for word in (f"--{what.replace('_', '-')}-column", column)
    ]
    return shlex.join(["bucketline", "map", "put", name, source, *options])


def _runnable(map_name: str, spec: Mapping[str, Any] | None) -> Json:
    """With the map; and without what is null, which is what it is by default."""
    rest = {field: value for field, value in (spec or {}).items() if field not in ("map", "maps")}
    return {"map": map_name, **{field: value for field, value in rest.items() if value is not None}}


def _pretty(spec: Mapping[str, Any]) -> str:
    """A field a line, and what it holds beside it: a list of many ids is one line."""
    fields = [
        f"  {json.dumps(field)}: {json.dumps(value, ensure_ascii=False)}" for field, value in spec.items()
    ]
    return "{\n" + ",\n".join(fields) + "\n}"


def _problem(name: str, preview: Json) -> str:
    if "problem" not in preview:
        return ""
    told = f"<strong>{escape(name)}</strong> cannot be met: {escape(preview['problem']['detail'])}"
    return f'<p class="problem">{told}</p>'


def _plan(index: int, name: str, preview: Json, spec: Json) -> str:
    head = f'<article class="plan"><h3>{escape(name)}</h3>'
    if "problem" in preview:
        problem = f'<p class="key">Cannot be met: {escape(preview["problem"]["detail"])}</p>'
        return f"{head}{problem}<pre>{escape(_pretty(spec))}</pre></article>"
    stats = preview["stats"]
    packs = stats.get("packs")
    of = (
        f"{len(packs['lengths'])} lengths, {packs['num_kinds']} kinds of pack, {packs['full']:.1%} full"
        if packs
        else f"{len(stats['buckets'])} buckets, {stats['num_shapes']} shapes"
    )
    about = f"{of}, {stats['num_steps']:,} steps an epoch on {preview['spec']['world_size']:,} ranks"
    chart = "Images and slots of each length" if packs else "Images and batches of each bucket"
    return (
        f'{head}<p class="key">{about}</p>{_warnings(preview.get("warnings", []))}'
        f'<figure class="chart" role="img" aria-label="{chart}">'
        f'<div id="plan-{index}"></div></figure>'
        f"<pre>{escape(run_command(name, spec))}</pre>"
        "<details><summary>The spec with every default</summary>"
        f"<pre>{escape(_pretty(preview['spec']))}</pre></details></article>"
    )


def _warnings(found: Sequence[Json]) -> str:
    rows = "".join(
        f"<li><strong>Warning:</strong> {escape(each['message'])}<br>{escape(each['remedy'])}</li>"
        for each in found
    )
    return f'<ul class="warnings">{rows}</ul>' if rows else ""


def _table(table: Sequence[Row], names: Sequence[str]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    body = "".join(
        f'<tr><th scope="row" class="level-{row.level}" title="{escape(row.help)}">{escape(row.label)}</th>'
        + "".join(_cell(cell, is_best) for cell, is_best in zip(row.cells, row.best, strict=True))
        + "</tr>"
        for row in table
    )
    has_best = any(any(row.best) for row in table)
    caption = "Of epoch 0." + (" ✓ is the best of its row." if has_best else "")
    return f"<table><caption>{caption}</caption><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(cell: str | None, is_best: bool) -> str:
    return f"<td{' class=best' if is_best else ''}>{'-' if cell is None else escape(cell)}</td>"


def _figures(answer: Json, names: Sequence[str]) -> str:
    told = {
        "comparison": {
            theme: {
                "wide": _json(comparison(answer, names, theme=theme)),
                "narrow": _json(comparison(answer, names, theme=theme, narrow=True)),
            }
            for theme in _THEMES
        },
        "plans": [
            {theme: _json(_of_plan(each["stats"], theme)) for theme in _THEMES} if "stats" in each else None
            for each in answer["previews"]
        ],
    }
    # inside a script no text may end it
    return json.dumps(told, separators=(",", ":")).replace("<", "\\u003c")


def _of_plan(stats: Json, theme: Theme) -> go.Figure:
    served = {
        **stats,
        "buckets": [each for each in stats["buckets"] if each["num_images"] or each["num_batches"]],
    }
    return plan(served, theme=theme).update_layout(height=_PLAN_PX)


def _json(figure: go.Figure) -> Json:
    found: Json = json.loads(figure.to_json())
    return found


def _read(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
