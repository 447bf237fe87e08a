"""What schemathesis cannot know by itself: how calls follow each other, and what every refusal must be. It loads this
file (``SCHEMATHESIS_HOOKS``)."""

from __future__ import annotations

import os
import zlib
from typing import Any

import schemathesis

from bucketline_service.http.problems import CODES

LEASE = "/v1/runs/{run}/ranks/{rank}/lease"
NEXT = "/v1/runs/{run}/ranks/{rank}/next"
SESSIONS = "/v1/runs/{run}/sessions"
REPORTS = "/v1/runs/{run}/reports"
RUN = {"run": "$request.path.run"}
RANK = {**RUN, "rank": "$request.path.rank"}
# from which answer of which call, to which call, with what of it
FOLLOWS: list[tuple[str, str, str, dict[str, str], dict[str, Any] | None]] = [
    ("/v1/runs/{run}", "get", SESSIONS, RUN, {"resume": "$response.body#/state"}),
    (SESSIONS, "post", LEASE, RUN, None),
    (SESSIONS, "post", "/v1/runs/{run}/ranks", RUN, None),
    (LEASE, "post", NEXT, RANK, {"lease": "$response.body#/lease", "from": "$response.body#/cursor"}),
    (LEASE, "post", NEXT, RANK, {"lease": "$response.body#/lease", "ack": "$response.body#/cursor"}),
    (NEXT, "post", NEXT, RANK, {"lease": "$request.body#/lease", "ack": "$response.body#/cursor"}),
    (NEXT, "post", "/v1/runs/{run}/batches", RUN, None),
]


@schemathesis.hook
def before_load_schema(context: schemathesis.HookContext, raw_schema: dict[str, Any]) -> None:
    paths = raw_schema["paths"]
    for number, (source, method, target, parameters, body) in enumerate(FOLLOWS):
        to = next(iter(operation for operation in paths[target].values()))
        link: dict[str, Any] = {"operationId": to["operationId"], "parameters": parameters}
        if body is not None:
            link["requestBody"] = body
        paths[source][method]["responses"]["200"].setdefault("links", {})[f"follows-{number}"] = link


@schemathesis.check
def is_documented_problem(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    """Every refusal is a problem document whose code is of its status; and no answer tells a token."""
    for name in ("BUCKETLINE_WORKER_TOKEN", "BUCKETLINE_OPERATOR_TOKEN"):
        assert os.environ[name].encode() not in response.content, f"{name} is shown"
    if response.status_code < 400:
        return
    kind = response.headers["content-type"][0]
    assert kind == "application/problem+json", f"{response.status_code} with {kind}"
    if response.request.method == "HEAD":
        return
    problem = response.json()
    assert CODES[problem["code"]] == problem["status"] == response.status_code
    assert problem["detail"].strip()
    assert problem["code"] != "internal"


@schemathesis.hook
def map_case(context: schemathesis.HookContext, case: schemathesis.Case) -> schemathesis.Case:
    """What is there already stays there, and of the calls that are to be met most are about it."""
    where = case.path_parameters or {}
    there = {"run": "run", "map": "coco", "id": "397"}
    if case.method == "DELETE":
        where.update({name: "gone" for name in where.keys() & there.keys() if where[name] == there[name]})
        return case
    seed = zlib.crc32(repr((case.query, case.body)).encode(errors="replace"))
    if not (case.meta and case.meta.generation.mode.is_positive) or seed % 4 == 0:
        return case
    if case.method != "PUT":
        where.update({name: there[name] for name in where.keys() & there.keys()})
        where.update({"rank": 0} if "rank" in where else {})
    if case.operation.path == "/v1/runs/{run}" and isinstance(case.body, dict):
        case.body = {**_met(case.body, seed), "map": "coco"}
    elif case.operation.path == REPORTS and isinstance(case.body, dict):
        images = [{**image, "id": int(there["id"]), "map": None} for image in case.body["images"]]
        case.body = {**case.body, "images": images}
    elif case.operation.path == "/v1/previews" and isinstance(case.body, dict):
        case.body = {"map": "coco", "specs": [_met(spec, seed) for spec in case.body["specs"]]}
    return case


def _met(spec: dict[str, Any], seed: int) -> dict[str, Any]:
    """A spec that can be met more often than one with all of its fields, of which many exclude each other."""
    left_out = {"map", "maps", "valid_ids"}
    left_out |= {"max_pixels_per_batch", "max_tokens_per_batch", "max_cost_per_batch"}
    kept = [name for name in spec if name not in left_out and zlib.crc32(f"{seed} {name}".encode()) % 4 == 0]
    sizes = {"world_size": 1 + seed % 8, "batch_size": 1 + seed % 16}
    return {**{name: spec[name] for name in kept}, **sizes}
