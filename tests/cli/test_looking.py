"""What commands say about runs, the coordinator, their arguments and errors."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bucketline import Operator
from bucketline_service.cli import connection
from bucketline_service.planning.line.image_classes import PRUNED
from bucketline_service.terminal import images
from bucketline_service.terminal.columns import Columns
from bucketline_service.version import VERSION
from tests.cli.commands import Terminal, plain, run_here
from tests.server import COCO, ServerProcess, popen

SPEC = {"map": "coco", "world_size": 4, "batch_size": 8}
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """With maps ``coco`` and ``more``, and run ``run``."""
    server = ServerProcess(tmp_path_factory.mktemp("looking"))
    api = server.api()
    api.put_csv("coco", COCO.read_bytes(), 201)
    api.put_csv(
        "more", "id,width,height\n" + "".join(f"{i},512,{512 + i % 256}\n" for i in range(6000, 6200)), 201
    )
    api.put("/v1/runs/run", {**SPEC, "assign": {"max_crop_loss": 0.08}}, 201)
    api.ack("run", 2, api.lease("run", 2, "host")["lease"], 0, 6)
    yield server
    server.close()


def ask(server: ServerProcess, *arguments: str) -> str:
    """What it prints; it fails where anything goes wrong."""
    status, out, errors = run_here(*arguments, BUCKETLINE_URL=server.url)
    assert (status, errors) == (0, "")
    return out


def spec_of(server: ServerProcess, *arguments: str) -> dict[str, Any]:
    """Put a run, and delete it."""
    document: dict[str, Any] = json.loads(ask(server, "run", "put", "new", *arguments, "--json"))
    ask(server, "run", "delete", "new")
    spec: dict[str, Any] = document["spec"]
    return spec


# --- run put ------------------------------------------------------------------------------------------------


def test_a_plan_that_would_surprise_is_put_with_a_warning(server: ServerProcess) -> None:
    """On standard error, with what to do; whoever looks at the run is told as well, but not that it is trained on."""
    plan = ("--world-size=8", "--batch-size=8", "--set=tails=pad", "--set=steps=same_shape")
    put = ("run", "put", "padded", "--map=coco", *plan)
    status, out, errors = run_here(*put, BUCKETLINE_URL=server.url)
    (told,) = json.loads(ask(server, "run", "show", "padded", "--json"))["run"]["warnings"]
    assert told["code"] == "repeated"
    assert (status, out) == (0, "padded: ready, 8 ranks, 87 steps an epoch\n")
    assert errors == f"bucketline: warning (repeated): {told['message']} {told['remedy']}\n"
    assert json.loads(ask(server, *put, "--json"))["warnings"] == [told]
    shown = ask(server, "run", "show", "padded").splitlines()
    at = shown.index(f"warning (repeated): {told['message']}")
    assert shown[at + 1] == f"  {told['remedy']}"
    server.api().ack("padded", 0, server.api().lease("padded", 0)["lease"], 0, 0)
    status, _, errors = run_here(*put, BUCKETLINE_URL=server.url)
    assert status == 0
    assert errors.splitlines()[1].startswith(
        "bucketline: warning (not_at_start): The run exists and was trained on"
    )
    assert "not_at_start" not in ask(server, "run", "show", "padded")
    ask(server, "run", "delete", "padded", "--yes")


def test_a_run_of_options_alone(server: ServerProcess) -> None:
    least = ["--map", "coco", "--world-size", "4", "--batch-size", "8"]
    spec = spec_of(
        server, *least, "--seed", "7", "--set", "ladder.max_size=[1024, 1024]", "--set", "tails=drop"
    )
    assert (spec["map"], spec["world_size"], spec["batch_size"], spec["seed"]) == ("coco", 4, 8, 7)
    assert (spec["ladder"]["kind"], spec["ladder"]["max_size"], spec["tails"]) == (
        "novelai",
        [1024, 1024],
        "drop",
    )
    for given, ladder in (
        ("kohya", {"kind": "kohya", "resolution": [512, 512]}),
        ("sdxl", {"kind": "preset", "name": "sdxl"}),
        ("fitted", {"kind": "fitted"}),
        ('{"kind": "fitted", "num_buckets": 5}', {"kind": "fitted", "num_buckets": 5}),
    ):
        assert ladder.items() <= spec_of(server, *least, "--ladder", given)["ladder"].items()
        assert ladder.items() <= spec_of(server, *least, "--set", f"ladder={given}")["ladder"].items()


def test_options_count_before_the_files_fields(server: ServerProcess, tmp_path: Path) -> None:
    file = tmp_path / "spec.json"
    file.write_text(json.dumps({**SPEC, "map": None, "maps": [{"map": "more"}], "ladder": {"divisible": 32}}))
    spec = spec_of(server, str(file), "--map", "coco", "--batch-size", "4", "--set", "ladder.min_dim=320")
    assert (spec["map"], spec["maps"], spec["world_size"], spec["batch_size"]) == ("coco", None, 4, 4)
    assert (spec["ladder"]["divisible"], spec["ladder"]["min_dim"]) == (32, 320)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--map", "coco", "--batch-size", "8"], "--world-size: is missing, and has no default\n"),
        (["{file}", "--world-size", "0"], "--world-size: must be at least 1, got 0\n"),
        (["{file}", "--map", "none"], "map 'none' does not exist"),
        (["{file}", "--ladder", "spiral"], "--ladder: must be one of novelai, kohya, "),
        (["{file}", "--set", "ladder=spiral"], "--set ladder: must be one of novelai, kohya, "),
        (["{file}", "--ladder", '{"divisible": 0}'], "--ladder: divisible: must be at least 1, got 0\n"),
        (["{file}", "--set", "mpa=1"], "--set mpa: there is no such field: is it misspelt?\n"),
        (["{file}", "--ladder", "[1"], "--ladder: '[1' is not JSON"),
        (
            ["{file}", "--set", "ladder.max_size=[64,64]"],
            "--set ladder.max_size: no side of min_dim 256 fits",
        ),
        (["{file}", "--set", "ladder.max_size=[64,"], "--set ladder.max_size: '[64,' is not JSON"),
        (["{file}", "--set", "tails=dorp"], "--set tails: must be 'shift', 'spill', "),
        (
            ["{file}", "--set", 'cost={"kind":"flops"}'],
            "--set cost: must be an object whose kind is one of pixels",
        ),
        (
            ["{file}", "--set", 'cost={"kind":"measured","seconds":[{"width":0}]}'],
            "--set cost: seconds.0.width: must be at least 1, got 0",
        ),
        (["{file}", "--set", "seed"], "--set seed: is not FIELD=VALUE"),
        (["{file}", "--set", "seed.low=1", "--seed", "7"], "--set seed.low: seed is 7, which has no fields"),
        (["{bad}"], "{bad}: ladder: kind must be one of novelai, "),
        (["{bad}", "--ladder", "kohya", "--batch-size", "0"], "--batch-size: must be at least 1, got 0\n"),
    ],
)
def test_what_is_wrong_with_a_spec_is_said_of_where_it_was_given(
    server: ServerProcess, tmp_path: Path, arguments: list[str], words: str
) -> None:
    files = {"file": tmp_path / "spec.json", "bad": tmp_path / "bad.json"}
    files["file"].write_text(json.dumps(SPEC))
    files["bad"].write_text(json.dumps({**SPEC, "ladder": {"kind": "spiral"}}))
    given = [argument.format(**files) if argument[:2] in ("{f", "{b") else argument for argument in arguments]
    status, out, errors = run_here("run", "put", "new", *given, BUCKETLINE_URL=server.url)
    assert (status, out, errors.count("\n")) == (1, "", 1)
    assert errors.startswith("bucketline: ")
    assert words.format(**files) in errors if "{" in words[:5] else words in errors
    assert "422" not in errors


# --- looking ------------------------------------------------------------------------------------------------


def test_an_image_is_explained(server: ServerProcess) -> None:
    lines = ask(server, "run", "explain", "run", "397").splitlines()
    assert lines[0] == "image 397 of map coco: 640x480, aspect 1.333"
    assert lines[1] == "bucket 11, 704x512: resized to 704x528, cropped from (0, 8), 3.03% lost"
    with Operator(server.url) as operator:
        (coming,) = operator.image("run", 397, epoch=3)["served"]
    lines = ask(server, "run", "explain", "run", "397", "--epoch", "3").splitlines()
    assert lines[2].startswith(
        f"epoch 3: step {coming['step']} on rank {coming['rank']}, image {coming['slot']} of"
    )


def test_an_image_that_does_not_come_is_explained(server: ServerProcess) -> None:
    """One that is pruned, and one that the epoch leaves out."""
    rows = [row.split(",") for row in ask(server, "run", "ledger", "run").splitlines()]
    ids = {what.strip('"'): (image_id, reason.strip('"')) for _, what, reason, image_id, _ in rows}
    lines = ask(server, "run", "explain", "run", ids["pruned"][0]).splitlines()
    assert lines[1].startswith(
        "in no bucket: too much of it would be cropped away (assign.max_crop_loss); the nearest"
    )
    lines = ask(server, "run", "explain", "run", ids["left_out"][0]).splitlines()
    assert lines[-1] == f"epoch 0: left out: {images.WHY_LEFT_OUT[ids['left_out'][1]]}"
    assert images.WHY_PRUNED.keys() == set(PRUNED)


def test_ranks_the_slowest_first(server: ServerProcess) -> None:
    lines = ask(server, "run", "ranks", "run", "--most", "3").splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["0", "1", "3"]
    assert lines[4] == "and 1 more rank, no further behind"
    document = json.loads(ask(server, "run", "ranks", "run", "--json"))
    assert [each["rank"] for each in document["ranks"]] == [0, 1, 3, 2]
    assert ask(server, "run", "ranks", "run").splitlines()[4].rstrip().endswith(" ago  host")


def test_a_run_of_many_ranks_is_shown_with_its_slowest(server: ServerProcess) -> None:
    ask(server, "run", "put", "wide", "--map", "coco", "--world-size", "40", "--batch-size", "2")
    lines = ask(server, "run", "show", "wide").splitlines()
    assert lines[-1] == "and 8 more ranks: bucketline run ranks wide"
    assert [line.split()[0] for line in lines[-33:-1]] == [str(rank) for rank in range(32)]
    ask(server, "run", "delete", "wide")


def test_stats_are_buckets_and_costs(server: ServerProcess) -> None:
    out = ask(server, "run", "stats", "run")
    stats = json.loads(ask(server, "run", "stats", "run", "--json"))
    assert f"{stats['num_assigned']} of 5000 images assigned" in out
    assert f"max_crop_loss {stats['pruned']['max_crop_loss']}" in " ".join(out.split())


def test_runs_of_several_maps_are_listed(server: ServerProcess) -> None:
    maps = 'maps=[{"map":"coco"},{"map":"more"}]'
    ask(server, "run", "put", "two", "--set", maps, "--world-size=2", "--batch-size=8")
    assert "two  coco and 1 more  ready" in ask(server, "run", "list")
    ask(server, "run", "delete", "two")


def test_status(server: ServerProcess) -> None:
    assert ask(server, "status") == f"{server.url}: ready, bucketline {VERSION}\n"
    assert json.loads(ask(server, "status", "--json")) == {
        "status": "ready",
        "version": VERSION,
        "url": server.url,
    }


def test_events_the_newest_last_and_those_that_come(server: ServerProcess) -> None:
    def ids(text: str) -> list[int]:
        return [json.loads(line)["id"] for line in text.splitlines()]

    with popen("events", "--follow", "--json", environ={"BUCKETLINE_URL": server.url}) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        first = next(line for line in lines if json.loads(line)["event"] == "run_put")
        server.api().session("run", "again")
        begun = next(line for line in lines if json.loads(line)["event"] == "session_begun")
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert ids(first) < ids(begun)
    told = ask(server, "events", "run").splitlines()
    assert told[-1].split("  ")[1:3] == ["session_begun", "run run"]
    assert json.loads(ask(server, "events", "run", "--json"))["events"][-1] == json.loads(begun)
    num_events = len(ask(server, "events").splitlines())
    last = ask(server, "events", "--most", "1").splitlines()
    assert last == [f"and {num_events - 1} older events: --most shows more", *told[-1:]]


def test_a_run_that_has_failed_is_shown_and_is_no_success(tmp_path: Path) -> None:
    """Its map is gone."""
    server = ServerProcess(tmp_path)
    server.api().put_csv("coco", COCO.read_bytes(), 201)
    server.api().put("/v1/runs/run", SPEC, 201)
    server.kill()
    for file in (tmp_path / "maps" / "objects").iterdir():
        file.unlink()
    server.start()
    for command in (["run", "show", "run"], ["run", "show", "run", "--json"], ["top", "run", "--once"]):
        status, out, errors = run_here(*command, BUCKETLINE_URL=server.url)
        assert (status, errors) == (1, "")
        assert "failed" in out
    for command in (["run", "stats", "run"], ["run", "explain", "run", "397"], ["run", "ranks", "run"]):
        status, out, errors = run_here(*command, BUCKETLINE_URL=server.url)
        assert (status, out, errors.count("\n")) == (1, "", 1)
    assert run_here("run", "list", BUCKETLINE_URL=server.url)[0] == 0
    server.close()


# --- what goes wrong ----------------------------------------------------------------------------------------


def test_what_can_not_be_reached_is_told_with_how_to_name_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "TIMEOUT_S", 0.1)
    for url, words in ((NOWHERE, "`bucketline serve`"), ("nonsense", "http://")):
        status, out, errors = run_here("run", "list", BUCKETLINE_URL=url)
        assert (status, out, errors.count("\n")) == (1, "", 1)
        assert url in errors
        assert words in errors
        assert errors.endswith("(--url or BUCKETLINE_URL)\n")


@pytest.mark.parametrize(
    "arguments",
    [["rnu"], ["run", "lits"], ["run", "show"], ["map", "put", "one"], ["top", "--interval-s", "0"]],
)
def test_what_is_no_command_has_exit_status_2(arguments: list[str]) -> None:
    status, out, errors = run_here(*arguments)
    assert (status, out) == (2, "")
    assert "Error: " in errors


def test_the_first_page_has_groups_and_the_version() -> None:
    status, out, _ = run_here("--help", COLUMNS="80")
    assert status == 0
    headings = [line for line in out.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["Options:", "Getting started:", "Images:", "Runs:", "Monitoring:"]
    assert not [line for line in out.splitlines()[1:] if "..." in line], "cut at 80 columns"
    assert run_here("--version") == (0, f"bucketline {VERSION}\n", "")


# --- on a terminal ------------------------------------------------------------------------------------------


def test_a_person_is_told_of_waiting_and_may_leave() -> None:
    with Terminal("-m", "bucketline", "run", "list", "--url", NOWHERE) as terminal:
        terminal.until("bucketline: GET /v1/runs: ConnectError", "trying again")
        assert terminal.end(signal.SIGINT) == 130
        assert "Traceback" not in terminal.said


def test_uploads_show_how_far_they_are_and_leave_no_trace(server: ServerProcess) -> None:
    with Terminal(
        "-m", "bucketline", "map", "put", "again", str(COCO), BUCKETLINE_URL=server.url
    ) as terminal:
        assert terminal.end() == 0
    assert "checking coco-5k.csv" in terminal.said
    last = plain(terminal.said.rpartition("\x1b[2K")[2])
    assert last.startswith("again: 5000 images, digest ")
    ask(server, "map", "delete", "again")


def test_a_narrow_terminal_gets_fewer_columns_and_a_pipe_all() -> None:
    table = Columns("run", "#steps", "holder?")
    table.add_row("sdxl-base", "12345", "host-0.cluster.example")
    for width, is_terminal, words in ((40, True, "host-0"), (30, True, "12345\n"), (80, False, "example")):
        console = Console(width=width, force_terminal=is_terminal, no_color=True)
        with console.capture() as capture:
            console.print(table)
        assert words in plain(capture.get())
        assert "…" not in capture.get()
