"""``bucketline preview``: what plans would cost, from a file of sizes, without a server or stored state."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from bucketline.operator._map_files import Part, parts_of, tar
from bucketline_service.errors import Invalid
from bucketline_service.http.problems import members
from bucketline_service.http.routes.previews import document
from bucketline_service.http.validation_errors import invalid_body
from bucketline_service.maps import MapStore, RequestedColumns, format_for_suffix
from bucketline_service.previews.side_by_side import Preview, check_num_specs, previews
from bucketline_service.spec.maps import MapSpec
from bucketline_service.spec.run_spec import PlanFields
from bucketline_service.version import VERSION

DEFAULT = {"world_size": 8, "batch_size": 8}


class Reading(NamedTuple):
    """How to read the file: ``columns`` are those that are named, ``format`` None if the name shows it."""

    columns: Mapping[str, str] = {}
    format: str | None = None
    skip_missing_sizes: bool = False


def run(
    file: Path, specs: Sequence[Mapping[str, Any]], names: Sequence[str], reading: Reading
) -> dict[str, Any]:
    """The answer of ``POST /v1/previews`` for the map in ``file``. A spec's ``map`` is ignored. What is wrong
    with one spec is its own problem, and begins with where it is from, of ``names``. Raises ``UsageError`` for a folder
    that is no map, and ``Invalid`` for a file that cannot be read as one and for too many specs."""
    parts = parts_of(file)
    check_num_specs(len(specs))
    plans = [_plan(spec, name) for spec, name in zip(specs, names, strict=True)]
    with tempfile.TemporaryDirectory(prefix="bucketline-preview-") as folder:
        maps = MapStore(Path(folder))
        _put(maps, parts, reading, Path(folder))
        good = [plan for plan in plans if isinstance(plan, PlanFields)]
        found: list[Preview] = []
        num_images = maps.get("map").num_images
        if good:
            num_images, found = previews(maps, [MapSpec(map="map")], good)
        answer = document(file.name, num_images, found)
    told = iter(answer["previews"])
    answer["previews"] = [
        {"spec": dict(spec), "problem": members(plan)} if isinstance(plan, Invalid) else next(told)
        for spec, plan in zip(specs, plans, strict=True)
    ]
    return answer


def _put(maps: MapStore, parts: Sequence[Part], reading: Reading, folder: Path) -> None:
    named: dict[str, Any] = dict(reading.columns)
    columns = RequestedColumns(**named, skip_missing_sizes=reading.skip_missing_sizes)
    source, kind = parts[0].path, reading.format
    if len(parts) > 1:
        source, kind = folder / "parts", "tar"
        with source.open("wb") as file:
            file.writelines(tar(parts, reading.format))
    maps.put("map", source, kind or format_for_suffix(source).name, columns)


def names_of(files: Sequence[Path]) -> list[str]:
    """Short, and all different where the files are."""
    times = Counter(file.stem for file in files)
    return [
        file.stem if times[file.stem] == 1 else str(file.with_suffix("") if file.suffix == ".json" else file)
        for file in files
    ]


def report(
    answer: dict[str, Any],
    names: Sequence[str],
    specs: Sequence[Mapping[str, Any]],
    file: Path,
    columns: Mapping[str, str],
) -> str:
    """One HTML page of the answer that ``run`` gave for these."""
    from bucketline_service.charts.report import html

    date = time.strftime("%Y-%m-%d", time.gmtime())
    return html({**answer, "map": str(file)}, names, given=specs, columns=columns, version=VERSION, date=date)


def _plan(spec: Mapping[str, Any], name: str) -> PlanFields | Invalid:
    """The plan to preview, or why it cannot be previewed."""
    given = {field: value for field, value in spec.items() if field != "map"}
    if given.get("maps") is not None:
        hint = 'Give "map", or neither; only the server previews several maps (POST /v1/previews)'
        return Invalid(f"{name}: maps", "lists several maps, but one file is one map", hint)
    given.pop("maps", None)
    try:
        plan = PlanFields.model_validate(given)
        plan.with_sizes()
    except ValidationError as error:
        return Invalid(name, invalid_body(error, given).detail)
    except Invalid as error:
        return Invalid(name, error.detail)
    return plan
