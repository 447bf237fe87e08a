"""Fits packs to the images of a plan, once, when its run is put."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning.images import Images
from bucketline_service.planning.line.classify import Classification
from bucketline_service.planning.line.image_classes import frames_served, none_left
from bucketline_service.planning.line.sample_quotas import SampleQuotas
from bucketline_service.planning.packing.lengths import choose_lengths
from bucketline_service.planning.packing.pack_kinds import PackKinds, fit_pack_kinds
from bucketline_service.planning.packing.packing import Packing, native_tokens
from bucketline_service.planning.plan_spec import PlanSpec


def fit_packs(spec: PlanSpec, images: Images, samples: NDArray[np.float64], num_lengths: int) -> PackKinds:
    """The packs for the plan of ``spec``, whose packing has none yet. ``images``: the distinct sizes of all;
    ``samples`` float64[N]: how often an epoch asks for those of each row. Where epochs have different numbers of
    samples the packs hold those that every epoch has. Raises ``Invalid``."""
    packing = spec.packing
    assert packing is not None
    max_tokens = packing.packs.max_tokens
    tokens, reasons = _tokens(spec, packing, images)
    weights = np.where(reasons == 0, samples, 0.0)
    if weights.any():
        lengths = choose_lengths(tokens, weights, max_tokens, num_lengths)
        packing = replace(packing, packs=PackKinds.none(max_tokens, lengths))
        spec = replace(spec, batch_size=packing)
    found = Classification(spec, images)
    found.run()
    keys = found.keys()
    if not len(keys):
        raise none_left(found.pruned, spec.frame_buckets, images)
    groups = found.classifier.groups(keys, found.counts(keys))
    counts = _in_every_epoch(SampleQuotas.of(found.classifier, groups, spec.num_buckets))
    return fit_pack_kinds(counts, packing.packs.lengths, max_tokens)


def _in_every_epoch(quotas: SampleQuotas) -> NDArray[np.int64]:
    """int64[S]: how many images of each of the ascending lengths every epoch has to fill slots with. Where an epoch
    may have none of the longest, a shorter one is counted as one of them: without a slot they would never be served."""
    least = quotas.least()[::-1].copy()
    longest = np.flatnonzero(quotas.most()[::-1])[-1]
    if least.any() and not least[longest]:
        least[np.flatnonzero(least)[-1]] -= 1
        least[longest] = 1
    return least


def _tokens(spec: PlanSpec, packing: Packing, images: Images) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """As of ``native_tokens``, of all rows."""
    chunk = images.read(0, images.num_rows)
    frames: NDArray[np.int64] | int = 1
    if spec.frame_buckets:
        num_frames = np.ones(images.num_rows, np.uint32) if chunk.num_frames is None else chunk.num_frames
        frames = frames_served(spec, num_frames)
    return native_tokens(
        packing.native, packing.frame_stride, chunk.widths, chunk.heights, frames, spec.limits
    )
