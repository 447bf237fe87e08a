"""Client and service shard an epoch's stream by the same arithmetic: both against one table of cases."""

import json
from pathlib import Path

import pytest

from bucketline import Cursor, Deal
from bucketline_service.runs.sharding import Sharding, Span
from bucketline_service.store import port
from tests.planning.lines import line

TABLE = json.loads((Path(__file__).parents[1] / "sharding_cases.json").read_text())
DEALS = pytest.mark.parametrize("deal", TABLE["deals"], ids=lambda deal: deal["name"])
PLANNER = line([70, 33, 121], 2, 4).planner  # 112 batches an epoch


@DEALS
def test_the_client(deal):
    mine = Deal(Cursor(*deal["origin"]), deal["offset"], deal["world_size"])
    for case in deal["cases"]:
        consumed = mine.consumed(Cursor(case["epoch"], case["step"]))
        assert (consumed, consumed + case["rank"]) == (case["consumed"], case["position"])


@DEALS
def test_the_service(deal):
    sharding = Sharding(PLANNER, deal["world_size"], port.Cursor(*deal["origin"]), deal["offset"])
    for case in deal["cases"]:
        epoch, step, rank = case["epoch"], case["step"], case["rank"]
        assert sharding.consumed(port.Cursor(epoch, step)) == case["consumed"]
        assert sharding.positions(Span(epoch, step, 1), rank).tolist() == [case["position"]]
        assert sharding.step_of(epoch, case["position"]) == (step, rank)
