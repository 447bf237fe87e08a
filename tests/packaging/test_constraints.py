"""constraints.txt pins everything that pyproject.toml requires, on every Python, and names no source."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
PYTHONS = [
    line.rpartition(" :: ")[2]
    for line in PYPROJECT["project"]["classifiers"]
    if line.startswith("Programming Language :: Python :: 3.")
]
BOUNDED = ["fastapi", "httpx", "redis", "starlette", "uvicorn"]
"""Packages whose behaviour on the wire or in the event loop the code depends on."""


def pins_of(text: str) -> list[Requirement]:
    """The pins of a constraints file; a line that is no plain pin is an error."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    pins = [Requirement(line) for line in lines]
    for pin in pins:
        if pin.url or pin.extras or [clause.operator for clause in pin.specifier] != ["=="]:
            raise ValueError(f"not a plain pin: {pin}")
    return pins


def wanted_by(pyproject: dict[str, Any]) -> list[Requirement]:
    lists = [pyproject["build-system"]["requires"], pyproject["project"]["dependencies"]]
    lists += pyproject["project"]["optional-dependencies"].values()
    return [Requirement(line) for each in lists for line in each]


def unmet(wanted: list[Requirement], pins: list[Requirement], python: str) -> list[str]:
    """What is wanted on this Python and not pinned exactly once to a version that fits."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_system": "Linux",
        "sys_platform": "linux",
    }
    wrong = []
    for requirement in wanted:
        if requirement.marker and not requirement.marker.evaluate(environment):
            continue
        name = canonicalize_name(requirement.name)
        versions = [
            Version(next(iter(pin.specifier)).version)
            for pin in pins
            if canonicalize_name(pin.name) == name
            and (pin.marker is None or pin.marker.evaluate(environment))
        ]
        if len(versions) != 1 or versions[0] not in requirement.specifier:
            wrong.append(str(requirement))
    return wrong


@pytest.fixture
def wanted() -> list[Requirement]:
    return wanted_by(PYPROJECT)


@pytest.fixture
def pins(root: Path) -> list[Requirement]:
    return pins_of((root / "constraints.txt").read_text())


@pytest.mark.parametrize("python", PYTHONS)
def test_everything_declared_is_pinned_once_and_fits(
    wanted: list[Requirement], pins: list[Requirement], python: str
) -> None:
    assert unmet(wanted, pins, python) == []


def bounds_unlike(wanted: list[Requirement], pins: list[Requirement]) -> list[str]:
    """What is wanted from another version on than the oldest that is tested."""
    tested: dict[str, list[Version]] = {}
    for pin in pins:
        tested.setdefault(canonicalize_name(pin.name), []).append(Version(next(iter(pin.specifier)).version))
    oldest = {name: f">={min(versions)}" for name, versions in tested.items()}
    return [
        str(each)
        for each in wanted
        if [str(clause) for clause in each.specifier if clause.operator != "<"]
        != [oldest.get(canonicalize_name(each.name))]
    ]


def next_breaking(version: Version) -> str:
    """``9`` for 8.1.0, ``0.29`` for 0.28.1."""
    return f"0.{version.minor + 1}" if version.major == 0 else str(version.major + 1)


def upper_bounds(wanted: list[Requirement]) -> dict[str, str]:
    return {
        each.name: clause.version for each in wanted for clause in each.specifier if clause.operator == "<"
    }


def test_bounded_packages_admit_what_is_tested_and_nothing_that_may_break(
    wanted: list[Requirement], pins: list[Requirement]
) -> None:
    tested = {pin.name: Version(next(iter(pin.specifier)).version) for pin in pins}
    assert upper_bounds(wanted) == {name: next_breaking(tested[name]) for name in BOUNDED}


def test_the_oldest_python_is_the_first_that_is_tested() -> None:
    assert PYPROJECT["project"]["requires-python"] == f">={PYTHONS[0]}"
    assert sorted(PYTHONS, key=Version) == PYTHONS


def test_nothing_older_is_wanted_than_what_is_tested(
    wanted: list[Requirement], pins: list[Requirement]
) -> None:
    assert bounds_unlike(wanted, pins) == []
    others = [Requirement("fastapi>=0.115"), Requirement("fastapi"), Requirement("fastapi>=99")]
    assert bounds_unlike(others, pins) == list(map(str, others))


def test_a_missing_an_old_and_a_double_pin_would_be_noticed(
    wanted: list[Requirement], pins: list[Requirement]
) -> None:
    without = [pin for pin in pins if pin.name != "httpx"]
    for change in [without, [*without, Requirement("httpx==0.1")], [*pins, Requirement("httpx==0.1")]]:
        assert unmet(wanted, change, "3.12") == [str(each) for each in wanted if each.name == "httpx"]


def test_constraints_name_no_place(root: Path) -> None:
    assert not re.search(r"//|@|^\s*-", (root / "constraints.txt").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "line", ["httpx>=0.27", "httpx[http2]==0.28.1", "httpx @ file:///httpx.whl", "--index-url somewhere"]
)
def test_a_line_that_is_no_plain_pin_would_be_noticed(line: str) -> None:
    with pytest.raises(ValueError, match=r"(?i)not a plain pin|expected"):
        pins_of(line)
