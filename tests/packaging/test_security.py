"""SECURITY.md, and the audit of the pins: it fails if it finds something, and says what it could not check."""

import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

from bucketline_service.settings import Settings

CLEAN = {"name": "httpx", "version": "0.28.1", "vulns": []}
FLAWED = {
    **CLEAN,
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["0.29", "1.0"], "aliases": [], "description": ""}],
}
SKIPPED = {"name": "rich", "skip_reason": "Dependency not found on PyPI and could not be audited: rich (1.0)"}


@pytest.fixture(scope="module")
def audit(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", root / "scripts" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def says(text: str, status: int = 0) -> list[str]:
    """A program that says this whatever it is asked, as pip-audit would."""
    return [sys.executable, "-S", "-c", f"import sys; print({text!r}); sys.exit({status})"]


def test_every_python_has_each_pin_once(audit: ModuleType, root: Path) -> None:
    constraints = (root / "constraints.txt").read_text()
    asked = set()
    for python in audit.pythons():
        names = [Requirement(pin).name for pin in audit.pins_for(python, constraints)]
        assert len(names) == len(set(names)) > 50
        asked |= set(audit.pins_for(python, constraints))
    lines = [line.split(";")[0].strip() for line in constraints.splitlines() if not line.startswith("#")]
    elsewhere = {str(Requirement(line)) for line in lines} - asked
    assert {Requirement(pin).name for pin in elsewhere} <= {"colorama", "tzdata"}  # Windows alone


def test_what_was_found_names_the_version_that_mends_it(audit: ModuleType, tmp_path: Path) -> None:
    told = audit.ask(
        says(json.dumps({"dependencies": [FLAWED, SKIPPED]}), status=1), ["httpx==0.28.1"], tmp_path
    )
    assert audit.judge(told) == (["httpx 0.28.1: PYSEC-1, fixed in 0.29 or 1.0"], ["rich"])
    assert audit.judge([CLEAN]) == ([], [])


@pytest.mark.parametrize(
    "text", ["Traceback", "{}", json.dumps({"dependencies": [SKIPPED]}), json.dumps({"dependencies": []})]
)
def test_who_knows_nothing_has_not_answered(audit: ModuleType, tmp_path: Path, text: str) -> None:
    """A mirror of the index makes pip-audit skip every pin, find no vulnerability and succeed."""
    assert isinstance(audit.ask(says(text), ["rich==1.0"], tmp_path), str)


def test_the_threat_model_is_ten_lines_of_things_that_exist(root: Path) -> None:
    text = (root / "SECURITY.md").read_text()
    lines = re.findall(r"(?m)^(\d+)\. \*\*", text.split("## Threat model")[1])
    assert lines == [str(number) for number in range(1, 11)]
    flags = {name.replace("-", "_") for name in re.findall(r"`--([a-z-]+)`", text)}
    assert flags
    assert flags <= set(Settings.model_fields)
    targets = re.findall(r"`make (\w+)`", text)
    assert all(re.search(rf"(?m)^{target}:", (root / "Makefile").read_text()) for target in targets)
