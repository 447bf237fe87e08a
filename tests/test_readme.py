"""README.md is true: its examples run, with other ports; its table is the spec's; its links lead somewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

import pytest
from pydantic import BaseModel

from bucketline import Operator
from bucketline_service.spec.ladders import FittedLadder, GeometricLadder, KohyaLadder, TiersLadder
from bucketline_service.spec.run_spec import AssignSpec, RunSpec
from tests.shell import ROOT, Document, Shell

README = Document(ROOT / "README.md")
block = README.block


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    shell = Shell(tmp_path_factory.mktemp("readme"), redis=True)
    (shell.folder / "service").symlink_to(ROOT / "service")  # the examples run in a checkout
    try:
        shell.run(block("bash", "map put"))
        yield shell
    finally:
        shell.end()


WORKER = """
import json, os, sys
checkpoint = json.loads(os.environ["CHECKPOINT"])
rank, world_size = int(os.environ["RANK"]), 4
model = None
def load_images(ids, size): return [ids, size]
def train_step(images): print(json.dumps(["trained", images]))
def save(checkpoint): print(json.dumps(["saved", checkpoint]))
"""


def train(shell: Shell, checkpoint: Any, session: str) -> list[tuple[list[Any], list[Any]]]:
    """Run the training loop in a process for each of the 4 ranks: what each trained on, and what it saved."""
    program = WORKER + shell.with_ports(block("python", "client.epoch(rank)"))
    environ = {**os.environ, "CHECKPOINT": json.dumps(checkpoint), "BUCKETLINE_SESSION": session}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env={**environ, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(4)
    ]
    found = []
    for worker in workers:
        lines = [json.loads(line) for line in worker.communicate()[0].splitlines()]
        assert worker.returncode == 0
        found.append(tuple([about for kind, about in lines if kind == name] for name in ("trained", "saved")))
    return found


def test_training_loop_iterates_an_epoch_and_resumes_on_every_rank(shell: Shell) -> None:
    first = train(shell, None, "first")
    images = [image for trained, _ in first for ids, _ in trained for image in ids]
    assert [len(trained) for trained, _ in first] == [156] * 4
    assert len(set(images)) == len(images) == 4992
    assert [entry["data"]["step"] for entry in first[0][1]] == [50, 100, 150]
    again = train(shell, first[0][1][1], "second")
    assert [trained for trained, _ in again] == [trained[100:] for trained, _ in first]


def test_operators_calls_answer(shell: Shell) -> None:
    lines = shell.run(block("bash", "/images/397"))
    answers, metrics = "\n".join(lines).split("# HELP", 1)
    documents = []
    decoder = json.JSONDecoder()
    while answers.strip():
        document, end = decoder.raw_decode(answers.strip())
        documents.append(document)
        answers = answers.strip()[end:]
    ready, run, stats, ranks, image, batches = documents
    assert ready == {"status": "ready"}
    assert (run["run"], run["status"]) == ("sdxl-base", "ready")
    assert stats["num_steps"] == 156
    assert len(ranks["ranks"]) == 4
    assert image["id"] == 397
    assert [(batch["epoch"], batch["step"], batch["rank"]) for batch in batches["batches"]] == [(7, 100, 3)]
    assert "bucketline_batches_served_total" in metrics


def test_curl_drives_a_rank(shell: Shell) -> None:
    """From the first step on: a session of its own, whatever the other examples have consumed."""
    body = json.dumps({"session": "readme", "resume": "start"})
    shell.run(
        f"curl -sf -X POST -H 'Content-Type: application/json' {shell.url}/v1/runs/sdxl-base/sessions -d '{body}'"
    )
    (line,) = shell.run(block("bash", "RANK="))
    decoder = json.JSONDecoder()
    first, end = decoder.raw_decode(line)
    second, _ = decoder.raw_decode(line[end:])
    assert first["cursor"] == {"epoch": 0, "step": 0}
    assert first["batches"][0]["step"] == 0
    assert second["cursor"] == {"epoch": 0, "step": 1}
    assert second["batches"][0]["step"] == 1


def test_specs_are_previewed_side_by_side(shell: Shell) -> None:
    head, images, *_ = shell.run(block("bash", "bucketline preview"))
    assert head.split() == ["run", "fitted"]
    assert images.split() == ["images", "5000", "5000"]


def test_moving_to_redis(shell: Shell) -> None:
    """Last of the shell's: it needs the port of the first coordinator."""
    shell.end()
    shell.run(block("bash", "--appendfsync always").rstrip() + " &")  # a user has a terminal for it
    with Operator(shell.url) as operator:
        assert operator.runs() == []  # the runs have not moved; the map is a file, and is there
        assert [each["map"] for each in operator.maps()] == ["coco"]


