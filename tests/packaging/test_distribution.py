"""What is in the wheel and the sdist."""

import tarfile
import zipfile
from pathlib import Path

import pytest

PACKAGES = {"bucketline": "client", "bucketline_service": "service"}

# What code loads at run time and no import would miss.
NAMED = [
    "bucketline/py.typed",
    "bucketline_service/py.typed",
    "bucketline_service/data/coco-5k.csv",
    "bucketline_service/dashboard/static/index.html",
    "bucketline_service/dashboard/static/app.js",
]


def files_of_tree(root: Path) -> set[str]:
    """Every file of both packages, as a wheel names it."""
    found = set()
    for package, folder in PACKAGES.items():
        for path in (root / folder / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found.add(path.relative_to(root / folder).as_posix())
    return found


def files_of_wheel(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_wheel_holds_both_packages_whole_and_nothing_else(wheel: Path, root: Path) -> None:
    assert files_of_wheel(wheel) == files_of_tree(root)


@pytest.mark.parametrize("name", NAMED)
def test_wheel_holds_what_no_import_would_miss(wheel: Path, name: str) -> None:
    assert name in files_of_wheel(wheel)


def test_wheel_holds_the_scripts_of_the_redis_store(wheel: Path) -> None:
    assert [
        name
        for name in files_of_wheel(wheel)
        if name.startswith("bucketline_service/store/") and name.endswith(".lua")
    ]


def test_a_wheel_that_lacks_a_file_would_be_noticed(wheel: Path, root: Path, tmp_path: Path) -> None:
    poorer = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as archive, zipfile.ZipFile(poorer, "w") as copy:
        for name in archive.namelist():
            if name != "bucketline/py.typed":
                copy.writestr(name, archive.read(name))
    assert files_of_tree(root) - files_of_wheel(poorer) == {"bucketline/py.typed"}


def test_wheel_carries_the_license(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/licenses/LICENSE")]
        assert "Apache License" in archive.read(name).decode()


def test_sdist_holds_the_packages_and_what_tests_them(sdist: Path, root: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    expected = {f"{PACKAGES[name.split('/')[0]]}/{name}" for name in files_of_tree(root)}
    expected |= {"pyproject.toml", "constraints.txt", "Makefile", "LICENSE", "README.md", "CHANGELOG.md"}
    expected |= {"tests/packaging/test_distribution.py"}
    assert expected - names == set()
