"""The command as a person and a script see it."""

from __future__ import annotations

import bz2
import json
import os
import select
import signal
import subprocess
import sys
import tarfile
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.server import run_command
from tests.waiting import DEADLINE_S, until

from .images import image, put, read_map, scan
from .test_resume import many


def test_a_scan_and_the_map_of_it(folder: Path, output: Path) -> None:
    for number in range(70):
        put(folder, f"{number}.jpg")
    status, out, errors = run_command("scan", str(folder), "-o", str(output))
    assert (status, errors) == (0, "")
    assert out.startswith(f"{output}: 70 images\nopened 70 of 70 files and shards in ")
    status, out, _ = run_command("preview", str(output), "--json")
    assert (status, json.loads(out)["num_images"]) == (0, 70)


def test_what_is_bad_is_in_the_status_and_the_summary(folder: Path, output: Path) -> None:
    put(folder, "good.jpg")
    put(folder, "bad.jpg", b"")
    put(folder, "notes.txt", b"x")
    bad = output.with_name("bad.jsonl")
    arguments = ["scan", str(folder), "-o", str(output), "--bad", str(bad), "--json"]
    status, out, errors = run_command(*arguments)
    answer = json.loads(out)
    assert (status, errors, answer.pop("elapsed_s") > 0) == (3, "", True)
    assert answer == {
        "output": str(output),
        "bad": str(bad),
        "exif": True,
        "num_images": 1,
        "num_bad": 1,
        "num_found": 2,
        "num_opened": 2,
        "num_skipped": {"other": 1},
    }
    assert json.loads(bad.read_text()) == {"path": f"{folder}/bad.jpg", "reason": "the file is empty"}


def test_images_are_not_turned_where_it_is_asked_for(folder: Path, output: Path) -> None:
    put(folder, "photo.jpg", image(40, 30, orientation=6))
    put(folder, "list.csv", b"path\nphoto.jpg\n")
    for path in (folder, folder / "photo.jpg", folder / "list.csv"):
        for exif, size, mark in (True, (30, 40), b"applied"), (False, (40, 30), b"ignored"):
            target = output.with_name(f"{path.name}{exif}.parquet")
            assert scan([path], target, exif=exif).sizes == {"photo.jpg": size}
            assert pq.read_schema(target).metadata[b"bucketline.scan.exif"] == mark
    arguments = ("scan", str(folder), "-o", str(output))
    status, out, _ = run_command(*arguments, "--no-exif", "--json")
    assert (status, json.loads(out)["exif"], read_map(output)) == (0, False, {"photo.jpg": (40, 30)})
    assert run_command(*arguments, "--no-exif")[1].startswith(
        f"{output}: 1 images, without EXIF orientation\n"
    )
    status, _, errors = run_command(*arguments)
    assert (status, errors.count("\n")) == (1, 1)
    assert f"{output}.scan: the record of this output is from a scan with --no-exif" in errors


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{folder}/none", "-o", "{output}"], "none: it cannot be read: No such file or directory"),
        (
            ["{folder}", "-o", "{output}"],
            "bucketline: no image has a size; the reasons are in {output}.bad.jsonl",
        ),
        (["{folder}", "-o", "{output}", "--engine", "spark"], "--engine: must be local or ray, got 'spark'"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(
    folder: Path, output: Path, arguments: list[str], words: str
) -> None:
    put(folder, "bad.jpg", b"")
    names = {"folder": folder, "output": output}
    status, _, errors = run_command("scan", *(each.format(**names) for each in arguments))
    assert (status, errors.count("\n")) == (1, 1)
    assert words.format(**names) in errors


def test_without_pillow_it_says_how_to_get_it(folder: Path, output: Path) -> None:
    hidden = "import sys; sys.modules['PIL'] = None; from bucketline.__main__ import main; main()"
    command = [sys.executable, "-c", hidden, "scan", str(folder), "-o", str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == "bucketline: scan: needs Pillow. pip install 'bucketline[service,scan]'\n"
    assert (done.returncode, done.stdout) == (1, "")


class Terminal:
    """A scan that shows a person how far it is."""

    def __init__(self, *arguments: str) -> None:
        self._master, slave = os.openpty()
        command = [sys.executable, "-m", "bucketline", "scan", *arguments]
        environ = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=slave, env=environ
        )
        os.close(slave)
        self.shown = ""

    def wait_for(self, words: str) -> None:
        until(f"it shows {words}", lambda: words in self.shown or not self._read())
        assert words in self.shown, self.shown

    def children(self) -> list[int]:
        pid = self.process.pid
        return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def end(self) -> int:
        while self._read():
            pass
        self.process.communicate()
        os.close(self._master)
        return self.process.returncode

    def _read(self) -> bool:
        """False at its end."""
        assert select.select([self._master], [], [], DEADLINE_S)[0], self.shown
        try:
            data = os.read(self._master, 65536)
        except OSError:  # its other end is closed
            return False
        self.shown += data.decode()
        return bool(data)


def endless(folder: Path, name: str) -> Path:
    """A shard of a few kilobytes which takes minutes to unpack: it is still being opened when the scan is stopped."""
    member = tarfile.TarInfo("0.bin")
    member.size = 64 << 30
    head, block = (bz2.compress(data) for data in (member.tobuf(tarfile.GNU_FORMAT), bytes(16 << 20)))
    return put(folder, name, head + block * (member.size >> 24))


def has_open(pid: int, path: Path) -> bool:
    with suppress(OSError):  # it ends, or closes one
        return any(os.readlink(each) == str(path) for each in Path(f"/proc/{pid}/fd").iterdir())
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.exhaustive)]
)
def test_a_scan_that_is_stopped_leaves_no_process_and_goes_on(
    folder: Path, output: Path, number: signal.Signals
) -> None:
    shards = [endless(folder, f"{name}.tar") for name in "ab"]
    many(folder, 40)
    terminal = Terminal(str(folder), "-o", str(output), "--workers", "2")
    terminal.wait_for("opening")
    until(
        "all shards are read",
        lambda: all(any(has_open(pid, shard) for pid in terminal.children()) for shard in shards),
    )
    children = terminal.children()
    terminal.process.send_signal(number)
    status = terminal.end()
    assert status == (-number if number == signal.SIGKILL else 130)
    assert ("run the same command again" in terminal.shown) == (number != signal.SIGKILL)
    until("its processes are gone", lambda: not any(Path(f"/proc/{pid}").exists() for pid in children))
    assert not output.exists()
    if number == signal.SIGINT:
        for shard in shards:
            shard.unlink()
        status, out, errors = run_command("scan", str(folder), "-o", str(output), "--json")
        assert (status, errors, json.loads(out)["num_images"]) == (0, "", 40)


def test_a_person_sees_the_rate_and_the_time_left(folder: Path, output: Path) -> None:
    many(folder, 100)
    terminal = Terminal(str(folder), "-o", str(output), "--workers", "1")
    terminal.wait_for("100/100")
    assert terminal.end() == 0
    assert "/s" in terminal.shown
    assert "0:00:0" in terminal.shown
    assert "100 images" in terminal.shown


@pytest.mark.skipif(find_spec("ray") is not None, reason="ray is installed")
def test_without_ray_it_says_how_to_get_it(folder: Path, output: Path) -> None:
    put(folder, "a.jpg")
    status, out, errors = run_command("scan", str(folder), "-o", str(output), "--engine", "ray")
    assert (status, out) == (1, "")
    assert errors == "bucketline: scan: needs Ray. pip install 'bucketline[service,scan-ray]'\n"
