"""The public API is what ``bucketline`` exports: all of it, and sorted."""

import types

import bucketline


def test_exports_are_sorted_and_complete():
    public = {
        name
        for name, value in vars(bucketline).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert bucketline.__all__ == sorted(bucketline.__all__)
    assert set(bucketline.__all__) == public


def test_every_export_is_documented():
    for name in bucketline.__all__:
        assert vars(bucketline)[name].__doc__, name
