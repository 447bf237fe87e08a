"""What is read for ``/metrics``: the place of each run, cheaply, the same on every replica, and never stale."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bucketline_service.observability.metrics import RUN_GAUGES, Metrics
from bucketline_service.runs.run_gauges import RunGauges
from tests.checked import Api
from tests.runs.test_replicas import Clock, Watched
from tests.worlds import SMALL, World

SPEC = {"map": "small", "world_size": 3, "batch_size": 8}


def scraped(api: Api) -> dict[str, dict[tuple[str, ...], float]]:
    """Value by the labels' values, by name."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(api.ask("GET", "/metrics", 200).text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[(*sample.labels.values(),)] = sample.value
    return found


def of_run(api: Api, run: str = "run") -> dict[str, float]:
    told = scraped(api)
    return {
        name: told[f"bucketline_{name}"][(run,)]
        for name in RUN_GAUGES
        if (run,) in told.get(f"bucketline_{name}", {})
    }


def num_calls(api: Api) -> dict[str, float]:
    """Of the store's verbs; those of this scrape are counted by the next."""
    return {verb: num for (verb,), num in scraped(api)["bucketline_store_seconds_count"].items()}


def test_where_a_run_stands_and_who_is_slowest(world: World) -> None:
    clock = Clock()
    one, two = (world.replica(clock=clock).api for _ in range(2))
    one.put_csv("small", SMALL, 201)
    one.put("/v1/runs/run", {**SPEC, "epochs": 1}, 201)
    nobody = {"ranks": 3, "leased_ranks": 0, "generation": 1, "rank_lag_steps": 0, "slowest_rank": 0}
    steps = one.get("/v1/runs/run")["num_steps"]
    nobody |= {"slowest_epoch": 0, "slowest_step": 0, "epoch_steps": steps, "done": 0}
    assert of_run(one) == of_run(two) == nobody
    leases = {rank: one.lease("run", rank)["lease"] for rank in (0, 2)}
    one.ack("run", 0, leases[0], 0, 2)
    missing = of_run(two)
    seen = missing.pop("last_seen_timestamp_seconds")
    assert abs(seen - clock()) < 60
    assert missing == {**nobody, "leased_ranks": 2, "slowest_rank": 1, "rank_lag_steps": 3}
    leases[1] = one.lease("run", 1)["lease"]
    clock.ahead_s = 1000.0
    one.ack("run", 1, leases[1], 0, 0)
    clock.ahead_s = 2000.0
    one.ack("run", 2, leases[2], 0, 0)
    last = of_run(two)
    assert (last["slowest_rank"], last["slowest_step"], last["rank_lag_steps"]) == (1, 1, 2)
    silent_s = last["last_seen_timestamp_seconds"] - last["slowest_rank_seen_timestamp_seconds"]
    assert abs(silent_s - 1000) < 60
    for rank, lease in leases.items():
        one.ack("run", rank, lease, 0, steps - 1)
    done = of_run(two)
    assert (done["done"], done["slowest_epoch"], done["epoch_steps"], done["rank_lag_steps"]) == (1, 1, 0, 0)
    one.session("run", "next", resume="start")
    assert of_run(two) == {**nobody, "generation": 2}


def test_a_run_that_is_open_costs_one_call(world: World) -> None:
    api = world.replica().api
    api.put_csv("small", SMALL, 201)
    for run in ("a", "b"):
        api.put(f"/v1/runs/{run}", SPEC, 201)
        api.lease(run, 0)
    scraped(api)
    before = num_calls(api)
    after = num_calls(api)
    assert {
        verb: after[verb] - before[verb] for verb in after if after[verb] > before[verb] and verb != "record"
    } == {
        "list_runs": 1,
        "ranks": 2,
    }


def test_every_run_counts_from_zero_and_has_its_status(world: World) -> None:
    one, two = (world.replica().api for _ in range(2))
    one.put_csv("small", SMALL, 201)
    one.put("/v1/runs/run", SPEC, 201)
    told = scraped(two)
    for name in ("batches_served", "acks", "leases", "sessions", "fences", "adoptions"):
        assert told[f"bucketline_{name}_total"] == {("run",): 0}
    assert told["bucketline_run_status"] == {("run", "ready"): 1}
    one.ask("DELETE", "/v1/runs/run", 204)
    told = scraped(two)
    assert not [name for name, samples in told.items() if ("run",) in samples or ("run", "ready") in samples]


def lose(maps: Path) -> None:
    for part in ("objects", "names"):
        for file in (maps / part).iterdir():
            file.unlink()


def damage(maps: Path) -> None:
    """One bit, in the midst of the columns."""
    for file in (maps / "objects").iterdir():
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.chmod(0o600)
        file.write_bytes(data)


@pytest.mark.parametrize(("harm", "status"), [(lose, "failed"), (damage, "planning")])
def test_a_run_that_cannot_be_planned_hides_no_other(
    world: World, harm: Callable[[Path], None], status: str
) -> None:
    api = world.replica().api
    api.put_csv("small", SMALL, 201)
    api.put("/v1/runs/a-harmed", SPEC, 201)
    harm(world.data_dir / "maps")
    api.put_csv("other", SMALL.replace("512", "576"), 201)
    api.put("/v1/runs/run", {**SPEC, "map": "other"}, 201)
    fresh = world.replica().api
    while ("run", "ready") not in (statuses := scraped(fresh)["bucketline_run_status"]):
        pass  # each scrape waits a moment for the plan
    assert ("a-harmed", status) in statuses
    assert of_run(fresh)["ranks"] == 3
    assert not of_run(fresh, "a-harmed")
    assert scraped(fresh)["bucketline_store_up"] == {(): 1}


def test_who_scrapes_at_once_shares_one_reading(world: World) -> None:
    replica = world.replica()
    replica.api.put_csv("small", SMALL, 201)
    replica.api.put("/v1/runs/run", SPEC, 201)
    runs = replica.coordinator.runs
    runs.store = watched = Watched(runs.store)  # type: ignore[assignment]
    readings = RunGauges(runs, Metrics())

    async def scrape_at_once() -> None:
        await asyncio.gather(*(readings.refresh() for _ in range(5)))

    replica._wait(scrape_at_once())
    assert watched.verbs == ["list_runs", "ranks"]
    replica._wait(scrape_at_once())
    assert watched.verbs == ["list_runs", "ranks"] * 2


@pytest.mark.parametrize("has_root", [False, True])
def test_many_may_ask_at_once(world: World, tmp_path: Path, has_root: bool) -> None:
    """A caller that has its answer asks again at once, while others wait for the shared one."""
    (root := tmp_path / "root").mkdir()
    replica = world.replica(map_root=f"file://{root}" if has_root else None)

    async def ask(path: str) -> set[int]:
        return {(await replica._client.get(path)).status_code for _ in range(4)}

    async def ask_at_once() -> list[set[int]]:
        return await asyncio.gather(*(ask(path) for path in ("/metrics", "/readyz") * 4))

    assert replica._wait(ask_at_once()) == [{200}] * 8
