"""``run delete`` of an active run: a person is asked, a script is refused."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator

import pytest

from tests.cli.commands import Terminal, plain, run_here
from tests.server import ServerProcess


@pytest.fixture
def run(server: ServerProcess) -> Iterator[str]:
    """A run of 2 ranks, of which rank 1 is active."""
    api = server.api()
    api.put("/v1/runs/busy", {"map": "coco", "world_size": 2, "batch_size": 64}, 201)
    api.lease("busy", 1, "host-1")
    yield "busy"
    api.ask("DELETE", "/v1/runs/busy?force=true")


def is_there(server: ServerProcess, run: str) -> bool:
    return run in [each["run"] for each in server.api().get("/v1/runs")["runs"]]


def asked(server: ServerProcess, run: str) -> Terminal:
    terminal = Terminal("-m", "bucketline", "run", "delete", run, BUCKETLINE_URL=server.url)
    terminal.until("Delete it anyway? [y/N]")
    assert "bucketline: run 'busy' is in use" in terminal.said
    assert "force" not in terminal.said
    return terminal


def test_without_a_terminal_it_is_refused_and_the_option_named(server: ServerProcess, run: str) -> None:
    status, out, errors = run_here("run", "delete", run, BUCKETLINE_URL=server.url)
    assert (status, out, errors.count("\n")) == (1, "", 1)
    assert "rank 1 (holder 'host-1')" in errors
    assert errors.endswith("delete the run anyway with --force\n")
    assert is_there(server, run)


@pytest.mark.parametrize("option", ["--force", "--yes", "-y"])
def test_an_option_says_that_it_is_meant(server: ServerProcess, run: str, option: str) -> None:
    status, out, errors = run_here("run", "delete", run, option, "--json", BUCKETLINE_URL=server.url)
    assert (status, errors) == (0, "")
    assert json.loads(out) == {"run": "busy", "deleted": True}
    assert not is_there(server, run)


@pytest.mark.parametrize(
    ("answer", "status", "words"), [("y", 0, "run busy is deleted"), ("", 1, "busy is not deleted")]
)
def test_a_person_is_asked(server: ServerProcess, run: str, answer: str, status: int, words: str) -> None:
    with asked(server, run) as terminal:
        terminal.type(f"{answer}\n")
        assert terminal.end() == status
    assert plain(terminal.said).rstrip().endswith(words)
    assert is_there(server, run) == bool(status)


def test_a_person_may_leave_instead(server: ServerProcess, run: str) -> None:
    with asked(server, run) as terminal:
        assert terminal.end(signal.SIGINT) == 130
    assert "Abort" not in terminal.said
    assert "Traceback" not in terminal.said
    assert is_there(server, run)


def test_who_is_not_at_work_is_not_asked_about(server: ServerProcess) -> None:
    server.api().put("/v1/runs/idle", {"map": "coco", "world_size": 2, "batch_size": 64}, 201)
    with Terminal("-m", "bucketline", "run", "delete", "idle", BUCKETLINE_URL=server.url) as terminal:
        assert terminal.end() == 0
    assert plain(terminal.said) == "run idle is deleted\n"
