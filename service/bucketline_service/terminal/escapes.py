"""Makes text that others have written safe to display on a terminal."""

from __future__ import annotations

from typing import TypeVar

_T = TypeVar("_T")


def printable(value: _T) -> _T:
    """``value``, a string or a JSON document of strings, with escapes in place of unprintable characters: a terminal
    executes some of them as commands, and others reverse the order of the text beside them."""
    if isinstance(value, str):
        return "".join(each if each.isprintable() else _escape(each) for each in value)  # type: ignore[return-value]
    if isinstance(value, dict):
        return {printable(name): printable(each) for name, each in value.items()}  # type: ignore[return-value]
    if isinstance(value, list):
        return [printable(each) for each in value]  # type: ignore[return-value]
    return value


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()
