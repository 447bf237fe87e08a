"""``bucketline top``: on a real terminal, beside a run that is consumed."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest
from rich.console import Console

from bucketline_service.cli import phrases
from bucketline_service.cli.top import view
from bucketline_service.cli.top.model import Look, Pace
from tests.checked import Api
from tests.cli.commands import Terminal, run_here
from tests.server import COCO, ServerProcess, popen

HURRY = (
    "from bucketline_service import cli; cli.watching.LOOK_S = 0.2; "
    "cli.app(['top', *{arguments!r}, '--interval-s', '0.1'])"
)
COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
RUN = {"run": "r", "status": "ready", "progress": None, "detail": None, "num_steps": 100, "world_size": 2}
RUN |= {"generation": 1, "session": None, "fingerprint": "f", "state": {"epoch": 0, "step": 40, "offset": 80}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """With runs of 12 ranks."""
    server = ServerProcess(tmp_path_factory.mktemp("top"))
    api = server.api()
    api.put_csv("coco", COCO.read_bytes(), 201)
    for run in ("big", "idle"):
        api.put(f"/v1/runs/{run}", {"map": "coco", "world_size": 12, "batch_size": 8}, 201)
    yield server
    server.close()


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
    with Terminal("-c", command, rows=12) as terminal:
        # events are told a moment after what they tell of
        lines = terminal.frame(
            "big  ready", "epoch 0 step 9/52 (17%)", "generation 1, 12 ranks", "lease_given"
        )
        assert len(lines) <= 12
        assert rows(lines)[:2] == [(7, 11, "host-7"), (3, 8, "host-3")]
        assert f"and {12 - len(rows(lines))} ranks more" in lines

        terminal.resize(40, 80)
        assert len(rows(terminal.frame("rank", without="more"))) == 12

        advance(api, "big", 7, 13)
        assert "steps/s" in "".join(terminal.frame("step 12/52 (23%)"))

        server.kill()
        lines = terminal.frame("no answer since", "trying (ConnectError")
        assert rows(lines)[0] == (3, 8, "host-3")  # what was seen last stays
        server.start()
        advance(server.api(), "big", 3, 14)
        terminal.frame("step 13/52", without="no answer")

        assert terminal.end(signal.SIGTERM) == 0
        _, left, after = terminal.said.rpartition("\x1b[?1049l")
        assert left, "the terminal is not left as it was"
        assert "big: ready, epoch 0 step 13/52 (25%)" in after
        assert COLOUR.search(terminal.said)


def test_no_color_is_kept_to_on_a_terminal(server: ServerProcess) -> None:
    command = HURRY.format(arguments=["idle", "--once", "--url", server.url])
    with Terminal("-c", command, NO_COLOR="1") as terminal:
        assert terminal.end() == 0
    assert "epoch 0" in terminal.said
    assert not COLOUR.search(terminal.said)


def test_without_a_terminal_it_is_a_line_a_look(server: ServerProcess) -> None:
    advance(server.api(), "idle", 7, 5)
    plain = popen("top", "idle", "--interval-s", "0.1", environ={"BUCKETLINE_URL": server.url})
    scripts = popen("top", "--json", "--interval-s", "0.1", environ={"BUCKETLINE_URL": server.url})
    assert plain.stdout is not None
    assert scripts.stdout is not None
    for _ in range(2):
        line = plain.stdout.readline()
        assert "Z idle: ready, epoch 0 step 0/52 (0%)" in line
        assert line.endswith("rank 0 is 5 steps behind\n")
        document = json.loads(scripts.stdout.readline())
        assert [each["run"] for each in document["runs"]] == ["big", "idle"]
    plain.stdout.close()  # as by head
    assert (plain.wait(60), plain.stderr and plain.stderr.read()) == (1, "")
    scripts.send_signal(signal.SIGINT)
    assert (scripts.wait(60), scripts.stderr and scripts.stderr.read()) == (0, "")
    close(plain, scripts)


def close(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def test_once(server: ServerProcess) -> None:
    url = {"BUCKETLINE_URL": server.url}
    status, out, errors = run_here("top", "idle", "--once", **url)
    assert (status, errors) == (0, "")
    assert sorted(rank for rank, _, _ in rows(out.splitlines())) == list(range(12))
    # the one that has moved says nothing of the others
    assert " left" not in out.splitlines()[1]
    status, out, _ = run_here("top", "--once", **url)
    assert (status, out.splitlines()[3].split()[:2]) == (0, ["big", "ready"])
    document = json.loads(run_here("top", "idle", "--once", "--json", **url)[1])
    assert sorted(each["rank"] for each in document["ranks"]) == list(range(12))
    status, out, errors = run_here("top", "none", "--once", **url)
    assert (status, out, errors.count("\n")) == (1, "", 1)
    assert "no run 'none'" in errors


def drawn(look: Look, run: str | None = "r") -> str:
    console = Console(width=100, markup=False, highlight=False)
    with console.capture() as capture:
        console.print(view.screen(look, "http://here", run, 1000.0, 20))
    return capture.get() + "\n".join(view.lines(look))


def test_what_a_run_is_about() -> None:
    half = drawn(Look(1000.0, [RUN], rates={"r": 0.5}))
    assert half.count("epoch 0 step 40/100 (40%), 0.5 steps/s, 2 min left") == 2
    resumed = {**RUN, "state": {"epoch": 0, "step": 40, "offset": 360}}
    assert (
        drawn(Look(1000.0, [resumed], rates={"r": 0.02})).count(
            "step 40/100 (75%), 0.02 steps/s, 50 min left"
        )
        == 2
    )
    planned = {**RUN, "status": "planning", "progress": 0.43, "state": None, "num_steps": None}
    assert drawn(Look(1000.0, [planned])).count("planning 43%") == 2
    over = {**RUN, "num_steps": 0, "state": {"epoch": 3, "step": 0}}
    assert drawn(Look(1000.0, [over])).count("done, 3 epochs") == 2
    failed = {**RUN, "status": "failed", "detail": "no image is left", "state": None, "num_steps": None}
    assert "no image is left" in drawn(Look(1000.0, [failed]))
    assert drawn(Look(1000.0, []), None).count("0 runs") == 1


def test_a_rate_is_of_the_last_minute_and_of_one_epoch() -> None:
    def at(epoch: int, step: int) -> dict[str, object]:
        return {**RUN, "state": {"epoch": epoch, "step": step}}

    pace = Pace()
    assert pace.note(at(0, 10), 0.0) is None
    assert pace.note(at(0, 30), 10.0) == 2.0
    assert pace.note(at(0, 230), 65.0) == pytest.approx(200 / 55)  # the first look is too long ago
    assert pace.note(at(1, 0), 66.0) is None
    assert pace.note(at(1, 1), 67.0) == 1.0
    assert pace.note(at(0, 30), 68.0) is None  # a new session begins before
    assert pace.note({**RUN, "state": None}, 69.0) is None


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(-1, "0 s"), (99, "99 s"), (100, "1 min"), (3600, "1 h"), (12000, "3 h 20 min"), (187200, "2 d 4 h")],
)
def test_times_are_told_in_two_units(seconds: float, told: str) -> None:
    assert phrases.lasting(seconds) == told
