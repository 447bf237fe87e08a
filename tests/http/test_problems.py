"""Every error has a status and a title, and is in the tree at the top of ``errors.py``."""

from __future__ import annotations

from bucketline_service import errors
from bucketline_service.errors import BucketlineError
from bucketline_service.http.problems import KINDS


def kinds_of(base: type[BucketlineError]) -> set[type[BucketlineError]]:
    return {kind for each in base.__subclasses__() for kind in {each, *kinds_of(each)}}


def test_every_error_has_a_status_and_a_title() -> None:
    rooms = ("bucketline_service.errors", "bucketline_service.http")
    ours = {kind for kind in kinds_of(BucketlineError) if kind.__module__.startswith(rooms)}
    assert ours == set(KINDS)
    assert len({kind.code for kind in ours}) == len(ours), "two errors have one code"


def test_the_tree_has_every_error_of_the_module() -> None:
    tree = (errors.__doc__ or "").split()
    assert not [kind for kind in KINDS if kind.__module__ == errors.__name__ and kind.__name__ not in tree]
