"""Ctrl-C at any point of a command: no traceback, and the exit status that shells use for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.server import COCO, ServerProcess, popen

WHILE_IMPORTING = """
import os, signal, sys

class Hook:
    def find_spec(name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

from bucketline.__main__ import main
sys.meta_path.insert(0, Hook)
sys.argv = ["bucketline", *{arguments!r}]
main()
"""


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("typer", ["run", "list"]),
        ("bucketline_service.cli.serve", ["--help"]),
        pytest.param("uvicorn", ["serve"], marks=pytest.mark.exhaustive),
        pytest.param(
            "bucketline_service.cli.offline_preview", ["preview", str(COCO)], marks=pytest.mark.exhaustive
        ),
        pytest.param(
            "bucketline_service.scan.command",
            ["scan", ".", "-o", "sizes.parquet"],
            marks=pytest.mark.exhaustive,
        ),
        pytest.param("bucketline_service.cli.top", ["top"], marks=pytest.mark.exhaustive),
        pytest.param("bucketline_service.demo", ["demo"], marks=pytest.mark.exhaustive),
    ],
)
def test_while_the_command_is_loaded(tmp_path: Path, module: str, arguments: list[str]) -> None:
    program = WHILE_IMPORTING.format(module=module, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_while_a_map_is_uploaded(server: ServerProcess, tmp_path: Path) -> None:
    """From a pipe, so that the command is known to read. More is written until it has ended: Python looks for signals
    between two reads, and not where one comes just before it waits for a pipe."""
    file = tmp_path / "sizes.csv"
    os.mkfifo(file)
    process = popen("map", "put", "new", str(file), environ={"BUCKETLINE_URL": server.url})
    with suppress(BrokenPipeError), file.open("w") as sizes:
        sizes.write("id,width,height\n")
        sizes.flush()
        process.send_signal(signal.SIGINT)
        while process.poll() is None:
            sizes.write("1,640,480\n")
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (130, "", "")


def test_while_a_preview_is_computed(tmp_path: Path) -> None:
    scratch, file = tmp_path / "scratch", tmp_path / "sizes.csv"
    scratch.mkdir()
    file.write_text("id,width,height\n" + "".join(f"{i},640,{480 + i % 512}\n" for i in range(400_000)))
    process = popen("preview", str(file), environ={"TMPDIR": str(scratch)})
    while not any(scratch.glob("bucketline-preview-*/*")):  # an empty one may still be in the making
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (130, "", "")
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("num_workers", [1, pytest.param(2, marks=pytest.mark.exhaustive)])
def test_serve_ends_well(tmp_path: Path, num_workers: int) -> None:
    """All of its processes get it, as from a terminal."""
    server = ServerProcess(tmp_path, "--workers", str(num_workers), is_session=True)
    server.api().ask("GET", "/readyz", 200)
    os.killpg(server.process.pid, signal.SIGINT)
    _, errors = server.process.communicate(timeout=60)
    server.close()
    assert (server.process.returncode, errors) == (0, "")
