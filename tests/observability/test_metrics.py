"""Series of runs: named, and dropped with their run."""

from __future__ import annotations

from bucketline_service.observability.metrics import Metrics, RunGaugeValues


def test_a_run_that_is_gone_leaves_no_series() -> None:
    metrics = Metrics()
    for run in ("kept", "gone", "deleted"):
        metrics.of_run(run).batches.inc(3)
    reading = RunGaugeValues("ready", {"rank_lag_steps": 7})
    metrics.set_runs({"kept": reading, "deleted": reading})
    metrics.forget_run("deleted")
    metrics.forget_run("never seen")
    text = metrics.exposition().decode()
    assert 'run="gone"' not in text
    assert 'run="deleted"' not in text
    assert 'bucketline_batches_served_total{run="kept"} 3.0' in text
    assert 'bucketline_acks_total{run="kept"} 0.0' in text
    assert 'bucketline_rank_lag_steps{run="kept"} 7.0' in text


def test_without_the_store_counts_stay_and_nothing_is_told_of_where_runs_stand() -> None:
    metrics = Metrics()
    metrics.set_runs({"run": RunGaugeValues("ready", {"slowest_step": 7})})
    metrics.of_run("run").batches.inc(3)
    metrics.set_store_down()
    text = metrics.exposition().decode()
    assert "bucketline_store_up 0.0" in text
    assert 'bucketline_batches_served_total{run="run"} 3.0' in text
    assert "bucketline_slowest_step{" not in text
    assert "bucketline_run_status{" not in text
    metrics.set_runs({})
    assert "bucketline_store_up 1.0" in metrics.exposition().decode()
