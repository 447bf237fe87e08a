"""Errors must survive what data loaders do to them (pickling, and being built again from their text), and cover the
coordinator's codes."""

import pickle

import bucketline
from bucketline import _errors
from bucketline_service.http import problems

ERRORS = [
    value for value in vars(_errors).values() if isinstance(value, type) and issubclass(value, Exception)
]


def test_each_is_public_and_built_from_its_message_alone():
    assert {kind.__name__ for kind in ERRORS} <= set(bucketline.__all__)
    assert {str(kind("what happened")) for kind in ERRORS} == {"what happened"}


def test_pickling_keeps_what_programs_read():
    error = bucketline.Invalid("no", status=422, code="invalid", problem={"field": "ladder.kind"})
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.status, copy.code, copy.field) == ("no", 422, "invalid", "ladder.kind")
    late = pickle.loads(pickle.dumps(bucketline.CoordinatorUnavailable("late", attempts=3, waited_s=1.5)))
    assert (late.attempts, late.waited_s) == (3, 1.5)


def test_the_tree_in_the_docstring_is_complete():
    """Each error's line stands one level under its parent's."""
    tree = {
        line.split("+- ")[1].split()[0]: line.index("+- ") // 3
        for line in _errors.__doc__.splitlines()
        if "+- " in line
    }
    for kind in set(ERRORS) - {_errors.BucketlineError}:
        assert tree[kind.__name__] == kind.__mro__.index(_errors.BucketlineError) - 1, kind


def test_every_code_of_the_coordinator_is_known():
    """A code of the service is a class of the client, or is listed as one without a class."""
    assert set(problems.CODES) == _errors.CODES
    assert not set(_errors.BY_CODE) & _errors.OTHER_CODES
