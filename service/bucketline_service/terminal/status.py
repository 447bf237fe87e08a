"""The text of ``bucketline status``."""

from __future__ import annotations

from typing import Any

from rich.console import Console


def show(console: Console, answer: dict[str, Any]) -> None:
    root = f", map root {answer['map_root']}" if "map_root" in answer else ""
    console.print(f"{answer['url']}: {answer['status']}, bucketline {answer['version']}{root}")
    for risk in answer.get("store_risks", []):
        console.print(risk)
