"""The layers that pyproject.toml states are kept, and each contract notices an import that breaks it."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest

LINT = Path(sysconfig.get_path("scripts"), "lint-imports")

# A module, what it must not import, and how the contract that notices reports it.
FORBIDDEN = [
    ("service/bucketline_service/planning/geometry.py", "time", "planning.geometry -> time"),
    ("service/bucketline_service/planning/geometry.py", "os.path", "planning.geometry -> os"),
    ("service/bucketline_service/planning/geometry.py", "pyarrow", "planning.geometry -> pyarrow"),
    ("service/bucketline_service/store/redis/keys.py", "bucketline_service.maps", "keys -> bucketline_service.maps"),
    ("service/bucketline_service/coordinator.py", "bucketline_service.http", "coordinator -> bucketline_service.http"),
    ("service/bucketline_service/http/app.py", "bucketline_service.settings", "app -> bucketline_service.settings"),
    ("service/bucketline_service/new.py", "bucketline_service.errors", "- bucketline_service.new"),
    (
        *("service/bucketline_service/planning/images.py", "bucketline_service.planning.build_plan"),
        "images -> bucketline_service.planning.build_plan",
    ),
    ("client/bucketline/_types.py", "numpy", "bucketline._types -> numpy"),
    ("client/bucketline/_types.py", "bucketline_service.errors", "_types -> bucketline_service.errors"),
]  # fmt: skip
CONTRACTS = 4


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{tree / 'client'}{os.pathsep}{tree / 'service'}"}
    command = [LINT, "--no-logo", "--no-cache", "--config", "pyproject.toml"]
    return subprocess.run(command, cwd=tree, env=environment, text=True, capture_output=True)


@pytest.fixture(scope="module")
def report(root: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The report on a copy of the checkout with all these imports, without its line breaks."""
    copy = tmp_path_factory.mktemp("floors")
    shutil.copyfile(root / "pyproject.toml", copy / "pyproject.toml")
    for folder in ["client", "service"]:
        shutil.copytree(root / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__", "data"))
    for module, imported, _ in FORBIDDEN:
        with (copy / module).open("a") as file:
            file.write(f"\nimport {imported}\n")
    done = lint(copy)
    assert done.returncode == 1
    return " ".join(done.stdout.split())


def test_the_floors_hold(root: Path) -> None:
    done = lint(root)
    assert done.returncode == 0, done.stdout
    assert f"{CONTRACTS} kept, 0 broken" in done.stdout


def test_each_contract_can_be_broken(report: str) -> None:
    assert f"0 kept, {CONTRACTS} broken" in report


@pytest.mark.parametrize(("module", "imported", "told"), FORBIDDEN)
def test_an_import_that_breaks_them_is_noticed(report: str, module: str, imported: str, told: str) -> None:
    assert f"{told} " in report
