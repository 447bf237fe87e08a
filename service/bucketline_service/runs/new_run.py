"""From a spec to the document of a new run: its maps and valid ids are looked up, and its ladder fitted to them."""

from __future__ import annotations

from functools import partial

import numpy as np

from bucketline_service.maps import MapStore
from bucketline_service.plans.fingerprint import ids_digest
from bucketline_service.plans.run_images import Sources, Valid
from bucketline_service.runs.run_document import RunDocument
from bucketline_service.spec.run_spec import Fitted, RunSpec


def new_document(spec: RunSpec, maps: MapStore, created_at_s: float) -> RunDocument:
    """``spec``: resolved. Raises ``NotFound`` if a map does not exist, ``Invalid`` if the spec has no plan. Takes as
    long as reading the maps does."""
    sources = Sources([each.map for each in spec.sources], [maps.get(each.map) for each in spec.sources])
    valid_digests = [_valid_digest(each.valid_ids, maps) for each in spec.sources]
    rows = None
    if spec.is_fitted or any(isinstance(each.valid_ids, list) for each in spec.sources):
        # also checks that listed ids exist
        rows = sources.rows_of(valid_ids(spec, valid_digests, maps), spec.maps is not None)
    fitted: Fitted = None
    if spec.is_fitted:
        parts = sources.distinct(rows, with_frames=spec.frame_buckets is not None)
        fitted = spec.fit(parts, spec.maps or ())
    digests = [image_map.digest for image_map in sources.maps]
    return RunDocument.new(spec, digests, valid_digests, created_at_s, fitted)


def valid_ids(spec: RunSpec, digests: list[str | None], maps: MapStore) -> list[Valid]:
    """The valid ids of each map of a spec, for ``Sources.rows_of``. ``digests``: those of the document."""

    def ids_of(digest: str) -> list[int] | list[str]:
        valid = maps.get_digest(digest)
        valid.verify()  # once for each plan: what is built from it is not checked again
        return valid.ids(np.arange(valid.num_images))

    return [
        partial(ids_of, digest or "") if isinstance(each.valid_ids, str) else each.valid_ids
        for each, digest in zip(spec.sources, digests, strict=True)
    ]


def _valid_digest(given: list[int] | list[str] | str | None, maps: MapStore) -> str | None:
    if isinstance(given, str):
        return maps.get(given).digest
    return None if given is None else ids_digest(given)
