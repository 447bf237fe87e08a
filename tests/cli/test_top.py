"""``bucketline top`` on a real terminal, while a run is consumed."""

from __future__ import annotations

import re
import signal
from typing import Any

import pytest
from rich.console import Console

from bucketline_service.terminal import readable, runs, top
from tests.checked import Api
from tests.cli.commands import Terminal, run_here
from tests.server import ServerProcess

HURRY = (
    "import importlib; from bucketline_service import cli; "
    "importlib.import_module('bucketline_service.cli.top').TIMEOUT_S = 0.2; "
    "cli.app(['top', *{arguments!r}, '--interval-s', '0.1'])"
)
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7]m")


@pytest.fixture(autouse=True, scope="module")
def _runs(server: ServerProcess) -> None:
    """Of 12 ranks."""
    for run in ("big", "idle"):
        server.api().put(f"/v1/runs/{run}", {"map": "coco", "world_size": 12, "batch_size": 8}, 201)


def advance(api: Api, run: str, rank: int, step: int) -> None:
    """Finish all steps before ``step``."""
    lease = api.lease(run, rank, f"host-{rank}")["lease"]
    api.ack(run, rank, lease, 0, step - 1)


def rows(lines: list[str]) -> list[tuple[int, int, str]]:
    """Rank, steps behind and holder of each that is shown."""
    begin = next(index for index, line in enumerate(lines) if line.startswith("rank")) + 1
    cells = [line.split() for line in lines[begin:]]
    return [(int(each[0]), int(each[3]), each[-1]) for each in cells if len(each) > 3 and each[0].isdigit()]


def test_it_follows_a_run_through_its_steps_and_through_the_coordinators_restart(
    server: ServerProcess,
) -> None:
    api = server.api()
    for rank in range(12):
        advance(api, "big", rank, 9 if rank == 7 else 12 if rank == 3 else 20)
    command = HURRY.format(arguments=["big", "--url", server.url])
    with Terminal("-c", command, rows=14) as terminal:
        # events are logged a moment after what they are about
        lines = terminal.frame("big  ready", "epoch 0 step 9/52 (17%)", "lease_given")
        assert len(lines) <= 14
        assert rows(lines)[:2] == [(7, 11, "host-7"), (3, 8, "host-3")]
        assert f"and {12 - len(rows(lines))} more ranks" in lines

        terminal.resize(40, 80)
        assert len(rows(terminal.frame("rank", without="more"))) == 12

        advance(api, "big", 7, 13)
        assert "steps/s" in "".join(terminal.frame("step 12/52 (23%)"))

        server.kill()
        lines = terminal.frame("no answer since", "trying again (ConnectError")
        assert rows(lines)[0] == (3, 8, "host-3")  # the last snapshot stays
        server.start()
        advance(server.api(), "big", 3, 14)
        terminal.frame("step 13/52", without="no answer")

        assert terminal.end(signal.SIGTERM) == 0
        _, left, after = terminal.said.rpartition("\x1b[?1049l")
        assert left, "the terminal is not left as it was"
        assert "epoch 0 step 13/52 (25%)" in after
        assert COLOUR.search(terminal.said)


def test_no_color_is_respected_on_a_terminal(server: ServerProcess) -> None:
    command = HURRY.format(arguments=["idle", "--once", "--url", server.url])
    with Terminal("-c", command, NO_COLOR="1") as terminal:
        assert terminal.end() == 0
    assert "epoch 0" in terminal.said
    assert not COLOUR.search(terminal.said)


def test_without_a_terminal_and_with_once_it_is_printed_once(server: ServerProcess) -> None:
    url = {"BUCKETLINE_URL": server.url}
    for arguments in (["idle"], ["idle", "--once"]):
        status, out, errors = run_here("top", *arguments, **url)
        assert (status, errors) == (0, "")
        assert sorted(rank for rank, _, _ in rows(out.splitlines())) == list(range(12))
    status, out, _ = run_here("top", **url)
    assert (status, out.splitlines()[3].split()[:2]) == (0, ["big", "ready"])
    status, out, errors = run_here("top", "none", **url)
    assert (status, out, errors.count("\n")) == (1, "", 1)
    assert "no run 'none'" in errors


PROGRESS = {"activity": "running", "share": 0.4, "steps_per_s": 0.5, "left_s": 120.0, "stuck_rank": None}
RUN = {
    **{"run": "r", "status": "ready", "progress": None, "detail": None, "num_steps": 100, "world_size": 2},
    **{"generation": 1, "session": None, "state": {"epoch": 0, "step": 40}, "epoch_progress": PROGRESS},
}
UNPLANNED = {"state": None, "num_steps": None, "epoch_progress": None}


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({}, "epoch 0 step 40/100 (40%), 0.5 steps/s, 2 min left"),
        ({"epoch_progress": {**PROGRESS, "steps_per_s": 0.0, "left_s": None}}, "epoch 0 step 40/100 (40%)"),
        (
            {"epoch_progress": {**PROGRESS, "activity": "finished"}, "state": {"epoch": 3, "step": 0}},
            "done, 3 epochs",
        ),
        ({**UNPLANNED, "status": "planning", "progress": 0.43}, "planning 43%"),
        ({**UNPLANNED, "status": "failed", "detail": "no image is left"}, "no image is left"),
    ],
)
def test_what_a_run_is_about(changed: dict[str, Any], text: str) -> None:
    run = {**RUN, **changed}
    console = Console(width=100, markup=False, highlight=False)
    with console.capture() as capture:
        console.print(top.screen(top.Snapshot(1000.0, [run]), "http://here", "r", 1000.0, 20))
    assert text in capture.get()
    assert runs.epoch_progress(run) in capture.get()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 s"), (99, "99 s"), (100, "1 min"), (3600, "1 h"), (12000, "3 h 20 min"), (187200, "2 d 4 h")],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert readable.duration(seconds) == text
