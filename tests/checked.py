"""Requests whose answers are all checked against the app's own OpenAPI document: status, content type, body."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

import httpx

PROBLEM = "application/problem+json"
UNDOCUMENTED = {404, 405}
"""Of paths and methods that are none of the API's: problems all the same."""


class Contract:
    """The document, made strict: an answer with a member that its model does not declare is refused as well."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        strict = copy.deepcopy(document["components"])
        for name, schema in strict["schemas"].items():
            if "properties" in schema and name != "Problem":
                schema.setdefault("additionalProperties", False)
        self._components = strict
        self._validators: dict[str, Any] = {}
        self._paths = [
            (re.compile(re.sub(r"\{\w+\}", "[^/]+", path.replace("{id}", ".+"))), operations)
            for path, operations in document["paths"].items()
        ]

    def check(self, response: httpx.Response) -> None:
        request = response.request
        declared = self._responses(request.method, request.url.raw_path.decode().partition("?")[0])
        status = str(response.status_code)
        told = f"{request.method} {request.url} answered {status}: {response.text[:300]}"
        if status not in declared:
            assert not declared, f"not documented: {told}"
            assert response.status_code in UNDOCUMENTED, told
            declared = {status: {"content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}}}}
        content = declared[status].get("content", {})
        media_type = response.headers.get("content-type", "").partition(";")[0]
        if not content or request.method == "HEAD":
            assert not response.content, told
            return
        assert media_type in content, f"content type {media_type!r}, not {list(content)}: {told}"
        if media_type.endswith("json"):
            validator = self._validator(content[media_type]["schema"])
            errors = [error.message for error in validator.iter_errors(response.json())]
            assert not errors, f"{errors[:3]}: {told}"
        if media_type == PROBLEM:
            _check_problem(response)

    def _validator(self, schema: dict[str, Any]) -> Any:
        """Making one takes longer than most answers."""
        from jsonschema_rs import Draft202012Validator  # the venvs of torch and of Ray do without

        key = repr(schema)
        if key not in self._validators:
            self._validators[key] = Draft202012Validator({**schema, "components": self._components})
        return self._validators[key]

    def _responses(self, method: str, path: str) -> dict[str, Any]:
        for pattern, operations in self._paths:
            operation = operations.get("get" if method == "HEAD" else method.lower())
            if pattern.fullmatch(path) and operation:
                responses: dict[str, Any] = operation["responses"]
                return responses
        return {}


def _check_problem(response: httpx.Response) -> None:
    problem = response.json()
    assert problem["status"] == response.status_code
    assert problem["detail"].strip()
    assert problem["title"].strip() != problem["code"], "a code without its own title"
    assert problem["type"] == f"urn:bucketline:problem:{problem['code']}"
    assert ("Retry-After" in response.headers) == (response.status_code == 503)
    assert ("WWW-Authenticate" in response.headers) == (response.status_code == 401)
    if problem["code"] == "invalid" and response.status_code == 422:
        assert problem["field"]


class Api:
    """Sends, checks, and returns. ``send`` is httpx's ``request`` of the server under test."""

    def __init__(self, send: Callable[..., httpx.Response], contract: Contract) -> None:
        self._send = send
        self.contract = contract

    def ask(self, method: str, path: str, status: int | None = None, **request: Any) -> httpx.Response:
        response = self._send(method, path, **request)
        self.contract.check(response)
        if status is not None:
            assert response.status_code == status, response.text[:500]
        return response

    def get(self, path: str, status: int = 200, **params: Any) -> Any:
        return self.ask("GET", path, status, params=params).json()

    def put(self, path: str, body: Any, status: int | None = None) -> Any:
        """Unless 202 is expected, also waits for a plan that takes a busy machine longer than the request waits."""
        response = self.ask("PUT", path, json=body)
        if response.status_code == 202 and status != 202:
            while (run := self.get(path))["status"] == "planning":
                pass
            return run
        assert response.is_success if status is None else response.status_code == status, response.text[:500]
        return response.json()

    def post(self, path: str, body: Any, status: int = 200) -> Any:
        return self.ask("POST", path, status, json=body).json()

    def put_csv(self, name: str, csv: bytes | str, status: int | None = None) -> Any:
        response = self.ask(
            "PUT", f"/v1/maps/{name}", status, content=csv, headers={"Content-Type": "text/csv"}
        )
        assert status is not None or response.is_success, response.text[:500]
        return response.json()

    # --- a rank's life --------------------------------------------------------------------------------------

    def lease(self, run: str, rank: int, holder: str = "me", status: int = 200, **more: Any) -> Any:
        return self.post(f"/v1/runs/{run}/ranks/{rank}/lease", {"holder": holder, **more}, status)

    def next(self, run: str, rank: int, lease: int, status: int = 200, **more: Any) -> Any:
        body = {"lease": lease, **{name.rstrip("_"): value for name, value in more.items()}}
        return self.post(f"/v1/runs/{run}/ranks/{rank}/next", body, status)

    def session(self, run: str, session: str, status: int = 200, **more: Any) -> Any:
        return self.post(f"/v1/runs/{run}/sessions", {"session": session, **more}, status)

    def ack(self, run: str, rank: int, lease: int, epoch: int, step: int) -> Any:
        return self.next(run, rank, lease, ack={"epoch": epoch, "step": step})

    def cursors(self, run: str) -> list[tuple[int, int]]:
        return [(each["epoch"], each["step"]) for each in self.get(f"/v1/runs/{run}/ranks")["ranks"]]
