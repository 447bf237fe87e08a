"""What the packs of an epoch are, how full they are, and which images they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bucketline_service.planning.line.batch_kinds import Dealt
from bucketline_service.planning.line.stream import Stream
from bucketline_service.planning.packing.packing import Packing

_I64 = NDArray[np.int64]
_F64 = NDArray[np.float64]


def pack_stats(
    packing: Packing,
    dealt: Dealt,
    stream: Stream,
    world_size: int,
    served: _F64,
    members: _I64,
    summary: dict[str, Any],
) -> dict[str, Any]:
    """What an epoch's packs are and hold, JSON-able. ``stream``: of what it has ``dealt``; ``served`` float64[B]: how
    many images of each length it serves, in expectation over epochs; ``members`` int64[B]: images of each length."""
    packs, lengths = packing.packs, packing.lengths
    num_dealt = stream.num_batches - stream.num_batches % world_size
    total = float(num_dealt * packs.max_tokens)
    tokens = float((served * summary["bucket_tokens"]).sum())
    reserved = float((dealt.tape.served * lengths).sum() * num_dealt / stream.num_batches)
    of_kind = packs.kinds @ packs.lengths
    losses = np.array([loss["mean"] for loss in summary["bucket_crop_loss"]])
    return {
        "max_tokens": packs.max_tokens,
        "num_kinds": int(np.count_nonzero(dealt.kinds.num_batches)),
        "full": tokens / total,
        "padding": max(0.0, reserved - tokens) / total,
        "unused": 1 - reserved / total,
        "token_imbalance": stream.imbalance(of_kind.astype(np.float64), world_size),
        "attention_imbalance": stream.imbalance(
            packs.kinds @ packs.lengths.astype(np.float64) ** 2, world_size
        ),
        "mean_tokens": tokens / float(served.sum()),
        "mean_area_px": float((served * summary["bucket_area_px"]).sum() / served.sum()),
        "crop_loss_served": float((served * losses).sum() / served.sum()),
        "lengths": [
            {
                "bucket": bucket,
                "length": length,
                "num_images": num_images,
                "num_slots": num_slots,
                "num_served": num_served,
            }
            for bucket, (length, num_images, num_slots, num_served) in enumerate(
                zip(
                    lengths.tolist(),
                    members.tolist(),
                    dealt.tape.served.tolist(),
                    served.tolist(),
                    strict=True,
                )
            )
        ],
        "kinds": [
            {
                "kind": kind,
                "num_packs": num_packs,
                "num_images": int(slots.sum()),
                "num_tokens": int(of_kind[kind]),
                "slots": [
                    {"length": int(packs.lengths[at]), "num_slots": int(slots[at])}
                    for at in np.flatnonzero(slots)[::-1].tolist()
                ],
            }
            for kind, (num_packs, slots) in enumerate(
                zip(dealt.kinds.num_batches.tolist(), packs.kinds, strict=True)
            )
        ],
    }
