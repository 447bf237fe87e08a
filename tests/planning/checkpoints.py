"""Plans to prepare in many chunks, and desks that stop in the middle."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np

from bucketline_service.planning.images import Images, Part
from bucketline_service.planning.plan_spec import MapShare
from bucketline_service.spec.run_spec import PlanFields

TIERS = {"kind": "tiers", "resolution": [256, 512]}


def job(num=1_000, seed=4):
    """A plan that uses everything that there is: (spec, images, valid rows)."""
    rng = np.random.default_rng(seed)
    parts = []
    for index in range(2):
        sides = rng.integers(100, 1500, size=(2, num)).astype(np.uint32)
        codes = rng.integers(0, 3, num).astype(np.uint8)
        frames = rng.integers(1, 40, num).astype(np.uint32) if index else None
        parts.append(Part(sides[0], sides[1], codes, np.array([0.0, 1.0, 2.5]), frames))
    fields = {
        "world_size": 2,
        "batch_size": 4,
        "ladder": TIERS,
        "assign": {"min_size": 150, "max_crop_loss": 0.3},
        "frame_buckets": [1, {"num_frames": 9, "keep_prob": 0.5}, 33],
    }
    plan = PlanFields.model_validate(fields).resolved().plan_spec()
    shares = (MapShare(1.0, 1.0), MapShare(1.0, 3.0))
    valid = np.flatnonzero(rng.random(2 * num) < 0.9)
    return replace(plan, maps=shares), Images(parts), valid


def packed_job(num=2_000, seed=4):
    """A plan of packs: (spec, images)."""
    widths, heights = np.random.default_rng(seed).integers(100, 1500, size=(2, num)).astype(np.uint32)
    parts = [Part(widths, heights)]
    fields = {"world_size": 1, "ladder": "native", "pack": {"max_tokens": 8192}}
    spec = PlanFields.model_validate(fields).resolved()
    return spec.plan_spec(spec.fit(parts)), Images(parts)


def content(prepared):
    """All that it is, to the last bit."""
    groups = prepared.groups
    arrays = (groups.keys, groups.counts, groups.samples, prepared.order)
    return [array.tobytes() for array in arrays], json.dumps(prepared.summary, sort_keys=True)


class StopError(Exception):
    """Here the process is killed."""


class Notes:
    """A ``Checkpoint`` in memory that outlives its user. Keeps each ``every``-th state, and raises ``StopError`` after
    ``num`` of them were offered. ``loses``: what was written since the last was kept is lost."""

    def __init__(self, every=1, loses=False):
        self._every = every
        self._loses = loses
        self._arrays = {}
        self._kept = {}
        self._state = {}
        self.num = None
        self.heard = []

    def array(self, name, num, dtype):
        if name not in self._arrays:
            self._arrays[name] = np.full(num, 77, dtype=dtype)
        return self._arrays[name]

    def load(self):
        self.heard = []
        return {name: array.copy() for name, array in self._state.items()}

    def keep(self, state):
        if self.num is None:
            return
        self.num -= 1
        if self.num % self._every == 0:
            self._state = {name: array.copy() for name, array in state().items()}
            self._kept = {name: array.copy() for name, array in self._arrays.items()}
        if self.num == 0:
            if self._loses:
                self._arrays = {name: array.copy() for name, array in self._kept.items()}
            raise StopError

    def tell(self, share):
        self.heard.append(share)
