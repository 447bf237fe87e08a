"""Runs stored before run specs had ``steps`` continue as they began: see ``tests/recorded_runs.py``."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bucketline_service.store import Cursor
from bucketline_service.store.port import Generation
from tests.checked import Api
from tests.recorded_runs import MAPS, RUNS, Batch, dealt, digest, document, in_stream_order, restore, spec_of
from tests.server import Replica
from tests.worlds import World

IN_TEST = {
    *("default", "named", "tiers-keep-some", "size-by-first", "clips", "shares-column", "maps-weights"),
    *("tokens", "lockstep", "epochs", "few-drop", "novelai"),
}
"""Those whose answers differ most. ``tests/plans/test_recorded_plans.py`` proves the batches of every run."""

of_many = pytest.mark.parametrize(
    "run", [pytest.param(run, marks=[] if run in IN_TEST else pytest.mark.exhaustive) for run in RUNS]
)


@pytest.fixture(scope="module")
def upgraded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    """A coordinator that finds every recorded run in its store. No test moves their cursors."""
    folder = tmp_path_factory.mktemp("upgraded")
    world = World(f"sqlite:///{folder / 'state.sqlite'}", folder / "data")
    replica = world.replica()
    for name, csv in MAPS.items():
        replica.api.put_csv(name, csv, 201)
    for run in RUNS:
        restore(replica, run)
    yield replica
    world.close()


@pytest.fixture
def api(upgraded: Replica) -> Api:
    return upgraded.api


def ready(api: Api, run: str) -> dict[str, Any]:
    """The run, once it is planned: each answer waits a moment for that."""
    while (about := api.get(f"/v1/runs/{run}"))["status"] == "planning":
        pass
    assert about["status"] == "ready", about["detail"]
    return about  # type: ignore[no-any-return]


def agrees(told: Any, recorded: Any) -> bool:
    """Whether an answer contains what the recorded one did. It may have more fields."""
    if isinstance(recorded, dict):
        return all(name in told and agrees(told[name], value) for name, value in recorded.items())
    if isinstance(recorded, list):
        return len(told) == len(recorded) and all(map(agrees, told, recorded))
    if isinstance(recorded, float):
        return bool(told == pytest.approx(recorded, rel=1e-12))
    return bool(told == recorded)


def check_streams(api: Api, run: str, own: int, streams: dict[str, Any]) -> None:
    for world_size, epochs in streams.items():
        num_ranks = int(world_size)
        other = {} if num_ranks == own else {"world_size": num_ranks}
        for epoch, (num_batches, sha256) in epochs.items():
            found = dealt(api, run, num_ranks, int(epoch), num_steps=num_batches // num_ranks, **other)
            assert (len(found), digest(found)) == (num_batches, sha256), f"epoch {epoch} on {num_ranks} ranks"


@of_many
def test_it_has_its_fingerprint_and_is_served_its_batches(api: Api, run: str) -> None:
    recorded, about = RUNS[run], ready(api, run)
    own = recorded["spec"]["world_size"]
    fingerprint = recorded["document"]["fingerprint"]
    assert (about["fingerprint"], about["state"]["fingerprint"]) == (fingerprint, fingerprint)
    assert about["num_steps"] == recorded["stats"]["num_steps"]
    assert agrees(about["spec"], recorded["document"]["spec"])
    check_streams(api, run, own, recorded["streams"])


@of_many
def test_its_stats_are_what_they_were(api: Api, run: str) -> None:
    """``step_imbalance`` was what is expected over epochs; now it is the epoch's own, as it is served."""
    ready(api, run)
    told, recorded = api.get(f"/v1/runs/{run}/stats"), RUNS[run]["stats"]
    differs = {name: told[name] for name in recorded if not agrees(told[name], recorded[name])}
    if differs.keys() == {"step_imbalance"} and recorded["mixed_steps"]:
        num_ranks = spec_of(run)["world_size"]
        batches = dealt(api, run, num_ranks, 0, num_steps=told["num_steps"])
        pixels = [len(batch.ids) * batch.width * batch.height * (batch.num_frames or 1) for batch in batches]
        dearest = sum(max(pixels[first : first + num_ranks]) for first in range(0, len(pixels), num_ranks))
        differs = (
            {} if differs["step_imbalance"] == pytest.approx(dearest * num_ranks / sum(pixels)) else differs
        )
    assert differs == {}


