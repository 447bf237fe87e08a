"""What one caller may request: it is bounded, and the error states the bound."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bucketline_service.spec.maps import MAX_LISTED_IDS
from tests.checked import Api
from tests.server import ServerProcess
from tests.worlds import SMALL

SPEC: dict[str, Any] = {"map": "small", "world_size": 2, "batch_size": 8}
IDS = MAX_LISTED_IDS + 1


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("bounds") / "data"
    server = ServerProcess(folder, "--max-runs", "2", "--max-json-bytes", str(4 << 20))
    api = server.api()
    api.put_csv("small", SMALL, 201)
    api.put_csv("many", "id,width,height\n" + "".join(f"{i},64,64\n" for i in range(IDS)), 201)
    yield api
    server.close()


def test_runs(api: Api) -> None:
    for name in ("a", "b"):
        api.put(f"/v1/runs/{name}", SPEC, 201)
    problem = api.put("/v1/runs/c", SPEC, 413)
    assert (problem["code"], problem["limit"]) == ("too_large", 2)
    assert api.put("/v1/runs/a", SPEC, 200)["run"] == "a"
    api.ask("DELETE", "/v1/runs/b", 204)
    api.put("/v1/runs/c", SPEC, 201)
    api.ask("DELETE", "/v1/runs/c", 204)


def test_listed_ids(api: Api) -> None:
    spec = {**SPEC, "map": "many", "valid_ids": list(range(IDS))}
    for body, field in (
        (spec, "valid_ids"),
        ({**SPEC, "map": None, "maps": [{"map": "many", "valid_ids": list(range(IDS))}]}, "maps.0.valid_ids"),
        (
            {**SPEC, "map": None, "maps": [{"map": "many", "weight": 1, "valid_ids": [1] * IDS}]},
            "maps.0.valid_ids",
        ),
    ):
        problem = api.put("/v1/runs/listed", body, 422)
        assert problem["field"] == field
        assert f"at most {MAX_LISTED_IDS:,} ids may be listed" in problem["detail"]
    told = api.put("/v1/runs/listed", {**spec, "valid_ids": list(range(MAX_LISTED_IDS))}, 201)
    assert len(told["spec"]["valid_ids"]) == MAX_LISTED_IDS
    api.ask("DELETE", "/v1/runs/listed", 204)


def test_a_long_list_of_faults_is_told_in_brief(api: Api) -> None:
    problem = api.put("/v1/runs/wrong", {**SPEC, "valid_ids": [1.5] * 500_000}, 422)
    assert problem["field"].startswith("valid_ids")
    assert len(problem["errors"]) <= 20


def test_the_bound_of_json_is_a_setting(api: Api) -> None:
    problem = api.put("/v1/runs/long", {**SPEC, "valid_ids": ["x" * (4 << 20)]}, 413)
    assert problem["limit_bytes"] == 4 << 20


@pytest.mark.parametrize(
    "body", [b"[" * 1_000_000, b'{"lease": ' + b"9" * 1_000_000 + b"}", b'{"lease": 1e999}']
)
def test_deep_and_large_json(api: Api, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    assert api.ask("PUT", "/v1/runs/deep", 422, content=body, headers=headers).json()["code"] == "invalid"
    body = body[:60_000]  # a worker's are shorter
    for call in ("lease", "next"):
        path = f"/v1/runs/a/ranks/0/{call}"
        assert api.ask("POST", path, 422, content=body, headers=headers).json()["code"] == "invalid"


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/runs/a/sessions", {"session": "x" * 257}, "session"),
        ("/v1/runs/a/sessions", {"session": "s", "world_size": 16_385}, "world_size"),
        ("/v1/runs/a/ranks/0/lease", {"holder": "x" * 257}, "holder"),
        ("/v1/runs/a/ranks/16384/lease", {"holder": "x"}, "rank"),
        ("/v1/runs/a/ranks/0/next", {"lease": 1, "count": 1025}, "count"),
        ("/v1/runs/a/ranks/0/next", {"lease": 2**53}, "lease"),
    ],
)
def test_names_and_numbers(api: Api, path: str, body: Any, field: str) -> None:
    assert api.post(path, body, 422)["field"] == field


@pytest.mark.parametrize(
    ("method", "path", "known"),
    [
        ("GET", "/v1/runs/a?x=1", "none"),
        ("GET", "/v1/runs?limit=3", "none"),
        ("GET", "/v1/runs/a/batches?epoch=0&step=0&rank=0&worldsize=3&x=1", "world_size"),
        ("PUT", "/v1/maps/m?idcolumn=id", "id_column"),
        ("POST", "/v1/runs/a/ranks/0/lease?x=1", "none"),
    ],
)
def test_query_parameters_that_are_none(api: Api, method: str, path: str, known: str) -> None:
    body = {"json": {"holder": "h"}} if method == "POST" else {}
    problem = api.ask(method, path, 422, **body).json()
    assert (
        problem["field"]
        == path.rpartition("?")[2].split("&")[-2 if "worldsize" in path else -1].split("=")[0]
    )
    assert known in problem["detail"]


@pytest.mark.parametrize("method", ["OPTIONS", "POST", "PATCH"])
def test_a_method_that_is_none_is_told_all_that_are(api: Api, method: str) -> None:
    response = api._send(method, "/v1/runs/a")
    assert (response.status_code, response.headers["Allow"]) == (405, "DELETE, GET, HEAD, PUT")


def test_a_name_is_looked_at_before_the_map(api: Api, tmp_path: Path) -> None:
    headers = {"Content-Type": "text/csv"}
    assert api.ask("PUT", "/v1/maps/-", 422, content=b"no,map", headers=headers).json()["field"] == "map"
