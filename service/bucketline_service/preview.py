"""``bucketline preview``: what plans would cost, from a file of sizes, with no server and nothing kept."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bucketline_service.api.previews import document
from bucketline_service.api.problems import from_pydantic
from bucketline_service.coordinator.map_specs import MapSpec
from bucketline_service.coordinator.previews import previews
from bucketline_service.coordinator.spec import PlanFields
from bucketline_service.errors import Invalid
from bucketline_service.maps import Columns, MapStore, format_for_suffix

DEFAULT = {"world_size": 8, "batch_size": 8}


def run(
    file: Path, specs: Sequence[Mapping[str, Any]], names: Sequence[str], columns: Mapping[str, str]
) -> dict[str, Any]:
    """The answer of ``POST /v1/previews`` for the map in ``file``. A spec's ``map`` is not looked at; ``names``: where
    each is from, which ``Invalid`` begins with; ``columns``: those of the file that are named."""
    plans = [_plan(spec, name) for spec, name in zip(specs, names, strict=True)]
    with tempfile.TemporaryDirectory(prefix="bucketline-preview-") as folder:
        maps = MapStore(Path(folder))
        maps.put("map", file, format_for_suffix(file).name, Columns(**columns))
        return document(file.name, *previews(maps, [MapSpec(map="map")], plans))


def _plan(spec: Mapping[str, Any], name: str) -> PlanFields:
    given = {field: value for field, value in spec.items() if field not in ("map", "maps")}
    try:
        plan = PlanFields.model_validate(given)
        plan.with_sizes()
    except ValidationError as error:
        raise Invalid(name, from_pydantic(error, given).detail) from error
    except Invalid as error:
        raise Invalid(name, error.detail) from error
    return plan
