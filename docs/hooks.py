"""The pages of the site that stand elsewhere in the repository, and what the site must not do.

README and its like are read in the repository's browser, where they link to ``docs/…`` and are linked as
``../README.md``. In the site they are pages beside the others: their links are rewritten, and nothing is doubled.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/RESULTS.md": "results.md",
}
"""File of the repository -> page of the site."""

LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)")
CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
EXTERNAL = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//|<link\b[^>]*\brel=[\"']?(?:stylesheet|preconnect|icon)[^>]*\bhref=[\"']?(?:https?:)?//"
)


def on_files(files: Any, config: Any) -> Any:
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links between files of the repository become links between pages; those in code stay."""
    path = page.file.src_uri
    origin = {name: source for source, name in PAGES.items()}.get(path, f"docs/{path}")

    def rewrite(match: re.Match[str]) -> str:
        return to_page(match[1], origin, path)

    parts = CODE.split(markdown)
    return "".join(part if index % 2 else LINK.sub(rewrite, part) for index, part in enumerate(parts))


def to_page(link: str, origin: str, page: str) -> str:
    """A link of the file ``origin``, as the page ``page`` has it."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))
    found = PAGES.get(target, target.removeprefix("docs/") if target.startswith("docs/") else None)
    return link if found is None else posixpath.relpath(found, posixpath.dirname(page) or ".")


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """The site is read where there is no internet: no page may fetch anything from elsewhere."""
    if found := EXTERNAL.search(output):
        raise PluginError(f"{page.file.src_uri} fetches from elsewhere: {found[0]}")
    return output
