"""docs/ names what the service really has: settings, metrics, error codes, routes."""

from __future__ import annotations

import json
import re
from pathlib import Path

from bucketline_service.http.problems import CODES
from bucketline_service.settings import Settings

DOCS = Path(__file__).parents[1] / "docs"
OPERATIONS = (DOCS / "how-to" / "operations.md").read_text()
PROTOCOL = (DOCS / "reference" / "http.md").read_text()


def first_cells(text: str, header: str) -> list[str]:
    """What stands in backticks in the first column of the table with this header."""
    table = text.split(header)[1].split("\n\n")[0]
    return [name for row in table.splitlines()[2:] for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


def test_operations_has_every_setting() -> None:
    assert set(first_cells(OPERATIONS, "| setting | default | what it is |")) == set(Settings.model_fields)


def test_protocol_has_every_error_code_with_its_status() -> None:
    table = PROTOCOL.split("| code | status | means |")[1].split("\n\n")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", table, re.MULTILINE))
    assert told == {code: str(status) for code, status in CODES.items()}


def test_protocols_examples_are_json() -> None:
    examples = re.findall(r"^```json\n(.*?)^```$", PROTOCOL, re.MULTILINE | re.DOTALL)
    assert [type(json.loads(text)) for text in examples] == [dict, dict]
