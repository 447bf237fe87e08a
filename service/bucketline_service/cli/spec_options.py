"""A run spec from a file and from options: which of them a field is from, so that an error can name it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bucketline_service.errors import Invalid

_NEEDED = {"map": "--map", "world_size": "--world-size", "batch_size": "--batch-size"}
"""Options of fields that a spec must have."""
_WORD = re.compile(r"[A-Za-z][\w.-]*")
"""What may be given without JSON's quotes: --set tails=drop."""


class Spec:
    """Fields of ``file``, if there is one, with those of options over them."""

    def __init__(self, file: Path | None) -> None:
        self.document: dict[str, Any] = read_spec(file) if file else {}
        self._file = file
        self._options: dict[str, str] = {}  # of a field, dotted

    def set(self, field: str, value: Any, option: str) -> None:
        """Raise ``Invalid`` if the field is inside something that is not an object."""
        *above, name = field.split(".")
        place = self.document
        for depth, part in enumerate(above, start=1):
            inner = place.setdefault(part, {})
            if not isinstance(inner, dict):
                raise Invalid(
                    option, f"{'.'.join(above[:depth])} is {json.dumps(inner)}, which has no fields"
                )
            place = inner
        place[name] = value
        self._options[field] = option

    def set_map(self, name: str) -> None:
        self.document.pop("maps", None)
        self.set("map", name, "--map")

    def set_ladder(self, text: str) -> None:
        """As a spec has it: a word, or JSON."""
        self.set("ladder", _json(text, "--ladder", may_be_word=True), "--ladder")

    def set_all(self, assignments: Sequence[str]) -> None:
        """``ladder.max_size=[1024,1024]``: a dotted name and JSON."""
        for each in assignments:
            field, equals, text = (part.strip() for part in each.partition("="))
            if not equals or not all(field.split(".")):
                raise Invalid(
                    f"--set {each}",
                    "is not FIELD=VALUE",
                    "Write --set seed=7, or --set ladder.max_size=[1024,1024]",
                )
            option = f"--set {field}"
            self.set(field, _json(text, option, may_be_word=True), option)

    def blame(self, field: str | None, detail: str) -> Invalid | None:
        """What a problem document says of a field, said of the option or the file that the field is from, if it is from
        one. ``detail`` begins with the field, which an option names already."""
        parts = (field or "").split(".")
        for end in range(len(parts), 0, -1):
            known = ".".join(parts[:end])
            option = self._options.get(known) or (_NEEDED.get(known) if known not in self.document else None)
            if option:
                return Invalid(option, detail.removeprefix(known).lstrip(":. "))
        return Invalid(str(self._file), detail) if parts[0] in self.document and self._file else None


def read_spec(file: Path) -> dict[str, Any]:
    try:
        document = _loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise Invalid(str(file), f"is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise Invalid(str(file), "is not a JSON object", 'Write {"map": …, "world_size": …, "batch_size": …}')
    return document


def _json(text: str, option: str, *, may_be_word: bool = False) -> Any:
    try:
        return _loads(text)
    except (ValueError, RecursionError) as error:
        if may_be_word and _WORD.fullmatch(text):
            return text
        raise Invalid(option, f"{text!r} is not JSON: {error}") from error


def _loads(text: str) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not a JSON number")

    return json.loads(text, parse_constant=refuse)
