#!/usr/bin/env python3
"""Renew constraints.txt: the newest versions that fit pyproject.toml, for every Python it admits.

`make constraints` calls this. uv resolves (it answers for all Pythons at once, with environment markers); it is
installed into a temporary directory and is needed for nothing else. Without arguments all pins move; with
`--upgrade-package NAME` only those named.
"""

import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = """\
# Every package that bucketline and its extras are built, run and tested with, direct or transitive, for each
# supported Python. Written by `make constraints`. Usage: pip install -c constraints.txt '.[service]'
"""


def oldest_python() -> str:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["requires-python"].removeprefix(">=")


def resolve(directory: Path, arguments: list[str]) -> str:
    """The pins for pyproject.toml, one a line."""
    target = ROOT / "constraints.txt"
    output = directory / "constraints.txt"
    if arguments and target.exists():
        output.write_text(target.read_text())
    venv.create(directory / "venv", with_pip=True)
    python = directory / "venv" / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "uv"], check=True)
    command = [python, "-m", "uv", "pip", "compile", "pyproject.toml", "--all-extras", "--universal"]
    command += ["--python-version", oldest_python(), "--no-header", "--no-annotate", "--no-config", "--quiet"]
    subprocess.run([*command, *arguments, "--output-file", output], cwd=ROOT, check=True)
    return output.read_text()


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        pins = resolve(Path(directory), sys.argv[1:])
    (ROOT / "constraints.txt").write_text(HEADER + pins)
    print(f"constraints.txt: {len(pins.splitlines())} pins")


if __name__ == "__main__":
    main()
