"""``bucketline demo`` as a user runs it: real processes, one of them killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import pytest

from tests.server import popen, run_command

PROOF = (
    "4992 images counted once",
    "0 images counted twice",
    "8 images left out, 8 planned",
    "5 of 156 steps of mixed shape, 5 planned",
    "0 ranks with a gap",
    "batches were served again after the kill, the same ones",
    "the proof holds",
)


def test_the_demo_shows_its_proof_whatever_the_users_settings(tmp_path: Path) -> None:
    """Settings of another coordinator and of a proxy: nothing is written there, and none of them has an effect."""
    theirs = {
        "BUCKETLINE_STORE": f"sqlite:///{tmp_path / 'theirs.sqlite'}",
        "BUCKETLINE_DATA_DIR": str(tmp_path / "theirs"),
        "BUCKETLINE_HOST": "0.0.0.0",
        "BUCKETLINE_PORT": "1",
        "BUCKETLINE_WORKERS": "2",
        "BUCKETLINE_WORKER_TOKEN": "w",
        "BUCKETLINE_OPERATOR_TOKEN": "o",
        "BUCKETLINE_TOKEN": "x",
        "BUCKETLINE_URL": "http://127.0.0.1:1",
        "http_proxy": "http://127.0.0.1:1",
        "HTTP_PROXY": "http://127.0.0.1:1",
        "ALL_PROXY": "http://127.0.0.1:1",
        "NO_PROXY": "",
        "no_proxy": "",
    }
    status, out, errors = run_command("demo", environ=theirs)
    assert status == 0, out + errors
    assert "rank 2 resumed at step" in out
    for line in PROOF:
        assert line in out
    assert "\x1b[" not in out  # no colours where it is piped
    assert list(tmp_path.iterdir()) == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_demo_that_is_kept(tmp_path: Path, number: signal.Signals) -> None:
    demo = popen("demo", "--keep", environ={"TMPDIR": str(tmp_path)})
    assert demo.stdout is not None
    url = demo.stdout.readline().split()[2].rstrip(",")
    for line in demo.stdout:
        if line.startswith("Press Ctrl-C to stop"):
            break
    assert httpx.get(url + "/v1/runs/demo", verify=False, trust_env=False).json()["status"] == "ready"
    assert [each.name.startswith("bucketline-demo-") for each in tmp_path.iterdir()] == [True]
    demo.send_signal(number)
    assert (demo.stdout.read(), demo.wait()) == ("bye\n", 0)
    _assert_nothing_is_left(url, tmp_path)
    demo.communicate()


@pytest.mark.exhaustive
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_demo_on_its_way(tmp_path: Path, number: signal.Signals) -> None:
    demo = popen("demo", environ={"TMPDIR": str(tmp_path)})
    assert demo.stdout is not None
    url = demo.stdout.readline().split()[2].rstrip(",")
    for line in demo.stdout:
        if line.startswith("run demo:"):
            break
    with httpx.Client(base_url=url, trust_env=False) as client:
        while not all(rank["holder"] for rank in client.get("/v1/runs/demo/ranks").json()["ranks"]):
            assert demo.poll() is None
    demo.send_signal(number)
    demo.communicate()  # the pipes end when nobody is left who could write to them: no worker is
    assert demo.returncode == 128 + number
    _assert_nothing_is_left(url, tmp_path)


def _assert_nothing_is_left(url: str, folder: Path) -> None:
    with pytest.raises(httpx.ConnectError):
        httpx.get(url + "/healthz", trust_env=False)
    assert list(folder.iterdir()) == []
    mine = f"{folder}{os.sep}".encode()
    assert not [pid for pid in Path("/proc").glob("[0-9]*") if mine in _command(pid)]


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:  # it ended since it was listed
        return b""
