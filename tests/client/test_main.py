"""The console script if the service is not installed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from bucketline.__main__ import EXTRA_MODULES

WITHOUT = """
import sys
missing = sys.argv.pop(1)

class Missing:
    def find_spec(name, *_):
        if name == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing)
from bucketline.__main__ import main
main()
"""
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def run(missing, *arguments):
    command = [sys.executable, "-c", WITHOUT, missing, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("missing", "command", "extras"),
    [
        ("typer", "--help", "service"),
        ("bucketline_service", "serve", "service"),
        ("typer", "scan", "service,scan"),
    ],
)
def test_it_says_how_to_get_the_commands(missing, command, extras):
    done = run(missing, command)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"bucketline: the commands need {missing}: pip install 'bucketline[{extras}]'\n"


def test_another_missing_module_is_seen_as_the_bug_that_it_is():
    assert "ModuleNotFoundError" in run("bucketline_service.cli", "--help").stderr


def test_the_extra_is_known_whole():
    extra = PYPROJECT.read_text().split("\nservice = [\n")[1].split("\n]")[0]
    names = {name.replace("-", "_") for name in re.findall(r'^ +"([\w-]+)', extra, re.MULTILINE)}
    assert {"pythonjsonlogger" if name == "python_json_logger" else name for name in names} == EXTRA_MODULES
