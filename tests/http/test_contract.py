"""The document itself, and what no route declares: roles, methods, limits, metrics."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bucketline_service.http import Tokens
from bucketline_service.http.problems import CODES
from bucketline_service.observability.metrics import Metrics
from tests.checked import Api
from tests.server import Replica
from tests.worlds import SMALL, World

PutRun = Callable[..., dict[str, Any]]
TOKENS = Tokens(worker=frozenset({"w1", "w2"}), operator=frozenset({"o1", "ö2"}))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    """With tokens, small limits, map ``small`` and run ``run``."""
    folder = tmp_path_factory.mktemp("guarded")
    world = World(f"sqlite:///{folder / 'state.sqlite'}", folder / "data")
    replica = world.replica(tokens=TOKENS, max_upload_bytes=10_000, max_json_bytes=2_000)
    operator = {"Authorization": "Bearer o1"}
    replica.api.ask(
        "PUT", "/v1/maps/small", 201, content=SMALL, headers={**operator, "Content-Type": "text/csv"}
    )
    spec = {"map": "small", "world_size": 2, "batch_size": 8}
    replica.api.ask("PUT", "/v1/runs/run", 201, json=spec, headers=operator)
    yield replica
    world.close()


class TestDocument:
    @pytest.fixture
    def document(self, shared_api: Api) -> dict[str, Any]:
        return shared_api.contract.document

    def test_every_reference_leads_somewhere(self, document: dict[str, Any]) -> None:
        assert document["openapi"].startswith("3.1")
        references = set(re.findall(r'"\$ref": ?"#/components/schemas/(\w+)"', json_of(document)))
        assert references == set(document["components"]["schemas"])

    def test_every_schema_is_one(self, document: dict[str, Any]) -> None:
        for schema in document["components"]["schemas"].values():
            Draft202012Validator.check_schema(schema)

    def test_every_operation_has_a_name_of_its_own_and_words(self, document: dict[str, Any]) -> None:
        operations = [each for path in document["paths"].values() for each in path.values()]
        assert len({each["operationId"] for each in operations}) == len(operations)
        assert len({each["summary"] for each in operations}) == len(operations)
        assert [each["operationId"] for each in operations if not each.get("description")] == []
        # FastAPI makes both from the function's name by default
        made = [
            each["summary"]
            for each in operations
            if each["operationId"].startswith(each["summary"].lower().replace(" ", "_"))
        ]
        assert made == []

    def test_every_parameter_has_words(self, document: dict[str, Any]) -> None:
        found = {
            f"{method} {path} {parameter['name']}": parameter.get("description")
            for path, each in document["paths"].items()
            for method, operation in each.items()
            for parameter in operation.get("parameters", ())
        }
        assert len(found) > 20
        assert [name for name, words in found.items() if not words] == []

    def test_what_comes_out_has_types(self, document: dict[str, Any]) -> None:
        """No bare object, except the counts of pruned images by reason and plotly's own."""
        bare = {
            f"{name}.{field}"
            for name, schema in document["components"]["schemas"].items()
            for field, about in schema.get("properties", {}).items()
            if "additionalProperties" in json_of(about)
        }
        bare -= {"FigureOut.data", "FigureOut.layout"}
        assert bare == {"EpochStats.pruned", "StatsOut.pruned"}
        assert document["components"]["schemas"]["RunOut"]["properties"]["spec"]["$ref"].endswith("/RunSpec")

    def test_problems_declare_their_members_and_headers(self, document: dict[str, Any]) -> None:
        schema = document["components"]["schemas"]["Problem"]
        assert schema["required"] == ["type", "title", "status", "detail", "code"]
        assert {"field", "errors"} < schema["properties"].keys()
        assert schema["properties"]["code"]["examples"] == sorted(CODES)
        headers = {"401": ["WWW-Authenticate"], "503": ["Retry-After"]}
        for each in document["paths"].values():
            for operation in each.values():
                for status, response in operation["responses"].items():
                    assert list(response.get("headers", ())) == headers.get(status, [])

    def test_every_row_of_the_contract_is_there(self, document: dict[str, Any]) -> None:
        there = {f"{method.upper()} {path}" for path, each in document["paths"].items() for method in each}
        assert there >= {
            *(f"{method} /v1/{kind}s/{{{kind}}}" for method in ("PUT", "GET", "DELETE") for kind in ("map", "run")),
            *(f"GET /v1/runs/{{run}}/{what}" for what in ("stats", "ranks", "batches", "images/{id}", "ledger")),
            *(f"POST /v1/runs/{{run}}/ranks/{{rank}}/{what}" for what in ("lease", "next")),
            *(f"GET /v1/{kind}" for kind in ("maps", "runs")),
            *(f"GET /{what}" for what in ("healthz", "readyz", "metrics")),
            "POST /v1/runs/{run}/sessions",
            *(f"{method} /v1/runs/{{run}}/reports" for method in ("GET", "POST")),
            "POST /v1/previews",
        }  # fmt: skip

    def test_what_needs_a_token_says_so(self, document: dict[str, Any]) -> None:
        for path, each in document["paths"].items():
            for method, operation in each.items():
                assert (
                    ("401" in operation["responses"]) == path.startswith("/v1/") == ("security" in operation)
                )
                assert ("403" in operation["responses"]) == (
                    method in ("put", "delete") or path == "/v1/previews"
                )

    def test_the_page_asks_no_other_host(self, shared_api: Api) -> None:
        send = shared_api._send
        page = send("GET", "/docs").text
        links = re.findall(r"""(?:src|href)=["']([^"']+)["']|url: ?'([^']+)'""", page)
        targets = [first or second for first, second in links]
        assert any("swagger-ui" in target for target in targets)
        for target in targets:
            # below the page, wherever a proxy has put it
            assert re.match(r"[a-z]", target)
            assert "//" not in target
            assert send("GET", f"/{target}").status_code == 200
        assert "https://" not in re.sub(r"<!--.*?-->", "", page)


