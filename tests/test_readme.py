"""README.md is true: its examples run, on other ports, and its figures are those of the service."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bucketline import Batch, BucketClient, Operator
from bucketline_service.cli import offline_preview
from tests.server import COCO
from tests.shell import ROOT, Document, Shell

README = Document(ROOT / "README.md")
STORES = Document(ROOT / "docs" / "how-to" / "choose-a-store.md")
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


def train(shell: Shell, checkpoint: Any, rank: int) -> tuple[list[list[int]], list[dict[str, Any]]]:
    """Run the training loop as one of 4 ranks: the ids of each batch that it trained on, and what it saved."""
    trained: list[list[int]] = []
    saved: list[dict[str, Any]] = []
    names = {
        "checkpoint": checkpoint,
        "load_images": lambda ids, size: ids,
        "model": None,
        "rank": rank,
        "save": saved.append,
        "train_step": trained.append,
        "world_size": 4,
    }
    exec(shell.with_ports(block("python", "client.epoch(rank)")), names)
    return trained, saved


def test_the_loop_trains_an_epoch_once_on_4_ranks_and_resumes_from_its_checkpoint(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUCKETLINE_SESSION", "first")
    first = [train(shell, None, rank) for rank in range(4)]
    images = [image for trained, _ in first for ids in trained for image in ids]
    assert [len(trained) for trained, _ in first] == [156] * 4
    assert len(set(images)) == len(images) == 4992
    saved = first[0][1]
    assert [entry["data"]["step"] for entry in saved] == [50, 100, 150]
    monkeypatch.setenv("BUCKETLINE_SESSION", "second")
    assert [train(shell, saved[1], rank)[0] for rank in (0, 3)] == [first[rank][0][100:] for rank in (0, 3)]


def imbalance(ranks: list[list[Batch]]) -> float:
    """The pixels of each step's largest batch over those of its mean one, of batches of as many images."""
    steps = [[batch.width * batch.height for batch in step] for step in zip(*ranks, strict=True)]
    return sum(map(max, steps)) * len(ranks) / sum(map(sum, steps))


def test_another_number_of_ranks_gets_the_rest_of_the_epoch_and_then_one_that_is_planned_for_it(
    shell: Shell,
) -> None:
    with Operator(shell.url) as operator:
        operator.put_run("elastic", {"map": "coco", "world_size": 4, "batch_size": 8})
    with BucketClient(shell.url, run="elastic") as client:
        client.begin(None, world_size=4, session="of 4")
        before = {image for rank in range(4) for _ in range(10) for image in client.next_batch(rank).ids}
        session = client.begin(client.state_dict(), world_size=6, session="of 6")
        after = [list(client.epoch(rank)) for rank in range(6)]
        later = [list(client.epoch(rank)) for rank in range(6)]
    images = [image for batches in after for batch in batches for image in batch.ids]
    assert session.left_out_batches == (624 - 40) % 6 < 6
    assert len(set(images)) == len(images) == (624 - 40 - session.left_out_batches) * 8
    assert not before & set(images)
    assert session.mixed_steps > 0
    assert imbalance(later) < 1.002 < 1.02 < imbalance(after)
    sizes = {
        (image, batch.width, batch.height)
        for batches in [*after, *later]
        for batch in batches
        for image in batch.ids
    }
    assert len(sizes) == len({image for image, *_ in sizes}) > 4990


def test_the_left_out_images_are_as_many_as_it_says() -> None:
    specs = [{"world_size": world_size, "batch_size": 8} for world_size in (4, 64)]
    answer = offline_preview.run(COCO, specs, ["4", "64"], offline_preview.Reading())
    few, many = (each["stats"]["dropped"] for each in answer["previews"])
    text = re.sub(r"\s+", " ", README.text)
    exactly_once = (ROOT / "docs" / "concepts" / "exactly-once.md").read_text()
    assert (few, many) == (8, 392)
    assert f"train {5000 - few:,} in an epoch; the {few} left out ({few / 50:.2f} %)" in text
    assert f"On 64 ranks it is {many} ({many / 50:.1f} %)" in text
    assert f"serves {5000 - few:,} images once, and leaves\nout {few} ({few / 50:.2f} %)" in exactly_once
    assert f"leaves out {many} of the 5,000 images of an epoch ({many / 50:.1f} %)" in exactly_once


def test_the_crops_and_the_waiting_are_as_it_says(tmp_path: Path) -> None:
    """What the changelog says of the new default, too."""
    file = tmp_path / "first.csv"
    file.write_text("".join(COCO.read_text().splitlines(keepends=True)[:501]))
    specs = [{"world_size": 8, "batch_size": 8, "steps": steps} for steps in ("same_shape", "balanced")]
    answer = offline_preview.run(file, specs, ["before", "now"], offline_preview.Reading())
    before, now = (each["stats"] for each in answer["previews"])
    lost = [f"{100 * stats['crop_loss_served']:.1f} %" for stats in (before, now)]
    nearest = f"{100 * now['crop_loss']['mean']:.1f} %"
    waiting = f"ranks wait {100 * (1 - 1 / now['step_imbalance']):.1f} % of their time"
    for document in (README.text, (ROOT / "CHANGELOG.md").read_text()):
        text = re.sub(r"\s+", " ", document)
        assert re.search(rf"los[et] {lost[0]}.*crops? {nearest}.*lose {lost[1]}.*{waiting}", text)


def test_calls_of_an_operator_answer(shell: Shell) -> None:
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
    """From the first step on, in its own session, whatever the other examples have consumed."""
    with BucketClient(shell.url, run="sdxl-base") as client:
        client.begin(None, session="of curl")
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


@pytest.mark.exhaustive
def test_moving_to_redis(shell: Shell) -> None:
    """Last of the shell's: it needs the port of the first coordinator."""
    shell.end()
    shell.run(STORES.block("bash", "--appendfsync always").rstrip() + " &")  # a user has a terminal for it
    with Operator(shell.url) as operator:
        assert operator.runs() == []  # the runs have not moved; the map is a file, and is there
        assert [each["map"] for each in operator.maps()] == ["coco"]


@pytest.mark.parametrize("target", re.findall(r"^make (\S+)", block("bash", "make demo"), re.MULTILINE))
def test_the_two_commands_are_targets(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_loop_is_on_the_first_screen() -> None:
    assert README.text.index("client.epoch(rank)") < README.text.index("## ")
