"""A planner is registered once, and nothing else compares its name."""

from __future__ import annotations

import re
from functools import reduce
from pathlib import Path

import pytest

import bucketline_service
from bucketline_service.planning.planner_kinds import DEFAULT, PLANNERS
from bucketline_service.spec.run_spec import PlanFields

SERVICE = Path(bucketline_service.__file__).parent


def test_the_spec_offers_the_registered_planners():
    assert PlanFields.model_json_schema()["properties"]["planner"]["enum"] == list(PLANNERS)
    assert PlanFields(world_size=1, batch_size=1).planner == DEFAULT.name


@pytest.mark.parametrize("kind", PLANNERS.values(), ids=list(PLANNERS))
def test_what_a_planner_implies_or_defaults_is_a_field_of_the_spec_and_is_written_out(kind):
    spec = PlanFields(planner=kind.name, world_size=1, batch_size=1).resolved()
    for field, value in {**kind.implies, **kind.defaults}.items():
        assert reduce(getattr, field.split("."), spec) == value


def test_no_code_compares_the_name_of_a_planner():
    compared = re.compile(r"planner (==|!=|in) |isinstance\(\w+, \w*Planner\)")
    found = {
        str(file.relative_to(SERVICE))
        for file in SERVICE.rglob("*.py")
        if compared.search(file.read_text(encoding="utf-8"))
    }
    assert found <= {"planning/planner_kinds/line.py", "planning/ledger.py"}