def json_of(document: dict[str, Any]) -> str:
    import json

    return json.dumps(document)


CALLS = [
    ("GET", "/v1/maps", None, "any"),
    ("GET", "/v1/maps/small", None, "any"),
    ("PUT", "/v1/maps/m", {"uri": "x"}, "operator"),
    ("DELETE", "/v1/maps/none", None, "operator"),
    ("GET", "/v1/runs", None, "any"),
    ("GET", "/v1/runs/run", None, "any"),
    ("GET", "/v1/runs/run/stats", None, "any"),
    ("GET", "/v1/runs/run/ledger", None, "any"),
    ("GET", "/v1/runs/run/ranks", None, "any"),
    ("GET", "/v1/runs/run/images/1", None, "any"),
    ("GET", "/v1/runs/run/batches?epoch=0&step=0&rank=0", None, "any"),
    ("POST", "/v1/runs/run/sessions", {"session": "s"}, "any"),
    ("POST", "/v1/runs/run/ranks/0/lease", {"holder": "h"}, "any"),
    ("POST", "/v1/runs/run/ranks/0/next", {"lease": 1}, "any"),
    ("PUT", "/v1/runs/run", {"map": "small", "world_size": 2, "batch_size": 8}, "operator"),
    ("DELETE", "/v1/runs/none", None, "operator"),
    ("POST", "/v1/previews", {"map": "small", "specs": [{"world_size": 2, "batch_size": 8}]}, "operator"),
]


@pytest.mark.parametrize(("method", "path", "body", "who"), CALLS)
def test_roles(guarded: Replica, method: str, path: str, body: Any, who: str) -> None:
    def status(authorization: bytes | None) -> int:
        headers = {} if authorization is None else {"Authorization": authorization}
        return guarded.api.ask(method, path, json=body, headers=headers).status_code

    for wrong in (
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer x",
        b"Basic o1",
        b"o1",
        b"Bearer o1 o1",
        b"Bearer \xff",
    ):
        assert status(wrong) == 401
    for worker in (b"Bearer w1", b"Bearer w2"):
        assert (status(worker) == 403) == (who == "operator")
        assert status(worker) != 401
    for operator in (b"Bearer o1", b"bearer o1", "Bearer ö2".encode()):
        assert status(operator) not in (401, 403)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"])
