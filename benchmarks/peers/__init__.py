"""The planners that `benchmarks/peers.py` compares: one module each, all answering the same three questions.

``build(job)`` makes what a run makes once; ``start(state, epoch)`` gives rank 0's first batch of an epoch;
``resume(state, epoch)`` gives its batch at half of the epoch, as after a restart in mid-epoch. ``ids(state, epoch)``,
where there is one, gives ``IDS`` ids of an epoch, in the middle of it. Modules import their packages when they are
imported themselves; this one imports nothing but the standard library, so that the parent process stays small.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

OURS = "bucketline"
QUANTITIES = ("build", "start", "resume", "ids")
IDS = 4096
EPOCH = 1000


@dataclass(frozen=True)
class Job:
    """``widths``, ``heights`` uint32[num], None for a peer that does not look at sizes."""

    num: int
    widths: Any = None
    heights: Any = None
    batch_size: int = 8
    world_size: int = 8
    seed: int = 42

    @property
    def steps(self) -> int:
        """Batches of one rank in an epoch, tails left out."""
        return self.num // (self.batch_size * self.world_size)


@dataclass(frozen=True)
class Peer:
    """``packages``: whose versions are reported. ``cap``: the most images it is asked for, and ``why``."""

    module: str
    packages: tuple[str, ...]
    cap: int
    why: str
    buckets: bool
    note: str
    sizes: bool = True
    ids: bool = False


PEERS = {
    "bucketline": Peer(
        "bucketline",
        ("bucketline", "numpy"),
        10**9,
        "32-bit rows, and the memory of this machine",
        True,
        "The `line` planner, the default plan, lockstep 8. Build: two passes over sizes in memory. Start: the first "
        "batch of an epoch that was not requested before. Resume: 64 batches in the middle of such an epoch. It serves "
        "all ranks.",
        ids=True,
    ),
    "novelai": Peer(
        "novelai",
        ("numpy",),
        10**7,
        "a dict with a tuple per image",
        True,
        "NovelAI's BucketManager (bucketmanager.py, 2022) reimplemented in plain loops; it gives the "
        "recorded sequences. It buckets, but each rank draws its own buckets, so a step has mixed resolutions. It "
        "cannot resume: half of the epoch is drawn again, and epoch e after a restart costs e starts before that (not "
        "counted here).",
    ),
    "kohya": Peer(
        "kohya",
        ("numpy",),
        10**6,
        "an object and a dict entry per image",
        True,
        "Bucket building of kohya-ss/sd-scripts (library/train_util.py) reimplemented in plain loops, "
        "with NovelAI's ladder. It buckets, and keeps partial batches; ranks take the shuffled batches in turn, so a "
        "step has mixed resolutions. Resume: one shuffle and the skipped indices; epoch e after a restart shuffles e "
        "times (not counted here).",
    ),
    "bucketsampler": Peer(
        "bucketsampler_",
        ("bucketsampler", "torch", "numpy"),
        10**7,
        "assignment alone holds two float64 per bucket and image: 30 GB at 10^8",
        True,
        "`FixedBuckets.assign_many_indices` and `BucketBatchSampler` with NovelAI's ladder. It buckets, but has no "
        "state to resume from: a fresh sampler is iterated to half. Ranks do not share a resolution at a step.",
    ),
    "lhotse": Peer(
        "lhotse_",
        ("lhotse", "torch"),
        10**6,
        "a resume reads half of the images through the sampler",
        True,
        "`DynamicBucketingSampler` over a lazy CutSet whose durations are the aspects, 19 buckets, `max_cuts=8`, "
        "`buffer_size=20000` (its default). It buckets by one number, and shuffles only within its buffer, which is "
        "why an epoch starts immediately. Resume: a fresh sampler and `load_state_dict`.",
    ),
    "torch": Peer(
        "torch_",
        ("torch",),
        10**8,
        "a Python list of all ids",
        False,
        "`DistributedSampler` and `BatchSampler`. It does not bucket. Resume: a fresh sampler, `islice` to half.",
        sizes=False,
    ),
    "streaming": Peer(
        "streaming_",
        ("mosaicml-streaming", "numpy"),
        10**8,
        "several int64 arrays of all ids",
        False,
        "mosaicml-streaming's own `generate_work` (`resample_streams`, `get_partitions` relaxed, `get_shuffle` py1e, "
        "its defaults): one stream, shards of 1,000, one node of 8 ranks, one worker each; work is generated once per "
        "node. It does not bucket, and shuffles in blocks of 4,000,000 over the node's shards. Resume: the same with "
        "`sample_in_epoch` at half. The shared memory and the barriers of the real loader are left out.",
        sizes=False,
    ),
    "grain": Peer(
        "grain_",
        ("grain",),
        10**9,
        "32-bit indices",
        False,
        "`MapDataset.range(N).seed().shuffle()[0::8].repeat().batch(8)` and random access. It does not bucket: what "
        "is compared is its `index_shuffle`, which keeps no list of ids either.",
        sizes=False,
        ids=True,
    ),
}


def missing(peer: Peer) -> str | None:
    """What it lacks to run here."""
    for package in peer.packages:
        try:
            version(package)
        except PackageNotFoundError:
            return f"{package} is not installed"
    return None
