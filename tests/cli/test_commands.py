from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from bucketline_service import cli
from bucketline_service.cli.output import console
from bucketline_service.terminal import runs
from tests.cli.commands import run_here
from tests.server import COCO, ServerProcess, run_command

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "reference" / "cli.md").read_text()
SPEC = {"map": "coco", "world_size": 4, "batch_size": 8}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """With tokens, map ``coco`` and run ``run``."""
    tokens = {"BUCKETLINE_WORKER_TOKEN": "w", "BUCKETLINE_OPERATOR_TOKEN": "o"}
    server = ServerProcess(tmp_path_factory.mktemp("cli"), environ=tokens)
    api = server.api("o")
    api.put_csv("coco", COCO.read_bytes(), 201)
    api.put("/v1/runs/run", SPEC, 201)
    api.lease("run", 1, "[red]host[/red] :smile:")
    yield server
    server.close()


def ask(server: ServerProcess, *arguments: str, token: str = "o", **more: str) -> tuple[int, str, str]:
    environ = {"BUCKETLINE_URL": server.url, "BUCKETLINE_TOKEN": token, "COLUMNS": "40", **more}
    status, out, errors = run_here(*arguments, **environ)
    assert "\x1b" not in out + errors, "colours in a pipe"
    return status, out, errors


def test_maps(server: ServerProcess, tmp_path: Path) -> None:
    small = tmp_path / "small.csv"
    small.write_text("id,width,height\n1,512,512\n2,512,512\n")
    status, out, errors = ask(server, "map", "put", "small", str(small))
    assert (status, errors) == (0, "")
    assert out.startswith("small: 2 images, digest ")
    lines = ask(server, "map", "list")[1].splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["map", "images", "ids"],
        ["coco", "5000", "int64"],
        ["small", "2", "int64"],
    ]
    status, out, _ = ask(server, "map", "show", "coco")
    assert status == 0
    assert sum(int(line.split()[3]) for line in out.splitlines()[2:]) == 5000
    document = json.loads(ask(server, "map", "list", "--json")[1])
    assert [each["map"] for each in document["maps"]] == ["coco", "small"]
    assert json.loads(ask(server, "map", "show", "coco", "--json")[1])["num_images"] == 5000
    assert json.loads(ask(server, "map", "put", "small", str(small), "--json")[1])["num_images"] == 2


def test_a_put_says_as_what_repeats_were_read(server: ServerProcess, tmp_path: Path) -> None:
    counted = tmp_path / "counted.csv"
    counted.write_text("id,width,height,repeats\n1,512,512,0\n2,512,512,3\n")
    status, out, errors = ask(server, "map", "put", "further", str(counted))
    assert (status, errors) == (0, "")
    assert out.splitlines()[1:] == [
        "num_repeats 1 to 4: 5 images an epoch",
        "column 'repeats' is read as additional repeats, as in SimpleTuner: 0 is once, 1 is twice. If it counts all "
        "repeats, as kohya's num_repeats does (1 is once), rename it to num_repeats",
    ]
    counted.write_text(counted.read_text().replace("repeats", "num_repeats"))
    assert ask(server, "map", "put", "times", str(counted))[1].splitlines()[1:] == [
        "num_repeats 0 to 3: 3 images an epoch"
    ]
    for name in ("further", "times"):
        assert ask(server, "map", "delete", name)[0] == 0


