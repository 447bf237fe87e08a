"""The public API is what ``bucketline`` and its public modules export: all of it, sorted, with an example each."""

import importlib
import inspect
import types

import pytest

import bucketline

# the modules of torch and Lightning are imported where those are installed: tests/torch/test_exports.py
MODULES = ("bucketline", "bucketline.operator", "bucketline.geometry", "bucketline.images")


def public(module):
    """Classes and functions that the module exports; where it has no ``__all__``, those that it defines."""
    names = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    return {name: getattr(module, name) for name in names if callable(getattr(module, name))}


def undocumented(module):
    """Exports without an example, and their public methods and properties without a docstring."""
    found = []
    for name, value in public(module).items():
        if "```python" not in (inspect.getdoc(value) or ""):
            found.append(name)
        if isinstance(value, type):
            members = inspect.getmembers(value, lambda it: callable(it) or isinstance(it, property))
            found += [
                f"{name}.{member}"
                for member, it in members
                if not member.startswith("_")
                and (getattr(it, "__module__", None) or value.__module__).startswith("bucketline")
                and not inspect.getdoc(it)  # a hook is documented by its framework
            ]
    return found


def test_exports_are_sorted_and_complete():
    found = {
        name
        for name, value in vars(bucketline).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert bucketline.__all__ == sorted(bucketline.__all__)
    assert set(bucketline.__all__) == found


@pytest.mark.parametrize("name", MODULES)
def test_every_export_is_documented_with_an_example(name):
    assert public(importlib.import_module(name))
    assert not undocumented(importlib.import_module(name))


def test_the_proof_can_fail():
    module = types.ModuleType("bare")
    exec("class Bare:\n    def method(self): pass", vars(module))
    vars(module)["Bare"].__module__ = "bucketline.bare"
    vars(module)["Bare"].method.__module__ = "bucketline.bare"
    module.__all__ = ["Bare"]
    assert undocumented(module) == ["Bare", "Bare.method"]
