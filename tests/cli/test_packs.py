"""What the commands say of a plan of packs, beside plans of buckets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bucketline import Operator
from bucketline_service.terminal import images
from bucketline_service.terminal import runs as text
from tests.cli.commands import run_here
from tests.server import COCO, ServerProcess

SPEC = {
    "world_size": 4,
    "ladder": {"kind": "native", "max_pixels": 262144, "num_lengths": 8},
    "pack": {"max_tokens": 4096},
}
PUT = ("--map=coco", "--world-size=4", "--ladder=native", "--set=pack.max_tokens=4096")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """With a run of packs over ``coco``, and one over ``few``, some of whose images are pruned."""
    server = ServerProcess(tmp_path_factory.mktemp("packs"))
    api = server.api()
    api.put_csv("coco", COCO.read_bytes(), 201)
    few = "".join(f"{i},{320 + 16 * (i % 3)},320\n" for i in range(40)) + "small,15,300\nwide,900,200\n"
    api.put_csv("few", f"id,width,height\n{few}", 201)
    api.put("/v1/runs/packed", {"map": "coco", **SPEC}, 201)
    limits = {"max_crop_loss": 0.01, "min_size": 201}
    spec = {"map": "few", "world_size": 1, "ladder": "native", "pack": {"max_tokens": 2000}, "assign": limits}
    api.put("/v1/runs/limited", spec, 201)
    yield server
    server.close()


def ask(server: ServerProcess, *arguments: str) -> str:
    """What it prints; it fails where anything goes wrong."""
    status, out, errors = run_here(*arguments, BUCKETLINE_URL=server.url)
    assert (status, errors) == (0, "")
    return out


def packs_of(server: ServerProcess, run: str) -> dict[str, Any]:
    stats: dict[str, Any] = server.api().get(f"/v1/runs/{run}/stats")
    packs: dict[str, Any] = stats["packs"]
    return packs


def test_a_run_of_packs_from_options_alone(server: ServerProcess) -> None:
    document = json.loads(ask(server, "run", "put", "new", *PUT, "--json"))
    ask(server, "run", "delete", "new")
    assert document["spec"]["pack"] == {"max_tokens": 4096, "frame_stride": 1}
    assert document["spec"]["ladder"]["kind"] == "native"
    assert document["spec"]["batch_size"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set=pack.max_tokens=0"], "--set pack.max_tokens: must be at least 1, got 0\n"),
        (["--set=pack.max_tokens=100"], "--set pack.max_tokens: 100 tokens do not hold the longest image"),
        (["--batch-size=8", "--set=pack.max_tokens=4096"], "--batch-size: must be given alone, got "),
        (["--batch-size=8"], "--ladder: kind: native has no buckets, so that a batch is a pack. Give "),
        ([], "--ladder: kind: native has no buckets, so that a batch is a pack. Give "),
        (["--set=pack.max_tokens=4096", "--ladder=sdxl"], "pack: holds images at their own sizes"),
    ],
)
def test_what_is_wrong_with_packs_is_said_of_the_option(
    server: ServerProcess, arguments: list[str], words: str
) -> None:
    given = ["--map=coco", "--world-size=4", "--ladder=native", *arguments]
    status, out, errors = run_here("run", "put", "new", *given, BUCKETLINE_URL=server.url)
    assert (status, out, errors.count("\n")) == (1, "", 1)
    assert f"bucketline: {words}" in errors


@pytest.mark.parametrize("command", ["show", "stats"])
def test_a_plan_is_its_lengths_and_how_full_its_packs_are(server: ServerProcess, command: str) -> None:
    lines = ask(server, "run", command, "packed").splitlines()
    packs = packs_of(server, "packed")
    begin = next(at for at, line in enumerate(lines) if line.split()[:2] == ["length", "images"])
    table = [line.replace("█", "").split() for line in lines[begin + 1 : begin + 1 + len(packs["lengths"])]]
    assert table == [
        [
            *(str(each[name]) for name in ("length", "num_images", "num_slots")),
            f"{each['num_served']:.0f}",
        ]
        for each in packs["lengths"]
    ]
    told = " ".join(lines[begin + 1 + len(packs["lengths"]) :])
    assert told.startswith(
        f"{packs['num_kinds']} kinds of pack, of at most 4096 tokens: {packs['full']:.2%} full, "
        f"{packs['padding']:.2%} padding, {packs['unused']:.2%} unused"
    )
    assert "5000 of 5000 images assigned" in told
    assert f"{server.api().get('/v1/runs/packed/stats')['num_batches']} packs, " in told


def test_an_image_in_a_pack_is_explained(server: ServerProcess) -> None:
    with Operator(server.url) as operator:
        answer = operator.image("packed", 397, epoch=3)
    (coming,) = answer["served"]
    lines = ask(server, "run", "explain", "packed", "397", "--epoch=3").splitlines()
    assert lines[0] == "image 397 of map coco: 640x480, aspect 1.333"
    length = answer["nearest"]["length"]
    lengths = [each["length"] for each in packs_of(server, "packed")["lengths"]]
    assert length == lengths[answer["bucket"]]
    assert lines[1] == f"length {length}, 576x432: resized to 576x432, cropped from (0, 0), 0.00% lost"
    assert lines[2:] == [
        f"epoch 3: step {coming['step']} on rank {coming['rank']}, image {coming['slot']} of its pack; "
        f"kind {coming['kind']}, a slot of {coming['length']} tokens"
    ]
    assert coming["length"] in lengths
    assert coming["length"] >= length


def test_an_image_that_packs_leave_out_or_that_is_pruned_is_explained(server: ServerProcess) -> None:
    rows = [row.split(",") for row in ask(server, "run", "ledger", "packed").splitlines()[1:]]
    left_out = [(image_id, reason.strip('"')) for _, what, reason, image_id, _ in rows if "left_out" in what]
    assert left_out
    for image_id, reason in dict(zip(*zip(*left_out, strict=True), strict=True)).items():
        lines = ask(server, "run", "explain", "packed", image_id).splitlines()
        assert lines[-1] == f"epoch 0: left out: {images.WHY_LEFT_OUT_OF_PACKS[reason]}"
        assert lines[1].startswith("length ")
    assert "bucket" not in "".join(images.WHY_LEFT_OUT_OF_PACKS[reason] for _, reason in left_out)
    small, wide = (ask(server, "run", "explain", "limited", name).splitlines() for name in ("small", "wide"))
    assert small[1:] == [f"in no pack: {images.WHY_PRUNED_OF_PACKS['min_size']}"]
    assert wide[1].startswith(f"in no pack: {images.WHY_PRUNED_OF_PACKS['min_size']}")
    assert images.WHY_PRUNED_OF_PACKS.keys() == images.WHY_PRUNED.keys()


def test_packs_stand_beside_buckets(tmp_path: Path) -> None:
    specs = {"packs": SPEC, "buckets": {"world_size": 4, "batch_size": 8}}
    options = []
    for name, spec in specs.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(spec))
        options.append(f"--spec={tmp_path / name}.json")
    status, out, _ = run_here("preview", str(COCO), *options)
    answer = json.loads(run_here("preview", str(COCO), *options, "--json")[1])
    assert status == 0
    cells = {" ".join(words[:-2]): words[-2:] for words in (line.split() for line in out.splitlines())}
    packs = answer["previews"][0]["stats"]["packs"]
    of_packs = {
        "packs, full": f"{packs['full']:.2%}",
        "padding": f"{packs['padding']:.2%}",
        "unused": f"{packs['unused']:.2%}",
        "imbalance in tokens": f"{packs['token_imbalance']:.3f}",
        "in attention": f"{packs['attention_imbalance']:.3f}",
    }
    assert {name: cells[name] for name in of_packs} == {name: [told, "-"] for name, told in of_packs.items()}
    assert cells["largest"] == ["-", "1024x384"]
    sizes = [float(each) for each in re.findall(r"size, mean +([\d.]+) MP +([\d.]+) MP", out)[0]]
    assert sizes[0] == round(packs["mean_area_px"] / 1e6, 3) < 0.262144
    alone = run_here("preview", str(COCO), options[1])[1]
    assert not [name for name in of_packs if name in alone]


def test_a_mean_size_is_that_of_the_images_served(tmp_path: Path) -> None:
    """Of two sizes of image, as many as there are of each; clips count a frame."""
    rows = "".join(f"{i},{640 if i % 4 else 320},320,{1 + i % 2}\n" for i in range(400))
    (tmp_path / "map.csv").write_text(f"id,width,height,num_frames\n{rows}")
    spec = {"world_size": 1, "ladder": "native", "pack": {"max_tokens": 1600}, "frame_buckets": [1, 2]}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    command = ("preview", str(tmp_path / "map.csv"), f"--spec={tmp_path / 'spec.json'}", "--json")
    stats = json.loads(run_here(*command)[1])["previews"][0]["stats"]
    assert (stats["dropped"], stats["num_samples"]) == (0, 400)
    assert stats["packs"]["mean_area_px"] == pytest.approx((640 * 3 + 320) / 4 * 320)


def test_an_older_coordinator_knows_no_packs(capsys: pytest.CaptureFixture[str]) -> None:
    """Its stats have no field for them."""
    stats = json.loads(run_here("preview", str(COCO), "--json")[1])["previews"][0]["stats"]
    console = Console(width=100)
    told = []
    for each in (stats, {name: value for name, value in stats.items() if name != "packs"}):
        text.stats(console, {**each, "run": "old", "world_size": 8})
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]
    assert "packs" not in told[0]