def test_runs(server: ServerProcess, tmp_path: Path) -> None:
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps(SPEC))
    status, out, errors = ask(server, "run", "put", "run", str(spec))
    assert (status, errors) == (0, "")
    assert out == "run: ready, 4 ranks, 156 steps an epoch\n"
    assert ask(server, "run", "list")[1].splitlines()[1].split() == [
        "run",
        "coco",
        "ready",
        "4",
        "1",
        "0",
        "0",
        "156",
    ]
    status, out, _ = ask(server, "run", "show", "run")
    assert status == 0
    assert "5000 of 5000 images assigned" in out
    assert "[red]host[/red] :smile:" in out
    assert not any("…" in line for line in out.splitlines()), "cells are cut though there is no terminal"
    document = json.loads(ask(server, "run", "show", "run", "--json")[1])
    assert sorted(document) == ["ranks", "run", "stats"]
    assert [rank["rank"] for rank in document["ranks"]] == [0, 1, 2, 3]
    assert [run["run"] for run in json.loads(ask(server, "run", "list", "--json")[1])["runs"]] == ["run"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["map", "show", "none"], "map 'none' does not exist"),
        (["run", "show", "none"], "no run 'none'; GET /v1/runs (bucketline run list)"),
        (["map", "put", "m", "/none.csv"], "/none.csv"),
        (["map", "put", "m", "{tmp}/text.xyz"], "xyz"),
        (
            ["map", "put", "m", "{tmp}"],
            "is a folder, not a map: make a map of its images: bucketline scan {tmp} -o",
        ),
        (["map", "put", "m", "{tmp}/broken.csv"], "--id-column, --width-column and --height-column"),
        (["map", "put", "coco", "{tmp}/other.csv"], "already exists, with other content"),
        (["run", "put", "r", "/none.json"], "/none.json: No such file"),
        (["run", "put", "r", "{tmp}/text.xyz"], "is not JSON"),
        (["run", "put", "r", "{tmp}/list.json"], "is not a JSON object"),
        (["run", "put", "r", "{tmp}/empty.json"], "--world-size: is missing"),
        (["run", "put", "r", "{tmp}/nan.json"], "nan.json: is not JSON: NaN is not a JSON number"),
        (["run", "put", "r", "{tmp}/unknown.json"], "map 'none' does not exist"),
        (["run", "delete", "none"], "no run 'none'"),
        (["map", "delete", "none"], "map 'none' does not exist"),
        (["map", "delete", "coco"], "in use by run. Delete these runs first"),
        (["map", "put", "m", "{tmp}/other.csv", "--id-column", "name"], "name"),
        (["run", "list", "--url", "nonsense"], "url"),
    ],
)
def test_what_goes_wrong_is_told_in_a_line(
    server: ServerProcess, tmp_path: Path, arguments: list[str], words: str
) -> None:
    (tmp_path / "text.xyz").write_text("{")
    (tmp_path / "broken.csv").write_text("id,width\n1,2\n")
    (tmp_path / "other.csv").write_text("id,width,height\n1,512,512\n")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "empty.json").write_text("{}")
    (tmp_path / "nan.json").write_text('{"world_size": NaN}')
    (tmp_path / "unknown.json").write_text(json.dumps({**SPEC, "map": "none"}))
    status, out, errors = ask(server, *(argument.replace("{tmp}", str(tmp_path)) for argument in arguments))
    assert (status, out) == (1, "")
    assert errors.startswith("bucketline: ")
    assert errors.count("\n") == 1
    assert words.replace("{tmp}", str(tmp_path)) in errors


def test_maps_with_columns_of_other_names(server: ServerProcess, tmp_path: Path) -> None:
    named = tmp_path / "named.csv"
    named.write_text("id,name,width,w,h\na,7,1,512,640\n")
    columns = ["--id-column", "name", "--width-column", "w", "--height-column", "h"]
    status, out, errors = ask(server, "map", "put", "named", str(named), *columns, "--json")
    assert (status, errors) == (0, "")
    assert json.loads(out)["id_kind"] == "int64"
    histogram = json.loads(ask(server, "map", "show", "named", "--json")[1])["histogram"]
    assert histogram["aspect"]["num_images"].count(1) == 1
    assert ask(server, "map", "delete", "named")[1] == "map named is deleted\n"


def test_deleted_runs_and_maps_are_gone(server: ServerProcess, tmp_path: Path) -> None:
    other, spec = tmp_path / "other.csv", tmp_path / "spec.json"
    other.write_text("id,width,height\n" + "".join(f"{i},512,512\n" for i in range(64)))
    spec.write_text(json.dumps({**SPEC, "map": "other"}))
    ask(server, "map", "put", "other", str(other))
    ask(server, "run", "put", "short", str(spec))
    assert ask(server, "run", "delete", "short") == (0, "run short is deleted\n", "")
    assert ask(server, "run", "show", "short")[0] == 1
    assert json.loads(ask(server, "map", "delete", "other", "--json")[1]) == {"map": "other", "deleted": True}
    assert ask(server, "map", "show", "other")[0] == 1


