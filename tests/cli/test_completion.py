"""Completion of names, as shells ask for it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bucketline_service import cli
from bucketline_service.cli.completion import LADDERS, PRESETS
from bucketline_service.planning.buckets.preset_ladders import PRESETS as PLANNED
from tests.cli.commands import run_here
from tests.server import COCO, ServerProcess

BASH = """
source <(bucketline --show-completion bash)
complete -p bucketline
words() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _bucketline_completion bucketline; echo "${COMPREPLY[*]}"; }
words bucketline run show ''
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """With maps ``coco`` and ``more``, and run ``run``."""
    server = ServerProcess(tmp_path_factory.mktemp("completion"))
    api = server.api()
    api.put_csv("coco", COCO.read_bytes(), 201)
    api.put_csv("more", "id,width,height\n1,512,512\n", 201)
    api.put("/v1/runs/run", {"map": "coco", "world_size": 4, "batch_size": 8}, 201)
    yield server
    server.close()


def test_bash_completes_names(server: ServerProcess) -> None:
    """In a shell that reads what the installed command prints."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {**os.environ, "PATH": path, "BUCKETLINE_URL": server.url}
    command = ["bash", "--norc", "-c", BASH]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["complete -o default -F _bucketline_completion bucketline", "run"]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ("run show ", {"run"}),
        ("run ranks r", {"run"}),
        ("top ", {"run"}),
        ("map show ", {"coco", "more"}),
        ("run put x --map m", {"more"}),
        ("run put x --ladder ", {*LADDERS, *PRESETS}),
        ("run show --url http://127.0.0.1:9 ", set()),
        ("map put c", set()),
    ],
)
@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_names_are_completed(
    server: ServerProcess, arguments: str, names: set[str], shell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What these shells' scripts ask for, and read."""
    monkeypatch.setattr(cli.completion, "TIMEOUT_S", 0.1 if ":9" in arguments else 30.0)
    asks = {"_BUCKETLINE_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": f"bucketline {arguments}"}
    asks["_TYPER_COMPLETE_FISH_ACTION"] = "get-args"
    status, out, errors = run_here(BUCKETLINE_URL=server.url, **asks)
    assert (status, errors) == (0, "")
    told = set(re.findall(r"[\w-]+", out))
    assert told & {"run", "coco", "more", *LADDERS, *PRESETS} == names


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_there_is_a_script_for_each_shell(shell: str) -> None:
    asks = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    status, out, errors = run_here(_BUCKETLINE_COMPLETE=f"source_{shell}", **asks)
    assert (status, errors) == (0, "")
    assert "_BUCKETLINE_COMPLETE" in out


def test_the_ladders_names_are_the_planners() -> None:
    assert set(PRESETS) == set(PLANNED)
