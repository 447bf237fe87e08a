#!/usr/bin/env python3
"""Check whether anything that constraints.txt pins has a known vulnerability, for every supported Python.

`make audit` calls this. pip-audit asks PyPI, and OSV if PyPI has no answer; it is installed into a temporary directory
and needed for nothing else. Exit status: 0 nothing found, 1 something found, 2 (with `--strict`) not every pin could be
checked. Without `--strict` that is reported, but passes: a mirror of the package index knows no vulnerabilities.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PIP_AUDIT = "pip-audit==2.10.1"
SERVICES = ["pypi", "osv"]
TIME_LIMIT_S = 300


def pythons() -> list[str]:
    """The versions of Python that pyproject.toml's classifiers name: ``["3.11", ...]``."""
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    return [line.rpartition(" :: ")[2] for line in classifiers if " :: Python :: 3." in line]


def pins_for(python: str, constraints: str) -> list[str]:
    """The pins that apply to this Python, without their markers."""
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    lines = [line for line in constraints.splitlines() if line and not line.startswith("#")]
    pins = [Requirement(line) for line in lines]
    return [
        f"{pin.name}{pin.specifier}" for pin in pins if not pin.marker or pin.marker.evaluate(environment)
    ]


def ask(command: list[str], pins: list[str], directory: Path) -> list[dict[str, Any]] | str:
    """What pip-audit says of each pin, or why it says nothing."""
    file = directory / "pins.txt"
    file.write_text("\n".join(pins))
    words = [*command, "-r", str(file), "--no-deps", "--disable-pip", "--format", "json"]
    try:
        done = subprocess.run(
            [*words, "--progress-spinner", "off"], text=True, capture_output=True, timeout=TIME_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {TIME_LIMIT_S} s"
    try:
        told: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError):
        return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    if all("skip_reason" in each for each in told):
        return told[0]["skip_reason"] if told else "it looked at nothing"
    return told


def judge(told: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """What was found, a line each, and what nobody knew."""
    found = [
        f"{each['name']} {each['version']}: {flaw['id']}, fixed in {' or '.join(flaw['fix_versions']) or 'no version'}"
        for each in told
        for flaw in each.get("vulns", [])
    ]
    return found, [each["name"] for each in told if "skip_reason" in each]


def main(arguments: list[str]) -> int:
    constraints = (ROOT / "constraints.txt").read_text()
    found: set[str] = set()
    unknown: set[str] = set()
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        venv.create(directory / "venv", with_pip=True)
        python = str(directory / "venv" / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "--quiet", PIP_AUDIT], check=True)
        command: list[str] = []
        for version in pythons():
            pins = pins_for(version, constraints)
            services = (
                [command] if command else [[python, "-m", "pip_audit", "-s", name] for name in SERVICES]
            )
            for command in services:
                told = ask(command, pins, directory)
                if not isinstance(told, str):
                    break
                print(f"audit: {command[-1]} has no answer: {told}", file=sys.stderr)
            else:
                print(
                    "audit: NOT DONE: no vulnerability service can be reached from here",
                    file=sys.stderr,
                )
                return 2 if "--strict" in arguments else 0
            now_found, now_unknown = judge(told)
            for line in sorted(set(now_found) - found):
                print(f"audit: {line}")
            found.update(now_found)
            unknown.update(now_unknown)
    if unknown:
        print(f"audit: {command[-1]} does not know {', '.join(sorted(unknown))}", file=sys.stderr)
    if not found:
        print(f"audit: no known vulnerability in {'the others' if unknown else 'any pin'} ({command[-1]})")
    return 1 if found else 2 if unknown and "--strict" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