# of a union of models, tagged or not
LADDERS: list[type[BaseModel]] = [
    get_args(kind)[0] if get_origin(kind) is Annotated else kind
    for kind in get_args(RunSpec.model_fields["ladder"].annotation)
]


def _rows() -> dict[str, tuple[str, str]]:
    """Of each field its default, and what it is."""
    table = README.text.split("## The run spec")[1].split("\n\n")[2]
    cells = [line.split("|") for line in table.splitlines()[2:]]
    return {field.strip(" `"): (default.strip(" `"), text) for _, field, default, text, _ in cells}


def test_the_spec_table_has_every_field_and_its_default() -> None:
    top = [name for name in RunSpec.model_fields if name not in ("ladder", "assign")]
    ladders = [name for kind in LADDERS for name in kind.model_fields]
    fields = {
        *top,
        *(f"ladder.{name}" for name in ladders),
        *(f"assign.{name}" for name in AssignSpec.model_fields),
    }
    rows = _rows()
    assert rows.keys() == fields
    resolved = RunSpec(map="m", world_size=4, batch_size=8).resolved().to_json()
    defaults: dict[str, Any] = {name: resolved[name] for name in top}
    budget = RunSpec(map="m", world_size=4, max_tokens_per_batch=10**6).resolved().to_json()
    defaults |= {
        name: value for name, value in budget.items() if resolved[name] is None and "max_t" not in name
    }
    for kind in (
        TiersLadder(kind="tiers", resolution=[512]),
        GeometricLadder(kind="geometric"),
        FittedLadder(kind="fitted"),
        KohyaLadder(kind="kohya"),
    ):
        defaults |= {f"ladder.{name}": value for name, value in kind.model_dump(mode="json").items()}
    defaults |= {f"ladder.{name}": value for name, value in resolved["ladder"].items()}
    defaults |= {f"assign.{name}": value for name, value in resolved["assign"].items()}
    for field, (told, _) in rows.items():
        if told == "":
            assert field in ("map", "world_size", "batch_size", "ladder.name", "ladder.sizes")
        elif field == "lockstep":
            assert told == "world_size"
            assert defaults[field] == defaults["world_size"]
        else:
            value = defaults[field]
            assert told == (value if isinstance(value, str) else json.dumps(value)), field


@pytest.mark.parametrize("kind", LADDERS)
def test_the_spec_table_says_which_ladder_has_a_field_and_its_own_default(kind: type[BaseModel]) -> None:
    rows = _rows()
    name = get_args(kind.model_fields["kind"].annotation)[0]
    for field, about in kind.model_fields.items():
        told, text = rows[f"ladder.{field}"]
        if field == "kind":
            assert f"`{name}`" in text
            continue
        assert re.search(rf"\b{name}\b", text), field
        if about.is_required():
            assert told == ""
        elif told not in (about.default, json.dumps(about.default)):
            assert f"{name} (there `{json.dumps(about.default)}`)" in text, field


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)]+)\)", README.text))))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target.partition("#")[0]).is_file()  # anchors: test_docs_site


@pytest.mark.parametrize("target", re.findall(r"^make (\S+)", block("bash", "make demo"), re.MULTILINE))
def test_the_two_commands_are_targets(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
