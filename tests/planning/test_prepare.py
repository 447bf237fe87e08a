"""The passes over the rows: threads, chunks and kills change nothing."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest

from bucketline_service.planning import chunked_passes
from bucketline_service.planning.build_plan import prepare
from tests.planning.checkpoints import Notes, StopError, content, job
from tests.previews.test_estimate import close

CHUNK = 256
SPEC, IMAGES, VALID = job()
NUM_CHUNKS = -(-IMAGES.num_rows // CHUNK)


@pytest.fixture
def chunks(monkeypatch):
    monkeypatch.setattr(chunked_passes, "CHUNK", CHUNK)


def prepared(**more):
    return prepare(SPEC, IMAGES, valid_rows=VALID, **more)


def test_the_plan_that_is_tested_uses_everything():
    of = prepared()
    pruned = of.summary["pruned"]
    assert {reason for reason, num in pruned.items() if num} == pruned.keys() - {
        "max_ar_error",
        "bucket_no_upscale",
    }
    assert len(of.groups.keys) > 50
    assert of.groups.counts.sum() == len(of.order) == IMAGES.num_images - sum(pruned.values())
    # rows by group, ascending inside one, each once
    for begin, count in zip(of.starts.tolist(), of.groups.counts.tolist(), strict=True):
        assert np.all(np.diff(of.order[begin : begin + count].astype(np.int64)) > 0)
    assert len(np.unique(of.order)) == len(of.order)


@pytest.mark.parametrize("num_threads", [2, 3])
def test_threads_change_nothing(chunks, num_threads):
    assert content(prepared(num_threads=num_threads)) == content(prepared())


@pytest.mark.parametrize(
    "chunk",
    [97, 1_999, *(pytest.param(chunk, marks=pytest.mark.exhaustive) for chunk in (1, 7, 1_000, 2_000))],
)
def test_chunks_change_nothing(monkeypatch, chunk):
    whole = prepared()
    monkeypatch.setattr(chunked_passes, "CHUNK", chunk)
    found = prepared(num_threads=1 + chunk % 3)
    assert content(found)[0] == content(whole)[0]
    # sums of floats in another order, and nothing else
    assert found.summary == close(whole.summary)


@pytest.mark.parametrize(
    ("every", "loses", "num_threads"),
    [
        (1, False, 1),
        (3, True, 3),
        *(
            pytest.param(every, loses, num_threads, marks=pytest.mark.exhaustive)
            for every, loses, num_threads in product((1, 3), (False, True), (1, 3))
            if (every, loses, num_threads) not in ((1, False, 1), (3, True, 3))
        ),
    ],
)
def test_it_goes_on_wherever_it_was_stopped(chunks, every, loses, num_threads):
    expected = content(prepared())
    for stop in range(1, 2 * NUM_CHUNKS + 1):
        checkpoint = Notes(every, loses)
        checkpoint.num = stop
        with pytest.raises(StopError):
            prepared(checkpoint=checkpoint, num_threads=num_threads)
        checkpoint.num = None
        assert content(prepared(checkpoint=checkpoint, num_threads=num_threads)) == expected
        if every == 1:  # what was kept is not done again
            assert len(checkpoint.heard) == 2 * NUM_CHUNKS - stop


def test_it_goes_on_though_it_is_stopped_again_and_again(chunks):
    checkpoint = Notes()
    for _ in range(2 * NUM_CHUNKS):
        checkpoint.num = 1
        with pytest.raises(StopError):
            prepared(checkpoint=checkpoint)
    checkpoint.num = None
    assert content(prepared(checkpoint=checkpoint)) == content(prepared())
    assert checkpoint.heard == []


def test_progress_goes_from_0_to_1(chunks):
    checkpoint = Notes()
    prepared(checkpoint=checkpoint)
    assert checkpoint.heard == sorted(set(checkpoint.heard))
    assert 0 < checkpoint.heard[0] <= 0.5 / NUM_CHUNKS
    assert checkpoint.heard[-1] == 1.0
    assert len(checkpoint.heard) == 2 * NUM_CHUNKS


def test_the_summary_is_json(chunks):
    assert json.loads(json.dumps(prepared().summary)) == prepared().summary
