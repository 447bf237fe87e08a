"""Files of the coordinator's own machine that ``PUT /v1/maps`` may name: under an allowed folder, and nowhere else."""

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
    """The path that a ``uri`` names, below a folder or absolute. Raises ``Invalid``."""
    path = uri
    if uri.lower().startswith(_FILE):
        host, slash, rest = uri[len(_FILE) :].partition("/")
        if host not in ("", "localhost") or not slash:
            raise Invalid("uri", f"{uri[:80]!r} names another host", "Give a path, or file:///…")
        path = "/" + unquote(rest, errors="surrogateescape")
    elif "://" in uri:
        raise Invalid("uri", f"scheme of {uri[:80]!r} is not known", "Give a path, or file:///…")
    if "\0" in path:
        raise Invalid("uri", "no path holds a NUL", "Give a path, or file:///…")
    return Path(path)


@contextmanager
def opened(roots: tuple[Path, ...], path: Path) -> Iterator[Path]:
    """Open the file under one of ``roots``, and give the path to read it by, which stays that file whatever its name
    comes to lead to. Links are followed as long as they end under the root. Raises ``Invalid``."""
    if not roots:
        raise Invalid(
            "uri", "this coordinator reads no files by name", "Start it with --map-source FOLDER, or upload"
        )
    for root in roots:
        descriptor = _open(root, path)
        if descriptor is None:
            continue
        try:
            # of this process by its number: a process of its own reads the file
            by_descriptor = Path(f"/proc/{os.getpid()}/fd/{descriptor}")
            yield by_descriptor if by_descriptor.exists() else (root / path).resolve()
        finally:
            os.close(descriptor)
        return
    raise Invalid(
        "uri", f"{str(path)[:200]!r} is no file under an allowed folder", "Name one under --map-source"
    )


def _open(root: Path, path: Path) -> int | None:
    """A descriptor of the regular file that ``path`` is under ``root``, else None."""
    try:
        root = root.resolve()
        inside = (root / path).resolve().relative_to(root)
        descriptor = _walk(root, inside.parts)
    except (OSError, ValueError, RuntimeError):  # not there, not under it, no name at all, links in a circle
        return None
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    return None


def _walk(root: Path, parts: tuple[str, ...]) -> int:
    """Open folder by folder, following no link: one that was put there since the path was resolved leads nowhere. A
    pipe without a writer is not waited for."""
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
