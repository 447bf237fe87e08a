"""The pages of the site that stand elsewhere in the repository, and what the site must not do.

README and its like are read in the repository's browser, where they link to ``docs/…`` and are linked as
``../README.md``. In the site they are pages beside the others: their links are rewritten, and nothing is doubled.
"""

from __future__ import annotations

import json
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

MOVED = {
    "quickstart.md": "tutorial/quickstart.md",
    "training.md": "how-to/pytorch.md",
    "scan.md": "how-to/scan.md",
    "dashboard.md": "how-to/dashboard.md",
    "alerts.md": "how-to/alerts.md",
    "operations.md": "how-to/operations.md",
    "guides/index.md": "how-to/coming-from.md",
    "guides/from-novelai.md": "how-to/from-novelai.md",
    "guides/from-kohya.md": "how-to/from-kohya.md",
    "guides/from-diffusers.md": "how-to/from-diffusers.md",
    "guides/from-lavender-data.md": "how-to/from-lavender-data.md",
    "ladders.md": "reference/ladders.md",
    "cli.md": "reference/cli.md",
    "metrics.md": "reference/metrics.md",
    "protocol.md": "reference/http.md",
    "planning.md": "concepts/mathematics.md",
}
"""Former page -> page; a key with an anchor wins over that of its page. Links in old changelog entries and old
addresses of the site lead to the new page."""

LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(#[^)\s]*)?")
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
        return to_page(match[1], match[2] or "", origin, path)

    parts = CODE.split(markdown)
    return "".join(part if index % 2 else LINK.sub(rewrite, part) for index, part in enumerate(parts))


def to_page(link: str, anchor: str, origin: str, page: str) -> str:
    """A link of the file ``origin``, as the page ``page`` has it."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))
    found = PAGES.get(target, target.removeprefix("docs/") if target.startswith("docs/") else None)
    if found is None:
        return link + anchor
    found = moved(found, anchor)
    return posixpath.relpath(found, posixpath.dirname(page) or ".")


def moved(page: str, anchor: str) -> str:
    """Where a page, or its section, is now."""
    if page + anchor in MOVED:
        return MOVED[page + anchor]
    return MOVED.get(page, page) + anchor


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """The site is read where there is no internet: no page may fetch anything from elsewhere."""
    if found := EXTERNAL.search(output):
        raise PluginError(f"{page.file.src_uri} fetches from elsewhere: {found[0]}")
    return output


def on_post_build(config: Any, **_: Any) -> None:
    """Former addresses of the site, with and without an anchor, lead to the new ones."""
    site = Path(config["site_dir"])
    for page in (key for key in MOVED if "#" not in key):
        old = site / page.replace(".md", ".html")
        up = "../" * page.count("/")
        places = {
            key.removeprefix(page): up + to.replace(".md", ".html")
            for key, to in MOVED.items()
            if key.partition("#")[0] == page
        }
        default = places.pop("")
        old.parent.mkdir(parents=True, exist_ok=True)
        old.write_text(REDIRECT.format(default=default, places=json.dumps(places)))


REDIRECT = """<!doctype html>
<meta charset="utf-8">
<title>This page has moved</title>
<link rel="canonical" href="{default}">
<script>location.replace({places}[location.hash] || "{default}" + location.hash)</script>
<noscript><meta http-equiv="refresh" content="0; url={default}"></noscript>
<p>This page has moved <a href="{default}">here</a>.</p>
"""
