"""The floors that pyproject.toml states hold, and each contract notices an import that breaks it."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

LINT = Path(sysconfig.get_path("scripts"), "lint-imports")

# An import, the module that must not have it, and the contract that notices.
FORBIDDEN = [
    ("import time", "service/bucketline_service/planning/order.py", "pure-planning"),
    ("import os.path", "service/bucketline_service/planning/order.py", "pure-planning"),
    ("import pyarrow", "service/bucketline_service/planning/order.py", "pure-planning"),
    ("import bucketline_service.maps", "service/bucketline_service/store/redis/keys.py", "floors"),
    ("import bucketline_service.http", "service/bucketline_service/coordinator.py", "floors"),
    ("import bucketline_service.settings", "service/bucketline_service/http/app.py", "floors"),
    ("import bucketline_service.errors", "service/bucketline_service/new.py", "floors"),
    (
        "import bucketline_service.planning.build_plan",
        "service/bucketline_service/planning/images.py",
        "planning",
    ),
    ("import numpy", "client/bucketline/_types.py", "light-client"),
    ("import bucketline_service.errors", "client/bucketline/_types.py", "light-client"),
]


def lint(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{tree / 'client'}{os.pathsep}{tree / 'service'}"}
    command = [LINT, "--no-logo", "--no-cache", "--config", "pyproject.toml", *arguments]
    return subprocess.run(command, cwd=tree, env=environment, text=True, capture_output=True)


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    shutil.copyfile(root / "pyproject.toml", tmp_path / "pyproject.toml")
    for folder in ["client", "service"]:
        shutil.copytree(
            root / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__", "data")
        )
    return tmp_path


def test_the_floors_hold(root: Path) -> None:
    done = lint(root)
    assert done.returncode == 0, done.stdout
    assert "4 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(("line", "module", "contract"), FORBIDDEN)
def test_an_import_that_breaks_them_would_be_noticed(
    copy: Path, line: str, module: str, contract: str
) -> None:
    with (copy / module).open("a") as file:
        file.write(f"\n{line}\n")
    done = lint(copy, "--contract", contract)
    assert done.returncode == 1
    assert "0 kept, 1 broken" in done.stdout, done.stdout
