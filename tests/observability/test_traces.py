"""OpenTelemetry traces: sent by a coordinator to a real receiver, and only if switched on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from bucketline_service.errors import Invalid
from bucketline_service.observability.traces import UNTRACED, Traces
from tests.server import ServerProcess
from tests.worlds import SMALL

SPEC = {"map": "small", "world_size": 2, "batch_size": 8}
TOKEN = "a-token-of-workers-and-operators"
TRACE_ID, PARENT_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Receiver:
    """Takes OTLP over HTTP, as a collector does."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v1/traces":
                    receiver.bodies.append(body)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def services(self) -> set[str]:
        return {attributes(each.resource)["service.name"] for each in self._resources()}

    def spans(self) -> list[Span]:
        return [span for each in self._resources() for scope in each.scope_spans for span in scope.spans]

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans() if span.name == name]

    def _resources(self) -> Iterator:  # type: ignore[type-arg]
        for body in self.bodies:
            yield from ExportTraceServiceRequest.FromString(body).resource_spans


def attributes(of: object) -> dict[str, str | int]:
    found = {}
    for each in of.attributes:  # type: ignore[attr-defined]
        found[each.key] = each.value.string_value or each.value.int_value
    return found


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def start(tmp_path: Path, receiver: Receiver) -> Iterator[Callable[..., ServerProcess]]:
    servers: list[ServerProcess] = []

    def begin(*flags: str, **environ: str) -> ServerProcess:
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "BUCKETLINE_OPERATOR_TOKEN": TOKEN,
            **environ,
        }
        servers.append(ServerProcess(tmp_path / "data", *flags, environ=environ))
        return servers[-1]

    yield begin
    for server in servers:
        server.close()


def use(server: ServerProcess) -> None:
    """A run's beginning, with a trace of the caller's around one ``next``, and an error."""
    api = server.api(TOKEN)
    api.put_csv("small", SMALL, 201)
    api.put("/v1/runs/run", SPEC, 201)
    lease = api.lease("run", 1)["lease"]
    headers = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"}
    for body in ({"lease": lease}, {"lease": lease, "ack": {"epoch": 0, "step": 0}}):
        api.ask("POST", "/v1/runs/run/ranks/1/next", 200, json=body, headers=headers)
        headers = {}
    api.get("/v1/runs/none", 404)
    for path in UNTRACED:
        api.ask("GET", path, 200)
    assert server.stop()[0] == 0  # what is left is sent


def test_a_lease_and_a_next(start: Callable[..., ServerProcess], receiver: Receiver) -> None:
    use(start("--otel", OTEL_SERVICE_NAME="trainer"))
    assert receiver.services() == {"trainer"}
    (lease,) = receiver.named("POST /v1/runs/{run}/ranks/{rank}/lease")
    assert lease.kind == Span.SPAN_KIND_SERVER
    about = attributes(lease)
    assert (about["http.route"], about["http.response.status_code"]) == (
        "/v1/runs/{run}/ranks/{rank}/lease",
        200,
    )
    assert (about["bucketline.run"], about["bucketline.rank"]) == ("run", "1")

    first, second = sorted(
        receiver.named("POST /v1/runs/{run}/ranks/{rank}/next"), key=lambda span: span.start_time_unix_nano
    )
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE_ID, PARENT_ID)
    assert second.parent_span_id == b""
    assert second.trace_id not in (b"", first.trace_id)
    assert attributes(first)["bucketline.run"] == "run"
    below = {span.name: span for span in receiver.spans() if span.parent_span_id == first.span_id}
    assert set(below) == {"store commit", "plan batches"}
    assert below["store commit"].trace_id == first.trace_id
    assert below["store commit"].kind == Span.SPAN_KIND_CLIENT
    assert attributes(below["store commit"]) == {"db.system.name": "sqlite", "db.operation.name": "commit"}
    assert attributes(below["plan batches"])["bucketline.rank"] == 1
    assert [span.name for span in receiver.spans() if span.parent_span_id == second.span_id] == [
        "store commit"
    ]

    (put,) = receiver.named("PUT /v1/runs/{run}")
    (build,) = receiver.named("plan build")
    assert (build.parent_span_id, build.trace_id) == (put.span_id, put.trace_id)
    (missing,) = receiver.named("GET /v1/runs/{run}")[-1:]
    assert attributes(missing)["http.response.status_code"] == 404
    assert missing.status.code == Status.STATUS_CODE_UNSET  # the caller's mistake


def test_only_requests_are_told_and_no_token(start: Callable[..., ServerProcess], receiver: Receiver) -> None:
    use(start(BUCKETLINE_OTEL="true"))
    assert receiver.services() == {"bucketline"}
    roots = {span.name for span in receiver.spans() if not span.parent_span_id}
    assert roots
    assert [name for name in roots if name.startswith(("store", "plan"))] == []  # not what it asks for itself
    assert [name for name in roots if any(path in name for path in UNTRACED)] == []
    sent = b"".join(receiver.bodies)
    assert TOKEN.encode() not in sent
    assert b"authorization" not in sent.lower()


def test_a_sampler_that_takes_nothing(start: Callable[..., ServerProcess], receiver: Receiver) -> None:
    use(start("--otel", OTEL_TRACES_SAMPLER="always_off"))
    assert receiver.spans() == []


OFF = """
import asyncio, sys
from pathlib import Path
import httpx
from bucketline_service import server
from bucketline_service.observability import traces
from bucketline_service.settings import Settings

async def main(app):
    async with app.router.lifespan_context(app):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            print((await client.get("/v1/runs", headers={"traceparent": sys.argv[2]})).json())

app = server.build_app(Settings(data_dir=Path(sys.argv[1])), server.read_tokens(Settings()))
asyncio.run(main(app))
assert traces.span("a") is traces.span("b")
assert not [each for each in app.user_middleware if each.cls is traces.NameSpans]
print(*sorted(name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))))
"""


def test_off_nothing_of_it_runs(receiver: Receiver, tmp_path: Path) -> None:
    """Even if the environment configures other programs' traces."""
    code = [sys.executable, "-c", OFF, str(tmp_path), f"00-{TRACE_ID}-{PARENT_ID}-01"]
    environ = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url}
    done = subprocess.run(code, check=True, capture_output=True, text=True, env=environ)
    assert done.stdout == "{'runs': []}\n\n"
    assert receiver.bodies == []


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(Invalid, match=r"pip install 'bucketline\[otel\]'") as caught:
        Traces()
    assert caught.value.field == "otel"


@pytest.mark.parametrize(
    ("name", "value", "would_do"),
    [("OTEL_TRACES_EXPORTER", "zipkin", "console"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "http/protobuf")],
)
def test_what_it_can_not_send(monkeypatch: pytest.MonkeyPatch, name: str, value: str, would_do: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Invalid, match=would_do) as caught:
        Traces()
    assert value in caught.value.detail
