"""The small JSON file beside a stored map: the expected size of the map, its histogram, and summaries of its optional
columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bucketline_service.atomic_files import synced
from bucketline_service.errors import StoreUnavailable
from bucketline_service.maps.optional_columns import Summaries
from bucketline_service.maps.spool import IdKind

LAYOUT = 1
"""The layout of the object file and its sidecar; any other number is refused."""


def damaged(path: Path, reason: str) -> StoreUnavailable:
    return StoreUnavailable(f"the stored map {path} is damaged: {reason}. Put the map again", path=str(path))


def sidecar_path(path: Path) -> Path:
    return path.with_suffix(".json")


def read_sidecar(path: Path, digest: str) -> dict[str, Any]:
    try:
        about = json.loads(sidecar_path(path).read_bytes())
        if about["layout"] != LAYOUT:
            raise StoreUnavailable(f"the stored map {path} has layout {about['layout']}, not {LAYOUT}")
        if about["digest"] != digest:
            raise damaged(path, "its sidecar belongs to another map")
        read = {key: about[key] for key in ("num_bytes", "num_images", "id_kind", "histogram")}
        return {**read, "optional": dict(about.get("optional", {}))}
    except FileNotFoundError as exc:
        raise damaged(path, f"{sidecar_path(path).name} is missing") from exc
    except OSError as exc:
        raise StoreUnavailable(f"cannot read {sidecar_path(path)}: {exc.strerror}") from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise damaged(path, f"{sidecar_path(path).name} cannot be read") from exc


def write_sidecar(
    path: Path, digest: str, num_images: int, id_kind: IdKind, histogram: dict[str, Any], optional: Summaries
) -> None:
    """The sidecar of the object file at ``path``, synced to disk."""
    about = {
        "layout": LAYOUT,
        "digest": digest,
        "num_bytes": path.stat().st_size,
        "num_images": num_images,
        "id_kind": id_kind,
        "histogram": histogram,
    }
    if optional:
        about["optional"] = optional
    with synced(sidecar_path(path)) as file:
        file.write(json.dumps(about).encode())
