"""The documentation holds together: every page is in the site's menu, and every link and anchor leads somewhere.

Links are looked up in the repository, as its browser does; ``make site`` looks them up in the site.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
CONFIG = YAML().load((ROOT / "mkdocs.yml").read_text())
CODE = re.compile(r"^ *```.*?^ *```$|`[^`\n]+`", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(((?!\w+:)[^)\s]+)\)")


def of_hooks(name: str) -> dict[str, str]:
    """A table of ``docs/hooks.py``, which imports mkdocs and so cannot be imported here."""
    (value,) = (
        node.value
        for node in ast.parse((DOCS / "hooks.py").read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name
    )
    found: dict[str, str] = ast.literal_eval(value)
    return found


PAGES = of_hooks("PAGES")  # file of the repository -> page, of those that the site takes from outside docs/
MOVED = of_hooks("MOVED")
FILES = [*sorted(DOCS.rglob("*.md")), *(ROOT / name for name in PAGES)]


def in_menu(entries: list[Any]) -> list[str]:
    """The pages of a ``nav``, in order."""
    values = [
        value for entry in entries for value in (entry.values() if isinstance(entry, dict) else [entry])
    ]
    return [page for value in values for page in (in_menu(value) if isinstance(value, list) else [value])]


def slug(heading: str) -> str:
    """The anchor of a heading, in the repository's browser and in the site."""
    text = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return text.replace(" ", "-")


def anchors(text: str) -> list[str]:
    plain = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [slug(heading) for heading in re.findall(r"^#{1,6} (.+)$", plain, re.MULTILINE)]


def followed(target: Path, anchor: str) -> tuple[Path, str]:
    """Where a page that has moved, or its section, is now."""
    page = str(target.relative_to(DOCS)) if target.is_relative_to(DOCS) else ""
    to, _, section = MOVED.get(f"{page}#{anchor}", MOVED.get(page, page)).partition("#")
    return (DOCS / to, section or anchor) if to else (target, anchor)


def broken(file: Path, text: str) -> list[str]:
    """The links of a file that lead nowhere."""
    found = []
    for link in LINK.findall(CODE.sub("", text)):
        path, _, anchor = link.partition("#")
        target = (file.parent / path).resolve() if path else file
        if (
            file.name == "CHANGELOG.md"
        ):  # its entries keep the names of their time; the site and the test follow moves
            target, anchor = followed(target, anchor)
        is_there = target.is_relative_to(ROOT) and target.exists()
        if not is_there or (anchor and anchor not in anchors(target.read_text())):
            found.append(link)
    return found


def test_every_page_is_in_the_menu_once() -> None:
    pages = [*(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")), *PAGES.values()]
    assert sorted(in_menu(CONFIG["nav"])) == sorted(pages)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_link_leads_somewhere(file: Path) -> None:
    assert broken(file, file.read_text()) == []


def test_a_link_that_leads_nowhere_is_noticed() -> None:
    text = "[a](scan.md) [b](scan.md#ids) [c](gone.md) [d](scan.md#gone) [e](#gone) `[f](gone.md)` ![g](gone.svg)"
    assert broken(DOCS / "how-to" / "pytorch.md", text) == ["gone.md", "scan.md#gone", "#gone", "gone.svg"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_heading_is_there_twice_as_anchors_would_be_ambiguous(file: Path) -> None:
    """The repository's browser and the site count them in different ways. (A changelog's are of its releases.)"""
    found = anchors(file.read_text())
    assert file.name == "CHANGELOG.md" or sorted(set(found)) == sorted(found)


def test_the_site_asks_for_nothing_from_elsewhere() -> None:
    assert CONFIG["theme"]["font"] is False
    assert CONFIG["strict"] is True
    assert not {"privacy", "offline", "social"} & set(CONFIG["plugins"])  # they fetch, or have pages fetch