@of_many
def test_its_images_are_where_they_were(api: Api, run: str) -> None:
    """Those of the first two batches of an epoch, on the spec's own ranks."""
    ready(api, run)
    num_ranks = spec_of(run)["world_size"]
    for position, each in enumerate(RUNS[run]["first"]["1"]):
        batch = Batch(*each)
        step, rank = divmod(position, num_ranks)
        for slot, image in enumerate(batch.ids):
            of_map = {"map": batch.maps[slot]} if batch.maps else {}
            served = api.get(f"/v1/runs/{run}/images/{image}", epoch=1, **of_map)["served"]
            wanted = {"step": step, "rank": rank, "bucket": batch.bucket}
            assert any(agrees(place, wanted) for place in served), (position, image)


@pytest.mark.parametrize("run", RUNS)
def test_its_script_may_put_it_again(upgraded: Replica, run: str) -> None:
    """Also with every default written out, as ``GET`` answered then and as it does now."""
    api, recorded = upgraded.api, RUNS[run]["document"]
    now = ready(api, run)["spec"]
    for spec in (spec_of(run), recorded["spec"], now):
        assert api.put(f"/v1/runs/{run}", spec, 200)["fingerprint"] == recorded["fingerprint"]
    # coordinators of the old release, which may share the store, can still read it
    kept = upgraded.start(upgraded.coordinator.store.read_run(run)).result()
    assert (kept.document, kept.generation.number) == (document(run), 1)


@pytest.mark.parametrize(
    ("run", "changed"),
    [
        ("default", {"seed": 7}),
        ("default", {"tails": "drop"}),
        ("default", {"ladder": "sdxl"}),
        ("pad", {"tails": "spill"}),
        ("pad", {"batch_size": 8}),
        ("lockstep", {"lockstep": 12}),
        ("first", {"epochs": 3}),
        ("epochs", {"epochs": 3}),
        ("limits", {"assign": {"max_ar_error": 0.3, "max_crop_loss": 0.1, "min_size": 300}}),
        ("novelai", {"seed": 7}),
        ("wanted", {"valid_ids": [1]}),
    ],
)
def test_another_spec_is_refused(upgraded: Replica, run: str, changed: dict[str, Any]) -> None:
    problem = upgraded.api.put(f"/v1/runs/{run}", {**spec_of(run), **changed}, 409)
    assert (problem["code"], problem["fields"]) == ("conflict", list(changed))
    kept = upgraded.start(upgraded.coordinator.store.read_run(run)).result()
    assert (kept.document, kept.generation.number) == (document(run), 1)


def test_a_script_may_say_what_the_run_has(upgraded: Replica) -> None:
    """``steps: same_shape`` is what the run was put with, before it had a name; other tails than the default of today
    are the run's own, also where they are left out."""
    api, put = upgraded.api, RUNS["pad"]["document"]["fingerprint"]
    ready(api, "pad")
    spec = {name: value for name, value in spec_of("pad").items() if name != "tails"}
    assert spec_of("pad")["tails"] == "pad"
    for left_out in (spec, {**spec, "steps": "same_shape"}, {**spec, "steps": None, "tails": None}):
        assert api.put("/v1/runs/pad", left_out, 200)["fingerprint"] == put, left_out
    about = api.put("/v1/runs/default", {**spec_of("default"), "steps": "same_shape"}, 200)
    assert about["fingerprint"] == RUNS["default"]["document"]["fingerprint"]
    assert (about["spec"]["steps"], about["spec"]["tails"]) == ("same_shape", "spill")


def test_balanced_steps_are_another_spec(upgraded: Replica) -> None:
    """The tails that the run has are possible with both, and so it is the steps alone that differ."""
    api = upgraded.api
    problem = api.put("/v1/runs/default", {**spec_of("default"), "steps": "balanced"}, 409)
    assert (problem["code"], problem["fields"]) == ("conflict", ["steps"])
    kept = upgraded.start(upgraded.coordinator.store.read_run("default")).result()
    assert (kept.document, kept.generation.number) == (document("default"), 1)


