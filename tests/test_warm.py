"""A process forked from the warm parent is what ``subprocess.Popen`` would have started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import warm

SEEN = """
import json, os, sys
print(json.dumps({
    "argv": sys.argv, "environ": dict(os.environ), "folder": os.getcwd(), "stdin": sys.stdin.read(),
    "files": sorted(os.listdir("/proc/self/fd"))[:3], "session": os.getsid(0) == os.getpid(), "name": __name__,
}))
print("said", file=sys.stderr)
sys.exit(3)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere each process is started, not forked")
def test_it_sees_and_leaves_what_a_started_process_does(tmp_path: Path) -> None:
    def run(popen: Any) -> tuple[Any, str, int]:
        process = popen(
            [sys.executable, "-c", SEEN, "one", "two"], cwd=tmp_path, env={"A": "b"}, text=True,
            start_new_session=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        out, errors = process.communicate("asked")
        seen = json.loads(out)
        seen["environ"].pop("LC_CTYPE", None)  # an interpreter that starts in the C locale sets it
        return seen, errors, process.returncode

    assert run(warm.Popen) == run(subprocess.Popen)


def test_a_function_runs_before_it() -> None:
    command = [sys.executable, "-c", "import os; print(os.getsid(0) == os.getpid())"]
    for before in (os.setsid, lambda: os.setsid()):
        with warm.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=before) as process:
            assert process.communicate()[0] == "True\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_signal_ends_it(number: signal.Signals) -> None:
    program = "import signal; print('ready', flush=True); signal.pause()"
    command = [sys.executable, "-c", program]
    with warm.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert process.poll() is None
        os.kill(process.pid, number)
        _, errors = process.communicate()
        assert process.returncode == -number
        assert ("KeyboardInterrupt" in errors) == (number == signal.SIGINT)


def test_the_service_is_loaded_before_it_begins() -> None:
    command = [sys.executable, "-c", "import sys; print('bucketline_service.server' in sys.modules)"]
    with warm.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.communicate()[0] == f"{sys.platform == 'linux'}\n"
