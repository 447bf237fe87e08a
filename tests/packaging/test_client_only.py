"""`pip install bucketline`, without the extra: httpx is all that the client gets, and all that it needs.

The environment is made offline: a bare virtual environment, the wheel, and copies of httpx and what httpx requires.
"""

import os
import shutil
import subprocess
import sysconfig
import venv
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

Environment = dict[str, Path]


def closure(name: str, found: dict[str, Distribution] | None = None) -> dict[str, Distribution]:
    """The distribution and all that it requires here, by name."""
    found = {} if found is None else found
    if name not in found:
        found[name] = distribution(name)
        for line in found[name].requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                closure(requirement.name, found)
    return found


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment with the wheel and httpx, and nothing else."""
    home = tmp_path_factory.mktemp("client-only")
    venv.create(home, symlinks=True)
    paths = sysconfig.get_paths(scheme="venv", vars={"base": str(home), "platbase": str(home)})
    site = Path(paths["purelib"])
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for found in closure("httpx").values():
        for file in found.files or []:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                target = site / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(file.locate()), target)
    return Path(paths["scripts"]) / "python"


def run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": os.defpath, "LANG": "C.UTF-8"}
    return subprocess.run(
        [python, "-I", "-W", "error", *arguments], env=environment, text=True, capture_output=True
    )


def test_the_client_imports_with_httpx_alone(python: Path) -> None:
    done = run(python, "-c", "import bucketline; bucketline.BucketClient; print(bucketline.__file__)")
    assert done.returncode == 0, done.stderr
    assert str(python.parents[1]) in done.stdout


def test_the_environment_really_lacks_the_service(python: Path) -> None:
    names = {"numpy", "pydantic", "fastapi", "redis", "pyarrow"}
    script = (
        "import importlib.util, sys; print([name for name in sys.argv[1:] if importlib.util.find_spec(name)])"
    )
    assert run(python, "-c", script, *names).stdout == "[]\n"


def test_the_command_names_the_extra_that_is_missing(python: Path) -> None:
    done = run(python, "-m", "bucketline", "serve")
    assert done.returncode != 0
    assert "bucketline[service]" in done.stderr
    assert "Traceback" not in done.stderr
