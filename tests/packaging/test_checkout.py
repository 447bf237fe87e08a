"""The checkout itself: commands that the documents name exist, no machine shows through, the changelog is current."""

import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

DOCUMENTS = ["README.md", "CONTRIBUTING.md", ".ci/run", "docs"]

# In pieces, so that this file does not find itself.
FOREIGN = [
    "/wo" + "rk/",
    "/ro" + "ot/",
    "/ho" + r"me/\w",
    "/opt/py" + "pi",
    r"\.py" + "env/",
    r"index-u" + r"rl\s*=\s*\S*//",
    "files.python" + "hosted",
    r"pypi\.o" + "rg/simple",
    r"deb\.deb" + r"ian\.org",
    r"registry\.npm" + "js",
]


def targets_named_in(text: str) -> set[str]:
    """`make x` and `make x y` in code, and lines of scripts that call make."""
    called = re.findall(
        r"`make ((?:[a-z][\w-]* ?)+)`|^\s*(?:\$ )?make ((?:[a-z][\w-]* ?)+)$", text, re.MULTILINE
    )
    return {target for pair in called for words in pair for target in words.split()}


def targets_of(makefile: str) -> set[str]:
    return set(re.findall(r"(?m)^([a-z][\w-]*):", makefile))


def foreign_in(text: str) -> list[str]:
    return [pattern for pattern in FOREIGN if re.search(pattern, text)]


def committed_files(root: Path) -> list[Path]:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(command, cwd=root, text=True, capture_output=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [root / name for name in listed.stdout.split("\0") if name and (root / name).is_file()]


def test_targets_that_documents_name_exist(root: Path) -> None:
    known = targets_of((root / "Makefile").read_text())
    named = set()
    for name in DOCUMENTS:
        files = (root / name).rglob("*.md") if (root / name).is_dir() else [root / name]
        for file in files:
            named |= targets_named_in(file.read_text())
    assert named >= {"test", "lint"}
    assert named - known == set()


def test_a_target_that_does_not_exist_would_be_noticed() -> None:
    assert targets_named_in("run `make demo`\n\n    make test dance\n") == {"demo", "test", "dance"}
    assert targets_of("demo: x\n\techo\ntest:\n") == {"demo", "test"}


def test_no_file_shows_the_machine_it_was_written_on(root: Path) -> None:
    files = committed_files(root)
    assert len(files) > 20
    shown = {}
    for file in files:
        found = foreign_in(file.read_bytes().decode(errors="replace"))
        if found:
            shown[file.relative_to(root).as_posix()] = found
    assert shown == {}


@pytest.mark.parametrize("text", ["cd /wo" + "rk/x", "index-u" + "rl = https://x", "/ho" + "me/me"])
def test_a_file_that_did_would_be_noticed(text: str) -> None:
    assert foreign_in(text)


def versions_in(changelog: str) -> list[str]:
    return re.findall(r"(?m)^## \[?(\d+\.\d+\.\d+)", changelog)


def test_changelog_opens_with_the_current_version(root: Path) -> None:
    assert versions_in((root / "CHANGELOG.md").read_text())[0] == version("bucketline")


def test_an_old_changelog_would_be_noticed() -> None:
    assert versions_in("# Changelog\n\n## [0.0.9] - 2020-01-01\n\n## [0.0.8]\n")[0] == "0.0.9"


@pytest.mark.parametrize("name", [".ci/run", "scripts/image-check", "scripts/update-constraints.py"])
def test_scripts_can_be_run(root: Path, name: str) -> None:
    assert (root / name).stat().st_mode & 0o111
    assert (root / name).read_text().startswith("#!/usr/bin/env ")


@pytest.mark.parametrize("name", [".ci/run", "scripts/image-check"])
def test_shell_scripts_stop_at_the_first_failure(root: Path, name: str) -> None:
    text = (root / name).read_text()
    assert "\nset -euo pipefail\n" in text
    assert subprocess.run(["bash", "-n", root / name], capture_output=True).returncode == 0
