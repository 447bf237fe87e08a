"""What the benchmark of the peers measures as NovelAI's algorithm gives the sequences recorded from the original."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from bucketline_service.planning.buckets import ladder_generators as ladders

TESTS = Path(__file__).parents[1]
COCO = np.loadtxt(
    TESTS.parent / "service/bucketline_service/data/coco-5k.csv", dtype=np.int64, delimiter=",", skiprows=1
)
GOLDEN = sorted((TESTS / "golden").glob("novelai-*.json"))
LADDER_FIELDS = {"max_size", "min_dim", "dim_limit", "base_res"}


def load():
    spec = spec_from_file_location("peers_novelai", TESTS.parent / "benchmarks" / "peers" / "novelai.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


peer = load()


@pytest.mark.exhaustive
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_restated_manager_gives_the_recorded_sequences(path):
    golden = json.loads(path.read_text())
    options = golden["settings"]
    fields = {name: options[name] for name in LADDER_FIELDS & options.keys()}
    sizes = [name for name in ("max_size", "base_res") if name in fields]
    aspects = peer.ladder(**{**fields, **{name: tuple(fields[name]) for name in sizes}})
    assert [list(size) for size in aspects] == golden["buckets"]
    valid = set(golden.get("valid_ids", COCO[:, 0].tolist()))
    for rank in range(options["world_size"]):
        manager = peer.BucketManager(
            {image: (width, height) for image, width, height in COCO.tolist() if image in valid},
            aspects,
            batch_size=options["bsz"],
            world_size=options["world_size"],
            rank=rank,
            seed=options["seed"],
            base_res=tuple(options.get("base_res", (512, 512))),
            max_ar_error=options.get("max_ar_error", 4),
        )
        counts = [len(manager.buckets.get(bucket, [])) for bucket in range(len(aspects))]
        assert counts == golden["bucket_counts"]
        for epoch in golden["epochs"]:
            manager.start_epoch()
            assert manager.num_batches == golden["batches_per_rank"]
            got = [manager.next_batch() for _ in range(manager.num_batches)]
            assert [[*size, ids] for size, ids in got] == epoch[rank]


def test_the_ladder_that_the_peers_share_is_bucketlines():
    ours = ladders.novelai()
    assert list(peer.ladder()) == ours.sizes
    assert list(peer.ladder().values()) == ours.aspects.tolist()
