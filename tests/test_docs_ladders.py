"""The pages on ladders are true: tables are what the code makes, and every kind, parameter and preset is there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from benchmarks import ladders as benchmark
from rich.console import Console

from bucketline_service.cli import offline_preview
from bucketline_service.planning.buckets.preset_ladders import PRESETS
from bucketline_service.spec.ladder_kinds import AnyLadder
from bucketline_service.terminal import plan_costs
from tests.server import COCO

DOCS = Path(__file__).parents[1] / "docs"
DOC = (DOCS / "reference" / "ladders.md").read_text()
CHOOSE = (DOCS / "how-to" / "choose-a-ladder.md").read_text()


def rows(header: str) -> dict[str, list[str]]:
    """The cells of each row of the table with this header, by the first one's name."""
    table = DOC.split(header)[1].split("\n\n")[0]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]
    return {first.strip("`"): rest for first, *rest in cells}


def test_the_table_of_costs_is_what_the_benchmark_prints() -> None:
    assert "\n".join(benchmark.table()) in DOC


def test_every_kind_is_there_with_its_parameters() -> None:
    told = rows("| kind | parameters | what it is | source |")
    models = {get_args(m.model_fields["kind"].annotation)[0]: m for m in get_args(get_args(AnyLadder)[0])}
    assert told.keys() == models.keys()
    for kind, (parameters, *_) in told.items():
        assert re.findall(r"`(\w+)`", parameters) == [f for f in models[kind].model_fields if f != "kind"]


def test_every_preset_is_there_with_its_number_of_sizes() -> None:
    told = rows("| name | sizes | what they are |")
    assert {name: int(cells[0].split(",")[0]) for name, cells in told.items()} == {
        name: len(sizes) for name, sizes in PRESETS.items()
    }


@pytest.mark.exhaustive
def test_the_table_of_lengths_is_what_plans_have() -> None:
    table = rows("| `num_lengths` |")
    head = next(line for line in DOC.splitlines() if line.startswith("| `num_lengths` |"))
    specs = [
        {
            "world_size": 8,
            "ladder": {"kind": "native", "num_lengths": int(num)},
            "pack": {"max_tokens": 16384},
        }
        for num in head.split("|")[2:-1]
    ]
    answer = offline_preview.run(COCO, specs, head.split("|")[2:-1], offline_preview.Reading())
    packs = [each["stats"]["packs"] for each in answer["previews"]]
    assert table["tokens of images, of all tokens"] == [f"{100 * each['full']:.2f} %" for each in packs]
    assert table["kinds of pack"] == [str(each["num_kinds"]) for each in packs]


def test_the_comparison_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    commands, shown = re.findall(r"^```(?:bash)?\n(.*?)^```$", CHOOSE, re.MULTILINE | re.DOTALL)
    specs = {name: json.loads(text) for text, name in re.findall(r"echo '([^']*)' > (\w+)\.json", commands)}
    assert re.findall(r"--spec (\w+)", commands) == list(specs)
    answer = offline_preview.run(COCO, list(specs.values()), list(specs), offline_preview.Reading())
    plan_costs.comparison_table(Console(width=80), answer, list(specs))
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines == shown.splitlines()
