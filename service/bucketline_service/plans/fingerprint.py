"""Fingerprints of plans: what identifies a plan, and in which parts two of them differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import groupby
from typing import Any

from bucketline_service.errors import PlanMismatch
from bucketline_service.planning.batch_cost import PixelCost
from bucketline_service.planning.build_plan import VERSION, VERSION_BY_SIZE, VERSION_OF_STEPS
from bucketline_service.planning.packing.packing import Packing
from bucketline_service.planning.plan_spec import PlanSpec

PARTS = ("version", "map", "valid_ids", "buckets", "spec")
"""The parts of a fingerprint, in order, before the digest of everything: the planner's version as it is, and a short
digest of each other part. ``buckets``: their sizes and batch sizes, or the packs, which may depend on the map;
``spec``: the rest."""

_PART_DIGITS = 8
_WHOLE_DIGITS = 32
_VERSIONS = (VERSION, VERSION_BY_SIZE, VERSION_OF_STEPS)


def fingerprint(plan: PlanSpec, map_digests: Sequence[str], valid_digests: Sequence[str | None]) -> str:
    """Text that two plans share if they give the same batches. The world size is not part of it: the same plan is
    sharded over any number of ranks. The last 128 bits identify the plan; those before only say where two differ."""
    buckets = _buckets(plan) if plan.packing is None else _packs(plan.packing)
    spec = {
        "planner": plan.planner,
        "shares": [list(share) for share in plan.maps],
        "choose": plan.choose,
        "frame_buckets": [list(bucket) for bucket in plan.frame_buckets],
        "seed": plan.seed,
        "lockstep": plan.lockstep,
        "tails": plan.tails,
        "first": plan.first,
        "assign": [plan.metric, plan.max_ar_error, plan.max_crop_loss, plan.min_size],
    }
    version = VERSION if plan.same_aspect == "first" else VERSION_BY_SIZE
    if plan.steps != "same_shape" or plan.tails == "shift":
        version = VERSION_OF_STEPS
        spec |= {"steps": plan.steps, "last_step": plan.last_step, "same_aspect": plan.same_aspect}
    if plan.cost != PixelCost():  # left out, so that plans of before there was a choice keep their name
        spec["cost"] = [plan.cost.kind, asdict(plan.cost)]
    parts = [list(map_digests), list(valid_digests), buckets, spec]
    short = [_digest(part)[:_PART_DIGITS] for part in parts]
    return "-".join([str(version), *short, _digest([version, *parts])[:_WHOLE_DIGITS]])


def _buckets(plan: PlanSpec) -> dict[str, Any]:
    return {
        "tiers": [[ladder.sizes, ladder.aspects.tolist()] for ladder in plan.tiers],
        "targets": plan.targets,
        "batch_sizes": plan.batch_sizes.tolist(),
        "no_upscale": plan.no_upscale,
    }


def _packs(packing: Packing) -> dict[str, Any]:
    packs = packing.packs
    return {
        "native": [packing.native.max_pixels, packing.native.divisible, packing.frame_stride],
        "packs": [packs.max_tokens, packs.lengths.tolist(), packs.kinds.tolist(), packs.counts.tolist()],
    }


def as_put(plan: PlanSpec, fingerprint: str) -> PlanSpec:
    """The plan that a run was put with, from the plan that its spec gives today: the fingerprint says by which rule."""
    return replace(plan, same_aspect="first") if _version(fingerprint) == str(VERSION) else plan


def differences(one: str, other: str) -> list[str]:
    """Which of ``PARTS`` differ between two fingerprints. One of another form is of another version."""
    ours, theirs = one.split("-"), other.split("-")
    if len(ours) != len(PARTS) + 1 or len(theirs) != len(ours):
        return ["version"]
    return [part for part, a, b in zip(PARTS, ours, theirs, strict=False) if a != b]


def check_release(fingerprint: str) -> None:
    """Raise ``PlanMismatch`` for a plan of a release whose planner had another version and gave other batches."""
    version = _version(fingerprint)
    if version not in map(str, _VERSIONS):
        raise PlanMismatch(
            f"the run was planned by another release of bucketline, with version {version[:20]} of the planner; this "
            f"release has versions {', '.join(map(str, _VERSIONS))} and would hand out other batches. Let its job "
            "finish on a coordinator of that release, or delete the run, put it again and start it with resume: "
            "start, which begins at epoch 0 and refuses checkpoints of the old plan",
            given=fingerprint,
            differs=["version"],
        )


def ids_digest(ids: list[int] | list[str]) -> str:
    """A digest of ``valid_ids`` as a set: order and repetition do not matter. They are sorted, because a Python set of
    integers with equal hashes (multiples of 2^61 - 1) would take minutes."""
    ordered = sorted(ids, key=lambda image_id: (isinstance(image_id, str), image_id))
    return _digest([image_id for image_id, _ in groupby(ordered)])


def _version(fingerprint: str) -> str:
    return fingerprint.partition("-")[0]


def _digest(part: Any) -> str:
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()