def test_a_run_that_is_planned_shows_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    run = {"run": "r", "status": "planning", "progress": 0.42, "detail": None, "num_steps": None}
    run |= {"world_size": 2, "generation": 1, "state": None, "epoch_progress": None, "spec": {"map": "m"}}
    runs.put(console(), run)
    runs.show(console(), {"run": run})
    runs.listing(console(), {"runs": [run]})
    assert capsys.readouterr().out.count("planning 42%") == 3


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, command in group.commands.items():
        yield (*path, name), command
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))


COMMANDS = dict(commands(typer.main.get_command(cli.app)))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_is_what_was_written(path: tuple[str, ...]) -> None:
    """Its words, and those of its options, brackets too."""
    status, out, errors = run_here(*path, "--help", COLUMNS="80")
    assert (status, errors) == (0, "")
    shown = "".join(out.split())
    command = COMMANDS[path]
    for text in (command.help, *(each.help for each in command.params if each.help)):
        assert "".join(text.split()) in shown
    for each in command.params:
        assert each.help or each.param_type_name == "argument", f"--{each.name} says nothing"
        if each.param_type_name == "option":
            assert each.opts[0] in out


def test_help_names_every_command() -> None:
    status, out, _ = run_command("--help", environ={"COLUMNS": "200", "TERM": "dumb"})
    assert status == 0
    for command, *_ in COMMANDS:
        assert command in out


def test_assignments(server: ServerProcess, tmp_path: Path) -> None:
    status, out, errors = ask(server, "run", "assignments", "run", token="w")
    assert (status, errors) == (0, "")
    head = '"id","bucket","width","height","resize_width","resize_height","crop_left","crop_top"'
    assert out.splitlines()[0] == head
    file = tmp_path / "a.csv"
    status, told, _ = ask(server, "run", "assignments", "run", "-o", str(file))
    assert (status, file.read_text(), told) == (0, out, f"{file}: {len(out):,} bytes\n")


def test_ledger(server: ServerProcess, tmp_path: Path) -> None:
    """As a file of either format, and on standard output."""
    status, out, errors = ask(server, "run", "ledger", "run", "--from", "1", "--to", "2", token="w")
    assert (status, errors) == (0, "")
    assert out.splitlines()[0] == '"epoch","what","reason","id","num"'
    assert {line.split(",")[0] for line in out.splitlines()[1:]} == {"1", "2"}
    file = tmp_path / "l.csv"
    status, told, _ = ask(server, "run", "ledger", "run", "--from", "1", "--to", "2", "-o", str(file))
    assert (status, file.read_text()) == (0, out)
    assert told == f"{file}: {len(out):,} bytes\n"
    assert ask(server, "run", "ledger", "run", "-o", str(tmp_path / "l.parquet"))[0] == 0
    assert (tmp_path / "l.parquet").read_bytes()[:4] == b"PAR1"
    status, out, errors = ask(server, "run", "ledger", "run", "--world-size", "9999")
    assert (status, out) == (1, "")
    assert "world_size" in errors
    assert (
        "format must be csv or parquet, and the name l.txt ends in neither"
        in ask(server, "run", "ledger", "run", "-o", "l.txt")[2]
    )


def test_who_may_not_is_told_which_variable_says_who_it_is(server: ServerProcess) -> None:
    assert ask(server, "run", "list", token="w")[0] == 0
    for token, words in (
        ("", "set BUCKETLINE_TOKEN\n"),
        ("x", "BUCKETLINE_TOKEN holds another\n"),
        ("w", "set BUCKETLINE_TOKEN to an operator's\n"),
    ):
        status, out, errors = ask(server, "run", "delete", "none", token=token)
        assert (status, out, errors.count("\n")) == (1, "", 1)
        assert errors.endswith(words)


def test_docs_have_every_command() -> None:
    told = re.findall(r"^\| `bucketline ([a-z ]+)` \|", DOCS, re.MULTILINE)
    assert sorted(told) == sorted(
        " ".join(path) for path, each in COMMANDS.items() if not hasattr(each, "commands")
    )


def test_docs_examples_print_what_is_written(server: ServerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    examples = re.findall(r"^\$ bucketline (.*)\n((?:(?!\$ |```).*\n)*)", DOCS, re.MULTILINE)
    assert len(examples) == 3
    for command, told in examples:
        assert ask(server, *shlex.split(command)) == (0, told, "")
    ask(server, "run", "delete", "first")
