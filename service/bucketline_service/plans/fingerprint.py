"""What tells two plans apart, and in which of their parts they differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from bucketline_service.errors import PlanMismatch
from bucketline_service.planning.build_plan import VERSION, VERSION_BY_SIZE
from bucketline_service.planning.plan_spec import PlanSpec

PARTS = ("version", "map", "valid_ids", "buckets", "spec")
"""What a fingerprint is made of, in its order, before the digest of all: the planner's version as it is, of each other
part a short digest. ``buckets``: their sizes and batch sizes, which may follow from the map; ``spec``: the rest."""

_PART_DIGITS = 8
_WHOLE_DIGITS = 32


def fingerprint(plan: PlanSpec, map_digests: Sequence[str], valid_digests: Sequence[str | None]) -> str:
    """Text that two plans share if they give the same batches. The world size is not part of it: the same plan is dealt
    to any number of ranks. The last 128 bits tell any two apart; those before only say where they differ."""
    buckets = {
        "tiers": [[ladder.sizes, ladder.aspects.tolist()] for ladder in plan.tiers],
        "targets": plan.targets,
        "batch_sizes": plan.batch_sizes.tolist(),
        "no_upscale": plan.no_upscale,
    }
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
    parts = [list(map_digests), list(valid_digests), buckets, spec]
    short = [_digest(part)[:_PART_DIGITS] for part in parts]
    version = VERSION if plan.same_aspect == "first" else VERSION_BY_SIZE
    return "-".join([str(version), *short, _digest([version, *parts])[:_WHOLE_DIGITS]])


def as_put(plan: PlanSpec, fingerprint: str) -> PlanSpec:
    """The plan that a run was put with, of the plan that its spec makes today: its fingerprint tells by which rule."""
    return replace(plan, same_aspect="first") if _version(fingerprint) == str(VERSION) else plan


def differences(one: str, other: str) -> list[str]:
    """Which of ``PARTS`` differ between two fingerprints. One that is not made of them is of another version."""
    ours, theirs = one.split("-"), other.split("-")
    if len(ours) != len(PARTS) + 1 or len(theirs) != len(ours):
        return ["version"]
    return [part for part, a, b in zip(PARTS, ours, theirs, strict=False) if a != b]


def check_release(fingerprint: str) -> None:
    """``PlanMismatch`` for a plan of a release whose planner had another version: this one's batches are others."""
    version = _version(fingerprint)
    if version not in (str(VERSION), str(VERSION_BY_SIZE)):
        raise PlanMismatch(
            f"the run was planned by another release of bucketline: version {version[:20]} of the planner, while this "
            f"one has {VERSION} and {VERSION_BY_SIZE} and would hand out other batches. Let its job finish on a "
            "coordinator of that release, or delete the run, put it anew, and start it with resume: start. That begins "
            "at epoch 0: checkpoints of the old plan are refused",
            given=fingerprint,
            differs=["version"],
        )


def ids_digest(ids: list[int] | list[str]) -> str:
    """Of ``valid_ids`` as a set: order and repetition do not matter. They are sorted, since whole numbers that all have
    one hash (multiples of 2^61 - 1) would keep a set busy for minutes."""
    ordered = sorted(ids, key=lambda image_id: (isinstance(image_id, str), image_id))
    return _digest([image_id for image_id, _ in groupby(ordered)])


def _version(fingerprint: str) -> str:
    return fingerprint.partition("-")[0]


def _digest(part: Any) -> str:
    return hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest()
