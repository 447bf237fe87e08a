"""What tells two plans apart."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from bucketline_service.planning.build import VERSION
from bucketline_service.planning.spec import PlanSpec


def fingerprint(plan: PlanSpec, map_digests: Sequence[str], valid_digests: Sequence[str | None]) -> str:
    """64 hex digits that two plans share if they give the same batches. The world size is not part of it: the same
    plan is dealt to any number of ranks."""
    parts = {
        "version": VERSION,
        "planner": plan.planner,
        "maps": list(map_digests),
        "valid_ids": list(valid_digests),
        "shares": [list(share) for share in plan.maps],
        "tiers": [[ladder.sizes, ladder.aspects.tolist()] for ladder in plan.tiers],
        "choose": plan.choose,
        "targets": plan.targets,
        "frame_buckets": [list(bucket) for bucket in plan.frame_buckets],
        "batch_sizes": plan.batch_sizes.tolist(),
        "seed": plan.seed,
        "lockstep": plan.lockstep,
        "tails": plan.tails,
        "first": plan.first,
        "no_upscale": plan.no_upscale,
        "assign": [plan.metric, plan.max_ar_error, plan.max_crop_loss, plan.min_size],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def ids_digest(ids: list[int] | list[str]) -> str:
    """Of ``valid_ids`` as a set: order and repetition do not matter."""
    unique = sorted(set(ids), key=lambda image_id: (isinstance(image_id, str), image_id))
    return hashlib.sha256(json.dumps(unique).encode()).hexdigest()
