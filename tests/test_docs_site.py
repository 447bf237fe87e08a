"""The documentation is consistent: pages are on a shelf and in the menu, and links, also to code, have targets.

Links are looked up in the repository, as its browser does; ``make site`` looks them up on the site.
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
POINTER = "protocol.md"  # the address of the contract, for readers of the repository
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


def without_code(text: str) -> str:
    return re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> list[str]:
    return [slug(heading) for heading in re.findall(r"^#{1,6} (.+)$", without_code(text), re.MULTILINE)]


def followed(target: Path, anchor: str) -> tuple[Path, str]:
    """Where a page that has moved, or its section, is now."""
    page = str(target.relative_to(DOCS)) if target.is_relative_to(DOCS) else ""
    if to := MOVED.get(f"{page}#{anchor}"):
        page, _, anchor = to.partition("#")
        return DOCS / page, anchor
    return (DOCS / MOVED[page] if page in MOVED else target), anchor


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


def test_every_page_is_on_a_shelf() -> None:
    found = {str(page.relative_to(DOCS)).split("/")[0] for page in DOCS.rglob("*.md")}
    assert found == {"tutorial", "how-to", "reference", "concepts", POINTER}


def test_every_page_is_in_the_menu_once() -> None:
    pages = {*(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")), *PAGES.values()} - {POINTER}
    assert sorted(in_menu(CONFIG["nav"])) == sorted(pages)


def test_every_page_has_one_title_and_titles_differ() -> None:
    titles = [re.findall(r"^# (.+)$", without_code(page.read_text()), re.MULTILINE) for page in FILES]
    assert [len(found) for found in titles] == [1] * len(FILES)
    assert len({found[0] for found in titles}) == len(FILES)


def test_former_addresses_lead_to_a_page_and_a_section() -> None:
    for former, page in MOVED.items():
        path, _, section = page.partition("#")
        assert (DOCS / path).is_file(), former
        assert not section or section in anchors((DOCS / path).read_text()), former
        assert former == POINTER or not (DOCS / former).is_file(), former


def test_every_link_leads_somewhere() -> None:
    assert {file: links for file in FILES if (links := broken(file, file.read_text()))} == {}


def test_a_link_that_leads_nowhere_is_noticed() -> None:
    text = "[a](scan.md) [b](scan.md#ids) [c](gone.md) [d](scan.md#gone) [e](#gone) `[f](gone.md)` ![g](gone.svg)"
    text += " [h](../../service/bucketline_service/runs) [i](../../service/gone.py)"
    nowhere = ["gone.md", "scan.md#gone", "#gone", "gone.svg", "../../service/gone.py"]
    assert broken(DOCS / "how-to" / "pytorch.md", text) == nowhere


LAYERS = sorted(
    path.name
    for path in (ROOT / "service" / "bucketline_service").iterdir()
    if (path / "__init__.py").is_file()
)


def test_the_architecture_names_every_layer() -> None:
    text = (DOCS / "concepts" / "architecture.md").read_text()
    table = text.split("| layer | what is inside | may use |")[1].split("\n\n")[0]
    assert sorted(re.findall(r"\[`(\w+)`\]", table)) == LAYERS


def test_no_heading_is_there_twice_as_anchors_would_be_ambiguous() -> None:
    """The repository's browser and the site count them in different ways. (A changelog's are of its releases.)"""
    found = {file: anchors(file.read_text()) for file in FILES if file.name != "CHANGELOG.md"}
    assert {file: each for file, each in found.items() if len(set(each)) < len(each)} == {}


def test_the_site_asks_for_nothing_from_elsewhere() -> None:
    assert CONFIG["theme"]["font"] is False
    assert CONFIG["strict"] is True
    plugins = {name for each in CONFIG["plugins"] for name in each}
    assert plugins == {"search", "mkdocstrings"}  # others fetch, or have pages fetch
    assert "repo_url" not in CONFIG  # the theme would ask GitHub for stars


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("BucketlineStoreDown", ["Bucketline", "Store", "Down"]),
        ("bucketline_store_up", ["bucketline", "store", "up"]),
        ("/v1/runs/{run}", ["", "v1", "runs", "run", ""]),
    ],
)
def test_the_search_finds_the_words_of_a_name(text: str, words: list[str]) -> None:
    (search,) = (each["search"] for each in CONFIG["plugins"] if "search" in each)
    assert re.split(search["separator"], text) == words
