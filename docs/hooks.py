"""Hooks of mkdocs: pages from elsewhere in the repository, links into the code, former addresses, version, edit links.

README and similar files are read in the repository's browser, where they link to ``docs/…`` and pages link to
``../README.md`` and to code. On the site they are pages like the others, and links to code lead to the repository.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
import subprocess
import tomllib
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
    "training.md#under-srun-and-mpirun": "how-to/slurm.md",
    "training.md#lightning": "how-to/lightning.md",
    "training.md#accelerate": "how-to/accelerate.md",
    "training.md#geometry": "reference/python/geometry.md",
    "scan.md": "how-to/scan.md",
    "dashboard.md": "how-to/dashboard.md",
    "alerts.md": "how-to/alerts.md",
    "guides/index.md": "how-to/coming-from.md",
    "guides/from-novelai.md": "how-to/from-novelai.md",
    "guides/from-kohya.md": "how-to/from-kohya.md",
    "guides/from-diffusers.md": "how-to/from-diffusers.md",
    "guides/from-lavender-data.md": "how-to/from-lavender-data.md",
    "ladders.md": "reference/ladders.md",
    "ladders.md#choosing-one": "how-to/choose-a-ladder.md",
    "cli.md": "reference/cli.md",
    "metrics.md": "reference/metrics.md",
    "protocol.md": "reference/http.md",
    "planning.md": "concepts/mathematics.md",
    "planning.md#dealing-to-steps-and-ranks": "concepts/mathematics.md#sharding-to-steps-and-ranks",
    "operations.md": "how-to/something-is-wrong.md",
    "operations.md#what-happens-when": "reference/failures.md",
    "operations.md#watching-it": "how-to/monitoring.md",
    "operations.md#settings": "reference/settings.md",
    "operations.md#what-it-keeps-where": "reference/state.md",
    "operations.md#what-is-checked-and-what-is-not": "reference/state.md#what-is-checked",
    "operations.md#backup-and-restore": "how-to/backup.md",
    "operations.md#upgrade": "how-to/upgrade.md",
    "operations.md#sizing": "how-to/sizing.md",
    "operations.md#which-store": "how-to/choose-a-store.md",
    "operations.md#several-replicas": "how-to/replicas.md",
    "operations.md#what-clients-make-of-bad-answers-and-of-proxies": "reference/client-network.md",
    "operations.md#maps-on-an-object-store": "how-to/map-root.md",
    "operations.md#behind-a-proxy": "how-to/load-balancer.md",
    "operations.md#on-kubernetes": "how-to/kubernetes.md",
    "operations.md#tls": "how-to/tls.md",
    "operations.md#changing-tokens": "how-to/tokens.md",
    "operations.md#traces": "how-to/traces.md",
    "operations.md#bounds": "reference/limits.md",
    "operations.md#tried-under-faults": "concepts/fault-tests.md",
    "operations.md#the-demo": "reference/cli.md#the-demo",
    "concepts/plan.md": "concepts/planning.md",
    "concepts/stream.md": "concepts/planning.md#the-stream",
    "concepts/unit.md": "concepts/planning.md#steps-of-equal-cost",
}
"""Former page -> page; a key with an anchor wins over that of its page. Links in old changelog entries and old
addresses of the site lead to the new page."""

CODE_LINK = "repository:"
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(#[^)\s]*)?")
CODE = re.compile(r"(^```.*?^```$|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
EXTERNAL = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//|<link\b[^>]*\brel=[\"']?(?:stylesheet|preconnect|icon)[^>]*\bhref=[\"']?(?:https?:)?//"
)


def on_config(config: Any) -> Any:
    """The version of the package is part of the site's title, so that it is on every page."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    config["site_name"] = f"{config['site_name']} {version}"
    return config


def repository() -> str | None:
    """The address of the repository's browser: ``BUCKETLINE_REPOSITORY``, else git's origin; None without either."""
    if given := os.environ.get("BUCKETLINE_REPOSITORY"):
        return given.rstrip("/")
    command = ["git", "-C", str(ROOT), "config", "remote.origin.url"]
    origin = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    found = re.match(r"(?:https://(?:[^@/]*@)?|ssh://git@|git@)([\w.-]+)[:/](.+?)(?:\.git)?/?$", origin)
    return f"https://{found[1]}/{found[2]}" if found else None


REPOSITORY = repository()


def in_repository(path: str, page: str, action: str) -> str:
    """A file or folder of the repository as a page of the site links to it: in the repository's browser; without one
    the file itself, for a site that is opened from its checkout."""
    if REPOSITORY:
        return f"{REPOSITORY}/{action}/main/{path}"
    return posixpath.relpath(path, posixpath.dirname(posixpath.join("build/site", page)))


def on_page_context(context: Any, page: Any, **_: Any) -> Any:
    """The edit link of a page, also of those from elsewhere in the repository."""
    source = page.file.src_uri
    path = {name: origin for origin, name in PAGES.items()}.get(source, f"docs/{source}")
    page.edit_url = in_repository(path, source, "edit")
    return context


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

    # a picture with a width is HTML, whose address mkdocs leaves as it is
    markdown = markdown.replace('src="docs/', 'src="')
    parts = CODE.split(markdown)
    return "".join(part if index % 2 else LINK.sub(rewrite, part) for index, part in enumerate(parts))


def to_page(link: str, anchor: str, origin: str, page: str) -> str:
    """A link of the file ``origin``, as the page ``page`` has it."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))
    found = PAGES.get(target)
    if found is None and target.startswith("docs/") and not (ROOT / target).is_dir():
        found = moved(target.removeprefix("docs/"), anchor)
    elif found is not None:
        found += anchor
    if found is None:  # code, which is no page: resolved in on_post_page, as mkdocs knows only pages
        return (CODE_LINK + target if (ROOT / target).exists() else link) + anchor
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
    source = page.file.src_uri
    return re.sub(f'(?<=href="){CODE_LINK}([^"#]+)', lambda m: in_repository(m[1], source, "blob"), output)


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
