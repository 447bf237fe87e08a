"""The page's files as they are served: read, compressed and given a digest once in each process."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

PAGE = "index.html"
PLOTLY = "plotly.min.js"
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_WHERE = "{{assets}}"


@dataclass(frozen=True)
class Asset:
    media_type: str
    plain: bytes

    @cached_property
    def packed(self) -> bytes:
        return gzip.compress(self.plain, 6, mtime=0)


@dataclass(frozen=True)
class Assets:
    """``digest`` covers all files and is part of their URLs, so that browsers can cache them forever."""

    digest: str
    by_name: dict[str, Asset]

    @classmethod
    def load(cls) -> Assets:
        """Read them from the package, and plotly.js from the plotly package."""
        static = Path(__file__).parent / "static"
        found = {each.name: each.read_bytes() for each in sorted(static.iterdir()) if each.suffix in _TYPES}
        found[PLOTLY] = (files("plotly") / "package_data" / PLOTLY).read_bytes()
        whole = hashlib.sha256()
        for name in sorted(found):
            whole.update(f"{name} {len(found[name])} ".encode() + found[name])
        digest = whole.hexdigest()[:16]
        found[PAGE] = found[PAGE].replace(_WHERE.encode(), f"assets/{digest}".encode())
        made = {name: Asset(_TYPES[Path(name).suffix], data) for name, data in found.items()}
        for asset in made.values():
            _ = asset.packed  # compress now, in this thread
        return cls(digest, made)