def test_deleted_and_put_again_it_has_the_default_of_today(upgraded: Replica) -> None:
    api, name = upgraded.api, "default-again"
    restore(upgraded, "default", name)
    before = ready(api, name)
    assert before["spec"]["steps"] == "same_shape"
    api.ask("DELETE", f"/v1/runs/{name}", 204)
    anew = api.put(f"/v1/runs/{name}", spec_of("default"), 201)
    assert {field: anew["spec"][field] for field in ("steps", "tails", "last_step")} == {
        "steps": "balanced",
        "tails": "shift",
        "last_step": "drop",
    }
    assert anew["fingerprint"] != before["fingerprint"]
    refused = api.session(name, "again", 409, resume=before["state"])
    assert (refused["code"], "version" in refused["differs"]) == ("plan_mismatch", True)
    api.ask("DELETE", f"/v1/runs/{name}", 204)


of_resumed = pytest.mark.parametrize("run", [run for run in RUNS if "resumed" in RUNS[run]])


@of_resumed
def test_a_state_dict_of_before_resumes_on_another_number_of_ranks(upgraded: Replica, run: str) -> None:
    """In the middle of an epoch, whose rest keeps its lockstep; the next epoch has one for the new ranks."""
    api, resumed = upgraded.api, RUNS[run]["resumed"]
    name = f"{run}-resumed"
    restore(upgraded, run, name)
    ready(api, name)
    wanted = resumed["session"]
    began = api.session(name, "again", resume=resumed["state"], world_size=wanted["world_size"])
    assert agrees(began, wanted)
    (epoch, step), num_ranks = wanted["origin"].values(), wanted["world_size"]
    for begin, at, (num_batches, sha256) in ((step, epoch, resumed["rest"]), (0, epoch + 1, resumed["next"])):
        found = dealt(api, name, num_ranks, at, step=begin, num_steps=num_batches // num_ranks)
        assert (len(found), digest(found)) == (num_batches, sha256)
    api.ask("DELETE", f"/v1/runs/{name}", 204)


@of_resumed
def test_a_job_that_is_running_on_another_number_of_ranks_continues(upgraded: Replica, run: str) -> None:
    """Its session began before the upgrade, in the middle of an epoch; each rank asks for what follows its cursor."""
    api, resumed = upgraded.api, RUNS[run]["resumed"]
    name, began = f"{run}-running", resumed["session"]
    num_ranks, origin = began["world_size"], Cursor(**began["origin"])
    generation = Generation(
        2, "again", num_ranks, origin, began["offset"], birth="before", lockstep=began["origin_lockstep"]
    )
    restore(upgraded, run, name, generation)
    ready(api, name)
    (num_rest, sha256_of_rest), (num_next, sha256_of_next) = resumed["rest"], resumed["next"]
    num_steps, of_ranks = (num_rest + num_next) // num_ranks, []
    for rank in range(num_ranks):
        lease = api.lease(name, rank)["lease"]
        batches = api.next(name, rank, lease, count=num_steps)["batches"]
        of_ranks.append([Batch.of_wire(batch) for batch in batches])
    found = in_stream_order(of_ranks)
    assert (digest(found[:num_rest]), digest(found[num_rest:])) == (sha256_of_rest, sha256_of_next)
    api.ask("DELETE", f"/v1/runs/{name}?force=true", 204)


@pytest.mark.parametrize("run", [run for run in RUNS if "plan" in RUNS[run]])
def test_a_plan_that_was_built_before_is_on_the_disk(tmp_path: Path, run: str) -> None:
    """Its summary lacks whatever this release has added: it is completed or built again."""
    recorded = RUNS[run]
    folder = tmp_path / "data/plans" / recorded["document"]["fingerprint"]
    folder.mkdir(parents=True)
    (folder / "plan.json").write_text(recorded["plan"]["plan.json"])
    (folder / "order.bin").write_bytes(base64.b64decode(recorded["plan"]["order.bin"]))
    world = World(f"sqlite:///{tmp_path / 'state.sqlite'}", tmp_path / "data")
    replica = world.replica()
    api, needed = replica.api, recorded["spec"]["map"]
    api.put_csv(needed, MAPS[needed], 201)
    restore(replica, run)
    ready(api, run)
    check_streams(api, run, recorded["spec"]["world_size"], recorded["streams"])
    assert agrees(api.get(f"/v1/runs/{run}/stats"), recorded["stats"])
    world.close()
