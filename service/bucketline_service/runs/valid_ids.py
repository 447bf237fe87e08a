"""Tests whether rows of a run are among its ``valid_ids``, without reading all of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bucketline_service.maps import MapStore
from bucketline_service.planning.ledger import IsValid
from bucketline_service.plans.run_images import Rows, Sources, rows_of
from bucketline_service.runs.run import Run


def of_valid_ids(run: Run, maps: MapStore) -> IsValid | None:
    """A test of rows; None if every row of every map is valid."""
    sources = run.plan.sources
    tests = [
        _test(sources, index, each.valid_ids, digest, maps)
        for index, (each, digest) in enumerate(zip(run.spec.sources, run.document.valid_digests, strict=True))
    ]
    if all(test is None for test in tests):
        return None

    def is_valid(rows: Rows) -> NDArray[np.bool_]:
        found = np.ones(len(rows), dtype=np.bool_)
        parts, inside = sources.images.place(rows)
        for index, test in enumerate(tests):
            at = np.flatnonzero(parts == index)
            if test is not None and len(at):
                found[at] = test(inside[at])
        return found

    return is_valid


def _test(
    sources: Sources,
    index: int,
    valid_ids: list[int] | list[str] | str | None,
    digest: str | None,
    maps: MapStore,
) -> IsValid | None:
    """The same for one map, of its own row numbers."""
    image_map = sources.maps[index]
    if valid_ids is None:
        return None
    if isinstance(valid_ids, str):
        valid = maps.get_digest(digest or "")
        return lambda rows: valid.has_many(image_map.ids(rows))
    valid_rows = rows_of(image_map, valid_ids)
    return lambda rows: valid_rows[np.minimum(np.searchsorted(valid_rows, rows), len(valid_rows) - 1)] == rows
