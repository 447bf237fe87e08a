"""The public API for PyTorch and Lightning is documented, with an example each."""

from __future__ import annotations

import importlib

import pytest

from tests.client.test_exports import public, undocumented

pytest.importorskip("torch")


@pytest.mark.parametrize("name", ["bucketline.torch", "bucketline.lightning"])
def test_every_export_is_documented_with_an_example(name: str) -> None:
    if name == "bucketline.lightning":
        pytest.importorskip("lightning.pytorch")
    module = importlib.import_module(name)
    assert public(module)
    assert not undocumented(module)