def test_what_needs_no_token(guarded: Replica, path: str) -> None:
    assert guarded.send("GET", path).status_code == 200


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/metrics", "/v1/runs", "/v1/maps/small", "/v1/runs/none"]
)
def test_head_is_get_without_a_body(shared_api: Api, path: str) -> None:
    get, head = shared_api.ask("GET", path), shared_api.ask("HEAD", path)
    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers["content-type"] == get.headers["content-type"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/runs", 405),
        ("PATCH", "/v1/runs/run", 405),
        ("GET", "/v1/runs/run/sessions", 405),
        ("HEAD", "/v1/runs/run/sessions", 405),
        ("DELETE", "/healthz", 405),
        ("GET", "/v2/runs", 404),
        ("GET", "/v1/runs/", 404),
    ],
)
def test_what_is_not_there_is_a_problem(shared_api: Api, method: str, path: str, status: int) -> None:
    response = shared_api._send(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    if status == 405:
        assert response.headers["allow"]
    if method != "HEAD":
        problem = response.json()
        assert problem["code"] == {404: "not_found", 405: "method_not_allowed"}[status]
        assert path in problem["detail"]
        assert ("/docs" if status == 404 else response.headers["allow"]) in problem["detail"]


@pytest.mark.parametrize("token", [None, "x"])
@pytest.mark.parametrize("content_type", ["application/json", "text/csv"])
def test_no_byte_of_a_body_is_read_before_the_token(
    guarded: Replica, content_type: str, token: str | None
) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 1
            yield b" " * 1000

    headers = {"Content-Type": content_type, **({"Authorization": f"Bearer {token}"} if token else {})}
    asked = 0
    for path, each in guarded.api.contract.document["paths"].items():
        for method in each.keys() & {"put", "post"}:
            url = path.format(map="m", run="run", rank=0)
            problem = guarded.api.ask(method.upper(), url, 401, content=endless(), headers=headers).json()
            assert problem["code"] == "unauthorized"
            asked += 1
    assert asked >= 5
    assert taken == 0


def test_no_byte_of_an_operator_s_body_is_read_from_a_worker(guarded: Replica) -> None:
    async def refused() -> AsyncIterator[bytes]:
        raise AssertionError("the body is read")
        yield b""

    headers = {"Content-Type": "application/json", "Authorization": "Bearer w1"}
    guarded.api.ask("PUT", "/v1/runs/new", 403, content=refused(), headers=headers)


OPERATOR = {"Authorization": "Bearer o1"}


@pytest.mark.parametrize("is_declared", [True, False])
@pytest.mark.parametrize(
    ("path", "content_type", "size"),
    [
        ("/v1/maps/large", "text/csv", 10_001),
        ("/v1/maps/large", "application/json", 2_001),
        ("/v1/runs/large", "application/json", 2_001),
        ("/v1/runs/run/sessions", "application/json", 2_001),
        ("/v1/runs/run/ranks/0/next", "application/json", 2_001),
    ],
)
def test_a_body_that_is_too_large(
    guarded: Replica, path: str, content_type: str, size: int, is_declared: bool
) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for begin in range(0, size, 1000):
            await asyncio.sleep(0)
            yield b" " * min(1000, size - begin)

    body = b" " * size if is_declared else chunks()
    method = "POST" if "/run/" in path else "PUT"
    headers = {**OPERATOR, "Content-Type": content_type}
    problem = guarded.api.ask(method, path, 413, content=body, headers=headers).json()
    assert problem["code"] == "too_large"
    assert problem["limit_bytes"] == (10_000 if size > 10_000 else 2_000)
    assert len(guarded.api.ask("GET", "/v1/maps", headers=OPERATOR).json()["maps"]) == 1
    assert list((Path(guarded.coordinator.maps._root).parent / "uploads").iterdir()) == []


def sample(text: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_metrics_after_known_traffic(world: World) -> None:
    api = world.replica().api
    api.put_csv("small", SMALL, 201)
    api.put("/v1/runs/run", {"map": "small", "world_size": 2, "batch_size": 8}, 201)
    api.put("/v1/runs/other", {"map": "small", "world_size": 1, "batch_size": 8}, 201)
    old = api.lease("run", 0, "a")["lease"]
    lease = api.lease("run", 0, "b")["lease"]
    for _ in range(3):
        api.next("run", 0, old, 409)
    api.next("run", 0, lease, count=5)
    api.next("run", 0, lease, ack={"epoch": 0, "step": 3}, count=2)
    api.session("other", "s")
    api.get("/v1/runs/none", 404)
    text = api.ask("GET", "/metrics", 200).text
    expected = {
        'bucketline_batches_served_total{run="run"}': 7,
        'bucketline_acks_total{run="run"}': 1,
        'bucketline_leases_total{run="run"}': 2,
        'bucketline_fences_total{run="run"}': 3,
        'bucketline_sessions_total{run="other"}': 1,
        'bucketline_sessions_total{run="run"}': 0,
        "bucketline_store_errors_total": 0,
        "bucketline_plan_build_seconds_count": 2,
        'bucketline_rank_lag_steps{run="run"}': 4,
        'bucketline_slowest_step{run="run"}': 0,
        'bucketline_requests_total{method="POST",route="/v1/runs/{run}/ranks/{rank}/next",status="409"}': 3,
        'bucketline_requests_total{method="POST",route="/v1/runs/{run}/ranks/{rank}/next",status="200"}': 2,
        'bucketline_requests_total{method="GET",route="/v1/runs/{run}",status="404"}': 1,
        'bucketline_request_seconds_count{method="PUT",route="/v1/maps/{map}"}': 1,
    }
    assert {name: sample(text, name) for name in expected} == expected
    api.ask("DELETE", "/v1/runs/run?force=true", 204)
    text = api.ask("GET", "/metrics", 200).text
    assert 'run="run"' not in text
    assert "_created" not in text


def test_every_metric_is_ours_and_has_words() -> None:
    for metric in Metrics().registry.collect():
        assert metric.documentation
        assert metric.name.startswith(("bucketline_", "process_", "python_"))


def test_a_worker_s_body_is_small(api: Api) -> None:
    """Whatever run specs may have."""
    padded = b'{"holder": "me"}' + b" " * (1 << 16)
    for path in ("sessions", "ranks/0/lease", "ranks/0/next"):
        asked = {"content": padded, "headers": {"Content-Type": "application/json"}}
        assert api.ask("POST", f"/v1/runs/run/{path}", 413, **asked).json()["limit_bytes"] == 1 << 16
