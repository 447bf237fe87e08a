"""Series of runs: named, and dropped with their run."""

from __future__ import annotations

from bucketline_service.metrics import Metrics


def test_a_forgotten_run_leaves_no_series() -> None:
    metrics = Metrics()
    for run in ("kept", "gone"):
        metrics.batches.labels(run).inc(3)
        metrics.rank_lag.labels(run).set(1)
    metrics.acks.labels("counted").inc()
    assert metrics.runs() == {"kept", "gone", "counted"}
    metrics.forget_gauges("kept")
    metrics.forget_run("gone")
    metrics.forget_run("never seen")
    assert metrics.runs() == {"kept", "counted"}
    text = metrics.exposition().decode()
    assert 'run="gone"' not in text
    assert 'bucketline_batches_served_total{run="kept"} 3.0' in text
    assert 'bucketline_rank_lag_steps{run="kept"}' not in text
