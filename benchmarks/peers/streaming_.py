"""mosaicml-streaming: what StreamingDataset does at the start of an epoch, by its own functions.

The dataset here has the attributes that ``generate_work`` reads and no files; what is done with them is the package's
code. ``streaming.vision``, ``.text`` and ``.multimodal`` are not imported: they want torchvision and transformers,
whose builds must fit torch's, and nothing of them is measured.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

for _name in ("vision", "text", "multimodal"):
    sys.modules.setdefault(f"streaming.{_name}", ModuleType(f"streaming.{_name}"))

from streaming import StreamingDataset  # noqa: E402
from streaming.base.batching import generate_work  # noqa: E402
from streaming.base.world import World  # noqa: E402

from peers import Job  # noqa: E402

SHARD = 1000
CANONICAL_NODES = 1  # StreamingDataset's default: as many as there are nodes


class Dataset:
    """One stream of ``job.num`` samples. The values are StreamingDataset's defaults where it has one."""

    resample_streams = StreamingDataset.resample_streams

    def __init__(self, job: Job) -> None:
        starts = np.arange(0, job.num, SHARD, dtype=np.int64)
        self.job = job
        self.batch_size = job.batch_size
        self.num_canonical_nodes = self.initial_physical_nodes = CANONICAL_NODES
        self.partition_algo, self.shuffle_algo, self.shuffle = "relaxed", "py1e", True
        self.shuffle_seed = job.seed
        self.shuffle_block_size = max(4_000_000 // CANONICAL_NODES, 1 << 18)
        self.sampling_method, self.sampling_granularity, self.epoch_seed_change = "balanced", 1, True
        self.epoch_size = job.num
        self.num_streams = 1
        self.streams = [SimpleNamespace(choose=job.num)]
        self.shard_offset_per_stream = np.zeros(1, dtype=np.int64)
        self.shards_per_stream = np.array([len(starts)])
        self.samples_per_shard = np.minimum(job.num - starts, SHARD)
        self.sample_offset_per_shard = starts
        self.world = World(num_nodes=1, ranks_per_node=job.world_size, workers_per_rank=1, worker=0)

    def work(self, epoch: int, sample_in_epoch: int) -> Any:
        """The first batch of the first worker's share, cut out as ``StreamingDataset._get_work`` does it."""
        work = generate_work("random", self, self.world, epoch, sample_in_epoch)
        return work[0, 0, 0].flatten()[: self.batch_size]


def build(job: Job) -> Dataset:
    return Dataset(job)


def start(state: Dataset, epoch: int) -> Any:
    return state.work(epoch, 0)


def resume(state: Dataset, epoch: int) -> Any:
    job = state.job
    return state.work(epoch, job.steps // 2 * job.batch_size * job.world_size)
