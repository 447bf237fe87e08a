"""docs/how-to/train-on-packs.md is true: its commands print what it shows, and its numbers are those of the plans."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from bucketline import Invalid, Operator
from bucketline_service.cli import offline_preview
from tests.server import COCO
from tests.shell import ROOT, Document, Shell

GUIDE = Document(ROOT / "docs" / "how-to" / "train-on-packs.md")
SPEC: dict[str, Any] = json.loads(GUIDE.block("bash", "run put").split("<<'JSON'\n")[1].split("\nJSON\n")[0])


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """In a folder with COCO's sizes, and a coordinator that has the guide's run."""
    shell = Shell(tmp_path_factory.mktemp("packs"))
    shutil.copy(COCO, shell.folder)
    try:
        shell.run("bucketline serve &\n" + GUIDE.block("bash", "run put"))
        yield shell
    finally:
        shell.end()


def test_the_preview_prints_what_the_guide_shows(shell: Shell) -> None:
    printed = shell.run(GUIDE.block("bash", "bucketline preview"))
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", GUIDE.text, re.MULTILINE | re.DOTALL)
    (shown,) = (text for language, text in blocks if not language)
    lines = shown.splitlines()
    assert [line.rstrip() for line in printed[: len(lines)]] == lines


def test_the_place_of_an_image_is_what_the_guide_shows(shell: Shell) -> None:
    command, *shown = GUIDE.block("console", "run explain").splitlines()
    assert shell.run(command.removeprefix("$ ")) == shown


def test_the_table_of_few_images_is_what_is_planned() -> None:
    table = GUIDE.text.split("| `max_tokens`, 64 ranks |")[1].split("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table]
    budgets = [int(row[0].replace(",", "")) for row in rows]
    spec = {name: value for name, value in SPEC.items() if name != "map"}
    specs = [{**spec, "world_size": 64, "pack": {"max_tokens": budget}} for budget in budgets]
    answer = offline_preview.run(COCO, specs, [row[0] for row in rows], offline_preview.Reading())
    for (_, *told), each in zip(rows, answer["previews"], strict=True):
        stats, packs = each["stats"], each["stats"]["packs"]
        found = (stats["num_steps"], stats["dropped"], f"{packs['full']:.1%}")
        assert told == [*map(str, found), f"{packs['attention_imbalance']:.3f}"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pack": {"max_tokens": 1024}}, "1,024 tokens do not hold the longest image, which has 1,600"),
        (
            {"world_size": 512},
            "a unit is lockstep 512 packs, but an epoch has only 317 packs of 16,384 tokens",
        ),
        ({"tails": "pad"}, "tails: has no effect with pack"),
        ({"last_step": "fill"}, "last_step: fill is not supported with pack"),
        (
            {
                "cost": {
                    "kind": "measured",
                    "seconds": [{"width": 64, "height": 64, "batch_size": 1, "seconds": 1}],
                }
            },
            "cost.kind: measured is not supported with pack",
        ),
    ],
    ids=lambda given: given if isinstance(given, str) else ",".join(given),
)
def test_a_refusal_says_what_the_guide_says(shell: Shell, fields: dict[str, Any], message: str) -> None:
    with Operator(shell.url) as operator, pytest.raises(Invalid) as refused:
        operator.put_run("refused", {**SPEC, **fields})
    assert message in str(refused.value)
    assert f"{message}`" in GUIDE.text
