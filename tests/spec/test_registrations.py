"""A ladder kind, a preset or a tails policy is registered in one place. What cannot be derived from there is compared
with it here, so that a test names what is missing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest
import typer

from bucketline_service.cli import app, completion
from bucketline_service.planning.batch_cost import BatchCost
from bucketline_service.planning.buckets.preset_ladders import PRESETS
from bucketline_service.planning.line.remainders import POLICIES
from bucketline_service.spec.batch_cost import COSTS, CostSpec
from bucketline_service.spec.ladder_kinds import LADDER_WORDS, LADDERS, LadderSpec
from bucketline_service.spec.run_spec import PlanFields

ROOT = Path(__file__).parents[2]
COMPARE_PAGE = ROOT / "service/bucketline_service/dashboard/static/compare-specs.js"
SCHEMA = PlanFields.model_json_schema()

NO_EXAMPLE = {"explicit"}
"""Kinds without an example on the compare page: their sizes are the user's own."""


def kinds_in(choice):
    return {SCHEMA["$defs"][one["$ref"].rpartition("/")[2]]["properties"]["kind"]["const"] for one in choice}


def test_every_class_of_ladders_is_registered_under_its_kind():
    assert set(LADDERS.values()) == set(LadderSpec.__subclasses__())
    for kind, model in LADDERS.items():
        assert get_args(model.model_fields["kind"].annotation) == (kind,)


def test_a_spec_takes_every_ladder_and_a_tier_those_that_may_be_one():
    assert kinds_in(SCHEMA["properties"]["ladder"]["oneOf"]) == set(LADDERS)
    tiers = SCHEMA["$defs"]["TiersLadder"]["properties"]["ladders"]["anyOf"][0]["items"]["oneOf"]
    assert kinds_in(tiers) == {kind for kind, model in LADDERS.items() if model.is_tier}


@pytest.mark.parametrize("word", LADDER_WORDS)
def test_a_ladder_that_a_word_names_is_completed_and_in_the_help_of_run_put(word):
    assert PlanFields(world_size=1, batch_size=1, ladder=word).ladder.kind == LADDER_WORDS[word]["kind"]
    assert word in completion.ladders("")
    assert re.search(rf"\b{word}\b", help_of_the_option("--ladder"))


def help_of_the_option(name):
    command = typer.main.get_command(app).commands["run"].commands["put"]
    return next(option.help for option in command.params if name in option.opts)


def test_completion_offers_no_other_ladder():
    assert completion.ladders("") == list(LADDER_WORDS)


@pytest.mark.parametrize("kind", LADDERS)
def test_a_kind_of_ladder_is_in_its_reference_and_on_the_compare_page(kind):
    assert f"| `{kind}` |" in (ROOT / "docs/reference/ladders.md").read_text(encoding="utf-8")
    page = COMPARE_PAGE.read_text(encoding="utf-8")
    assert kind in NO_EXAMPLE or f'"{kind}"' in page


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_in_the_reference_of_ladders(name):
    assert f"| `{name}` |" in (ROOT / "docs/reference/ladders.md").read_text(encoding="utf-8")


def test_the_spec_offers_the_registered_tails_policies():
    assert SCHEMA["properties"]["tails"]["anyOf"][0]["enum"] == list(POLICIES)


def test_every_class_of_costs_is_registered_under_its_kind():
    assert set(COSTS.values()) == set(CostSpec.__subclasses__())
    assert {each.kind for each in BatchCost.__subclasses__()} == set(COSTS)
    for kind, model in COSTS.items():
        assert get_args(model.model_fields["kind"].annotation) == (kind,)
    assert kinds_in(SCHEMA["properties"]["cost"]["oneOf"]) == set(COSTS)


@pytest.mark.parametrize("kind", COSTS)
def test_a_kind_of_cost_is_explained(kind):
    assert f"| `{kind}` |" in (ROOT / "docs/concepts/cost.md").read_text(encoding="utf-8")
    assert f"### `{kind}`" in (ROOT / "docs/reference/run-spec.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("policy", POLICIES)
def test_a_tails_policy_is_explained(policy):
    assert f"| `{policy}` |" in (ROOT / "docs/concepts/mathematics.md").read_text(encoding="utf-8")
