"""The reference names what service and client really have: settings, error codes, the run spec, public names."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import TypeGuard

import pytest
from docs import run_spec
from pydantic import BaseModel

from bucketline_service.http.problems import CODES
from bucketline_service.settings import Settings
from bucketline_service.spec import advice

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "docs" / "reference"
HTTP = (REFERENCE / "http.md").read_text()


def test_every_setting_is_documented() -> None:
    table = (REFERENCE / "settings.md").read_text().split("| setting | default | what it is |")[1]
    rows = table.split("\n\n")[0].splitlines()[2:]
    found = [name for row in rows for name in re.findall(r"`([^`]+)`", row.split("|")[1])]
    assert sorted(found) == sorted(Settings.model_fields)


def test_every_error_code_is_documented_with_its_status() -> None:
    table = HTTP.split("| code | status | means |")[1].split("\n\n")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", table, re.MULTILINE))
    assert told == {code: str(status) for code, status in CODES.items()}


def test_every_warning_is_documented_in_order() -> None:
    table = HTTP.split("| code | when |")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(advice.CODES)


def test_examples_of_the_protocol_are_json() -> None:
    examples = re.findall(r"^```json\n(.*?)^```$", HTTP, re.MULTILINE | re.DOTALL)
    assert [type(json.loads(text)) for text in examples] == [dict, dict, dict]


# --- the run spec ---------------------------------------------------------------------------------------------------


def test_the_run_spec_page_is_what_the_models_say() -> None:
    assert run_spec.PAGE.read_text() == run_spec.page(), "write it again: python -m docs.run_spec"


@pytest.mark.parametrize("model", run_spec.MODELS.values(), ids=run_spec.MODELS)
def test_every_field_of_a_spec_is_on_the_page_once_with_its_meaning(model: type[BaseModel]) -> None:
    regions = run_spec.REGION.findall(run_spec.PAGE.read_text())
    names = [name for _, owner, fields, _ in regions if owner == model.__name__ for name in fields.split()]
    assert sorted(names) == sorted(set(model.model_fields) - {"kind"})
    assert [name for name in names if not model.model_fields[name].description] == []


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 1, "exclusiveMaximum": 2048}, "integer >= 1, < 2,048"),
        ({"anyOf": [{"enum": ["a", "b"], "type": "string"}, {"type": "null"}]}, "`a` or `b`"),
        (
            {"type": "array", "minItems": 1, "maxItems": 16, "items": {"type": "string"}},
            "list (1 to 16) of string",
        ),
        ({"type": "array", "prefixItems": [{"type": "integer"}] * 2}, "[integer, integer]"),
    ],
)
def test_a_schema_is_written_in_words(schema: dict[str, object], words: str) -> None:
    assert run_spec.values(schema) == words


# --- the Python API -------------------------------------------------------------------------------------------------

PAGES = {
    "bucketline": ("index", "operator"),
    "bucketline.torch": ("torch",),
    "bucketline.lightning": ("lightning",),
    "bucketline.images": ("images",),
    "bucketline.geometry": ("geometry",),
}


def source(module: str) -> Path:
    path = ROOT / "client" / Path(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def public(module: str) -> set[str]:
    """Read, not imported: torch and Lightning need not be installed."""
    tree = ast.parse(source(module).read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return {node.name for node in tree.body if is_public(node)}


@pytest.mark.parametrize("module", PAGES)
def test_every_public_name_has_its_reference(module: str) -> None:
    text = "\n".join((REFERENCE / "python" / f"{page}.md").read_text() for page in PAGES[module])
    told = re.findall(r"^::: ([\w.]+)$", text, re.MULTILINE)
    assert sorted(told) == sorted(f"{module}.{name}" for name in public(module))


def test_every_module_of_the_client_without_an_underscore_is_in_the_reference() -> None:
    found = {
        path.stem if path.suffix else path.name
        for path in (ROOT / "client" / "bucketline").iterdir()
        if not path.name.startswith("_") and (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    # the package ``operator`` is reached as bucketline.Operator
    assert found - {"operator"} == {name.partition(".")[2] for name in PAGES} - {""}


def is_public(node: ast.stmt) -> TypeGuard[ast.ClassDef | ast.FunctionDef]:
    return isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")


def undocumented(file: Path) -> list[str]:
    """Public classes, functions, methods and properties of a file without a docstring, except overridden hooks."""
    tops = [node for node in ast.parse(file.read_text()).body if is_public(node)]
    members = [
        each for node in tops if isinstance(node, ast.ClassDef) for each in node.body if is_public(each)
    ]
    return [f"{file.name}: {each.name}" for each in (*tops, *members) if not ast.get_docstring(each)]


def test_everything_public_has_a_docstring() -> None:
    client = ROOT / "client" / "bucketline"
    files = [client / f"{name}.py" for name in ("_client", "_warnings", "geometry", "images")]
    assert [name for file in files for name in undocumented(file)] == []
