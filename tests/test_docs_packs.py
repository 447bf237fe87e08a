"""docs/how-to/train-on-packs.md is true: its commands print what it shows, and its numbers are those of the plans."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bucketline_service.cli import offline_preview
from bucketline_service.terminal import plan_costs
from tests.server import COCO
from tests.shell import ROOT, Document, Shell

GUIDE = Document(ROOT / "docs" / "how-to" / "train-on-packs.md")
PUT, PREVIEW = (GUIDE.block("bash", f"bucketline {command}") for command in ("run put", "preview"))
SPEC: dict[str, Any] = json.loads(PUT.split("<<'JSON'\n")[1].split("\nJSON\n")[0])
(SHOWN,) = re.findall(
    r"```bash\n[^`]*preview[^`]*```\n\n```\n(.*?)^```$", GUIDE.text, re.MULTILINE | re.DOTALL
)
MEASURED = {"kind": "measured", "seconds": [{"width": 64, "height": 64, "batch_size": 1, "seconds": 1}]}


def preview(specs: list[dict[str, Any]]) -> dict[str, Any]:
    """Of plans for COCO."""
    specs = [{name: value for name, value in spec.items() if name != "map"} for spec in specs]
    return offline_preview.run(COCO, specs, [""] * len(specs), offline_preview.Reading())


@pytest.mark.exhaustive
def test_the_commands_print_what_the_guide_shows(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    shutil.copy(COCO, shell.folder)
    try:
        shell.run(f"bucketline serve &\n{PUT}")
        assert [line.rstrip() for line in shell.run(PREVIEW)][: len(SHOWN.splitlines())] == SHOWN.splitlines()
        command, *shown = GUIDE.block("console", "run explain").splitlines()
        assert shell.run(command.removeprefix("$ ")) == shown
    finally:
        shell.end()


def test_the_comparison_is_that_of_the_two_specs(capsys: pytest.CaptureFixture[str]) -> None:
    (buckets,) = re.findall(r"echo '([^']*)' > buckets.json", PREVIEW)
    answer = preview([SPEC, json.loads(buckets)])
    plan_costs.comparison_table(Console(width=80), answer, ["packs", "buckets"])
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[: len(SHOWN.splitlines())] == SHOWN.splitlines()


@pytest.mark.exhaustive
def test_the_table_of_few_images_is_what_is_planned() -> None:
    table = GUIDE.text.split("| `max_tokens`, 64 ranks |")[1].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table]
    budgets = [int(row[0].replace(",", "")) for row in rows]
    answer = preview([{**SPEC, "world_size": 64, "pack": {"max_tokens": budget}} for budget in budgets])
    for (_, *told), each in zip(rows, answer["previews"], strict=True):
        stats, packs = each["stats"], each["stats"]["packs"]
        found = (stats["num_steps"], stats["dropped"], f"{packs['full']:.1%}")
        assert told == [*map(str, found), f"{packs['attention_imbalance']:.3f}"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"pack": {"max_tokens": 1024}},
            "pack.max_tokens: 1,024 tokens do not hold the longest image, which has 1,600",
        ),
        (
            {"world_size": 512},
            "pack.max_tokens: a unit is lockstep 512 packs, but an epoch has only 317 packs of 16,384 tokens",
        ),
        ({"tails": "pad"}, "tails: has no effect with pack"),
        ({"last_step": "fill"}, "last_step: fill is not supported with pack"),
        ({"cost": MEASURED}, "cost.kind: measured is not supported with pack"),
    ],
    ids=["max_tokens", "world_size", "tails", "last_step", "cost"],
)
def test_a_refusal_says_what_the_guide_says(fields: dict[str, Any], message: str) -> None:
    (refused,) = preview([{**SPEC, **fields}])["previews"]
    assert message in refused["problem"]["detail"]
    assert f"`{message}`" in GUIDE.text
