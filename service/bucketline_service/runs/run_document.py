"""The document of a run: what the store keeps of its spec, and how another plan's state dict differs from it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from bucketline_service.errors import BucketlineError, Conflict, Invalid, PlanMismatch
from bucketline_service.planning.packing.pack_kinds import PackKinds
from bucketline_service.planning.plan_spec import PlanSpec
from bucketline_service.plans.fingerprint import as_put, check_release, differences, fingerprint
from bucketline_service.spec.run_spec import Fitted, RunSpec
from bucketline_service.store.damage import damaged

_PART_NAMES = {
    "version": "the planner's version",
    "map": "the map",
    "valid_ids": "valid_ids",
    "buckets": "the buckets (their sizes or batch sizes) or packs",
    "spec": "the rest of the spec",
}
_NOT_PLANNED = ("world_size", "epochs")
"""Fields of a spec that its plan does not depend on."""


_Int64 = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class StoredPacks(NamedTuple):
    """The packs of a run: as of ``PackKinds``."""

    lengths: list[_Int64]
    kinds: list[list[_Int64]]
    counts: list[_Int64]

    @classmethod
    def of(cls, packs: PackKinds) -> StoredPacks:
        return cls(packs.lengths.tolist(), packs.kinds.tolist(), packs.counts.tolist())

    def kinds_of(self, spec: RunSpec) -> PackKinds:
        """Raises ``ValueError`` where they are not packs of this spec."""
        if spec.pack is None:
            raise ValueError("it has packs, but its spec has none")
        lengths, counts = np.array(self.lengths, dtype=np.int64), np.array(self.counts, dtype=np.int64)
        kinds = np.array(self.kinds, dtype=np.int64).reshape(len(counts), len(lengths))
        return PackKinds(spec.pack.max_tokens, lengths, kinds, counts)


@dataclass(frozen=True)
class RunDocument:
    """``map_digests`` and ``valid_digests`` (None without ``valid_ids``): one per map. What was found for the images
    when the run was created: ``fitted_sizes``, (width, height) of each bucket, if the ladder depends on the images, or
    ``packs``; else None."""

    spec: RunSpec
    fingerprint: str
    map_digests: list[str]
    valid_digests: list[str | None]
    created_at_s: float
    fitted_sizes: list[tuple[int, int]] | None = None
    packs: StoredPacks | None = None

    @classmethod
    def new(
        cls,
        spec: RunSpec,
        map_digests: list[str],
        valid_digests: list[str | None],
        created_at_s: float,
        fitted: Fitted,
    ) -> RunDocument:
        """The document of a run that is about to be created. Raises ``Invalid`` if its spec has no plan."""
        plan = spec.plan_spec(fitted, spec.maps or ())
        print_ = fingerprint(plan, map_digests, valid_digests)
        found = (None, StoredPacks.of(fitted)) if isinstance(fitted, PackKinds) else (fitted, None)
        document = cls(spec, print_, map_digests, valid_digests, created_at_s, *found)
        document.__dict__["_checked_plan"] = plan  # the value of the cached property
        return document

    def encode(self) -> bytes:
        about = {each.name: getattr(self, each.name) for each in fields(self)}
        if self.packs is None:
            del about["packs"]  # as documents were before there were packs
        else:
            about["packs"] = self.packs._asdict()
        return json.dumps({**about, "spec": self.spec.to_json()}, sort_keys=True).encode()

    @classmethod
    def decode(cls, run: str, data: bytes) -> RunDocument:
        """Raises ``Damaged`` if ``data`` is not a document."""
        try:
            document = _ADAPTER.validate_json(data)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise damaged(run, "its document", f"{where}: {first['msg']}".lstrip(": ")) from None
        if document.spec.steps is None and document.spec.planner_kind.has_units:
            # a document of a release that knew no others
            return replace(document, spec=document.spec.model_copy(update={"steps": "same_shape"}))
        return document

    @property
    def digests(self) -> dict[str, str]:
        """The digest of each map that the run needs, by the map's name."""
        found = dict(zip([each.map for each in self.spec.sources], self.map_digests, strict=True))
        for each, digest in zip(self.spec.sources, self.valid_digests, strict=True):
            if isinstance(each.valid_ids, str) and digest is not None:
                found[each.valid_ids] = digest
        return found

    def plan_spec(self, run: str) -> PlanSpec:
        """Raises ``PlanMismatch`` if another release planned the run, and ``Damaged`` if the fingerprint does not match
        the rest: the coordinator would then serve other batches under it."""
        check_release(self.fingerprint)
        try:
            return self._checked_plan
        except (BucketlineError, AssertionError, ValueError) as error:
            raise damaged(run, "its document", str(error) or "a field is missing") from error

    @cached_property
    def _checked_plan(self) -> PlanSpec:
        fitted = self.packs.kinds_of(self.spec) if self.packs else self.fitted_sizes
        plan = as_put(self.spec.plan_spec(fitted, self.spec.maps or ()), self.fingerprint)
        computed = fingerprint(plan, self.map_digests, self.valid_digests)
        if computed != self.fingerprint:
            raise ValueError(f"its fingerprint belongs to another plan than {computed}")
        return plan

    def check_same_spec(self, run: str, spec: RunSpec) -> None:
        """Raise ``Conflict``, which names the fields that differ, unless the run has this spec, as it was given: a
        run's name stands for one spec. What it leaves out is whatever the run has."""
        if self.spec == spec:
            return
        try:
            resolved = spec.resolved_as(self.spec)
        except Invalid:  # it does not go with what the run has
            resolved = spec.resolved()
        if self.spec == resolved:
            return
        differing = _differing(self.spec.to_json(), resolved.to_json())
        # what was left out only follows from what was given
        differing = [field for field in differing if not spec.leaves_out(field)] or differing
        raise Conflict(
            f"run {run!r} exists with a different {', '.join(differing)}. Choose another name, or delete the run first",
            fields=differing,
        )

    def mismatch(self, run: str, given: str, owner: tuple[str, RunDocument] | None) -> PlanMismatch:
        """The error for a state dict with the fingerprint ``given``. ``owner``: a run that has this fingerprint, and
        its document."""
        parts = differences(self.fingerprint, given)
        detail = f"the state dict belongs to another plan than run {run!r}: {_phrase(parts)}. "
        about: dict[str, Any] = {"expected": self.fingerprint, "given": given, "differs": parts}
        resumable = "the run that it was saved from"
        if owner is not None:
            name, other = owner
            ours, theirs = self.spec.to_json(), other.spec.to_json()
            # a map under another name is the same if its content is
            alike = {part for part in ("map", "valid_ids") if part not in parts}
            differing = [each for each in _differing(ours, theirs) if each not in {*alike, *_NOT_PLANNED}]
            detail += f"It belongs to the plan of run {name!r}"
            detail += f", which has a different {', '.join(differing)}. " if differing else ". "
            resumable = f"run {name!r}"
            about |= {"run": name, "fields": differing}
        return PlanMismatch(f"{detail}Resume {resumable}, or start this one with resume: start", **about)


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return sorted(field for field in other if one[field] != other[field])


def _phrase(parts: list[str]) -> str:
    if not parts:
        return "their fingerprints differ"
    is_plural = len(parts) > 1 or parts == ["buckets"]
    return f"{', '.join(_PART_NAMES[part] for part in parts)} {'differ' if is_plural else 'differs'}"


_ADAPTER = TypeAdapter(RunDocument)
