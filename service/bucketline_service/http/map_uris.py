"""Opens files on the coordinator's host that ``PUT /v1/maps`` names by ``uri``: only in folders that are allowed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

from bucketline_service.errors import Invalid

_FILE = "file://"
_FLAGS = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def path_of(uri: str) -> Path:
    """The path in a ``uri``, absolute or relative to an allowed folder. Raises ``Invalid``."""
    path = uri
    if uri.lower().startswith(_FILE):
        host, slash, rest = uri[len(_FILE) :].partition("/")
        if host not in ("", "localhost") or not slash:
            raise Invalid(
                "uri", f"must be a file on this host, got {uri[:80]!r}", "Give a path, or file:///…"
            )
        path = "/" + unquote(rest, errors="surrogateescape")
    elif "://" in uri:
        raise Invalid("uri", f"must be a path or file:///…, got {uri[:80]!r}")
    if "\0" in path:
        raise Invalid("uri", "must not contain a NUL character")
    return Path(path)


@contextmanager
def opened(roots: tuple[Path, ...], path: Path) -> Iterator[Path]:
    """Open a file in one of the folders ``roots``. Yields a path that leads to this file even if its name changes
    meanwhile. Links are followed if they end inside the folder. Raises ``Invalid``."""
    if not roots:
        raise Invalid(
            "uri",
            "must not be given: this coordinator has no folder of maps",
            "Start it with --map-source FOLDER, or upload the map",
        )
    for root in roots:
        descriptor = _open(root, path)
        if descriptor is None:
            continue
        try:
            # by this process's number, since another process reads the file
            by_descriptor = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
            yield by_descriptor if by_descriptor.exists() else (root / path).resolve()
        finally:
            os.close(descriptor)
        return
    raise Invalid(
        "uri",
        f"must be a file in an allowed folder, got {str(path)[:200]!r}",
        "Give a file in a folder of --map-source",
    )


def _open(root: Path, path: Path) -> int | None:
    """A descriptor of the file ``path`` in ``root``; None unless it is a regular file inside ``root``."""
    try:
        root = root.resolve()
        inside = (root / path).resolve().relative_to(root)
        descriptor = _walk(root, inside.parts)
    # missing, outside the folder, not a valid name, a cycle of links
    except (OSError, ValueError, RuntimeError):
        return None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def _walk(root: Path, parts: tuple[str, ...]) -> int:
    """Open folder by folder without following links, so that a link made since the path was resolved is refused.
    Opening a pipe does not wait for a writer."""
    if os.open not in os.supports_dir_fd:
        return os.open(root.joinpath(*parts), _FLAGS)
    descriptor = os.open(root, os.O_RDONLY)
    for part in parts:
        outer = descriptor
        try:
            descriptor = os.open(part, _FLAGS, dir_fd=outer)
        finally:
            os.close(outer)
    return descriptor
