"""``bucketline serve`` as a process: killed, ended, without its store, its disk or its port."""

from __future__ import annotations

import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.checked import Api
from tests.cli.commands import run_here
from tests.redis_server import RedisServer
from tests.server import ServerProcess, popen, run_command
from tests.waiting import until
from tests.worlds import SMALL

SPEC = {"map": "small", "world_size": 2, "batch_size": 8}
WAIT_S = 30.0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    servers: list[ServerProcess] = []

    def begin(*flags: str, **options: Any) -> ServerProcess:
        servers.append(ServerProcess(tmp_path / "data", *flags, **options))
        return servers[-1]

    yield begin
    for server in servers:
        server.close()


def put(api: Api) -> int:
    """The map, the run, and a lease of rank 0."""
    api.put_csv("small", SMALL, 201)
    api.put("/v1/runs/run", SPEC, 201)
    lease: int = api.lease("run", 0)["lease"]
    return lease


def test_killed_between_two_calls_it_goes_on(start: Callable[..., ServerProcess]) -> None:
    server = start()
    api = server.api()
    lease = put(api)
    before = api.next("run", 0, lease, ack={"epoch": 0, "step": 4}, count=3)
    server.kill()
    server.start()
    assert api.next("run", 0, lease, ack={"epoch": 0, "step": 4}, count=3) == before
    assert api.cursors("run") == [(0, 5), (0, 0)]
    server.kill()
    server.start()
    assert api.lease("run", 0)["lease"] == lease
    assert api.get("/v1/runs/run")["state"]["step"] == 0


def test_a_store_that_is_gone_and_back(
    start: Callable[..., ServerProcess], own_redis_server: RedisServer
) -> None:
    server = start("--store", own_redis_server.url, environ={"BUCKETLINE_STORE_TIMEOUT_S": "5"})
    api = server.api()
    lease = put(api)
    api.ack("run", 0, lease, 0, 1)
    own_redis_server.kill()
    ack = {"lease": lease, "ack": {"epoch": 0, "step": 5}}
    for method, path, body in [
        ("POST", "/v1/runs/run/ranks/0/next", ack),
        ("POST", "/v1/runs/run/ranks/0/lease", {"holder": "other"}),
        ("POST", "/v1/runs/run/sessions", {"session": "s"}),
        ("PUT", "/v1/runs/new", SPEC),
        ("GET", "/v1/runs", None),
        ("GET", "/v1/runs/run", None),
        ("DELETE", "/v1/runs/run", None),
        ("DELETE", "/v1/maps/small", None),
        ("GET", "/readyz", None),
    ]:
        assert api.ask(method, path, 503, json=body).json()["code"] == "store_unavailable"
    api.ask("GET", "/healthz", 200)
    text = api.ask("GET", "/metrics", 200).text
    assert "bucketline_store_errors_total 1" in text
    assert "bucketline_store_up 0.0" in text
    assert 'bucketline_store_seconds_count{verb="ping"} 1.0' in text  # the one that failed
    assert "bucketline_slowest_step{" not in text
    own_redis_server.start()
    until("it is ready", lambda: api.ask("GET", "/readyz").status_code == 200)
    assert 'bucketline_slowest_step{run="run"} 0.0' in api.ask("GET", "/metrics", 200).text
    assert api.cursors("run") == [(0, 2), (0, 0)]
    assert [run["run"] for run in api.get("/v1/runs")["runs"]] == ["run"]
    assert api.get("/v1/runs/run")["generation"] == 1
    assert api.next("run", 0, **ack)["cursor"] == {"epoch": 0, "step": 6}


def test_a_data_directory_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    status, out, errors = run_command("serve", "--port", "0", "--data-dir", str(tmp_path / "file" / "data"))
    assert (status, out) == (1, "")
    told = f"bucketline: the data directory {tmp_path}/file/data cannot be written: Not a directory. "
    assert (errors.startswith(told), errors.count("\n")) == (True, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="limits another process as Linux does")
def test_a_disk_that_takes_no_more(start: Callable[..., ServerProcess]) -> None:
    """A bound on the size of files stands for a full disk: the same error at the same place."""
    server = start()
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (300_000, 300_000))
    api = server.api()
    lease = put(api)
    rows = "".join(f"{i},512,512\n" for i in range(100_000))
    problem = api.put_csv("large", "id,width,height\n" + rows, 503)
    assert problem["code"] == "store_unavailable"
    assert [each["map"] for each in api.get("/v1/maps")["maps"]] == ["small"]
    assert list((server._data_dir / "uploads").iterdir()) == []
    assert api.ack("run", 0, lease, 0, 0)["cursor"] == {"epoch": 0, "step": 1}


def test_a_disk_that_is_full_of_plans(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "plans").mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=32k", "none", str(folder / "plans")]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    server = ServerProcess(folder)
    try:
        api = server.api()
        api.put_csv("small", SMALL, 201)
        api.put("/v1/runs/run", SPEC, 201)
        rows = "".join(f"{i},512,512\n" for i in range(20_000))
        api.put_csv("large", "id,width,height\n" + rows, 201)
        for _ in range(2):
            problem = api.put("/v1/runs/large", {**SPEC, "map": "large"}, 503)
            assert problem["code"] == "store_unavailable"
        assert [run["run"] for run in api.get("/v1/runs")["runs"]] == ["run"]
        assert len([path for path in (folder / "plans").iterdir() if path.is_dir()]) == 1
        assert api.ack("run", 0, api.lease("run", 0)["lease"], 0, 0)["cursor"] == {"epoch": 0, "step": 1}
    finally:
        server.close()
        subprocess.run(["umount", str(folder / "plans")], check=True)


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, out, errors = run_command("serve", "--port", str(port), "--data-dir", str(tmp_path))
    assert (status, out) == (1, "")
    assert errors.count("\n") == 1
    assert f"127.0.0.1:{port} cannot be bound: Address already in use" in errors


@pytest.mark.parametrize(
    ("flags", "environ", "word"),
    [
        (["--host", "0.0.0.0"], {}, "BUCKETLINE_WORKER_TOKEN"),
        (["--host", "0.0.0.0"], {"BUCKETLINE_WORKER_TOKEN": " , "}, "BUCKETLINE_WORKER_TOKEN"),
        (["--workers", "0"], {}, "workers"),
        (["--log-level", "loud"], {}, "log_level"),
        (["--port", "70000"], {}, "port"),
        (["--worker-token-file", "/none"], {}, "worker_token_file"),
        (["--operator-token-file", "/dev/null"], {}, "operator_token_file"),
        ([], {"BUCKETLINE_STORE_TIMEOUT_S": "soon"}, "store_timeout_s"),
    ],
)
def test_settings_that_are_wrong(
    tmp_path: Path, flags: list[str], environ: dict[str, str], word: str
) -> None:
    # on a port that is taken: a run that is not refused for its settings is refused for that, and ends
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = ["--port", str(taken.getsockname()[1])]
        arguments = ["serve", "--data-dir", str(tmp_path / "data"), *port, *flags]
        status, out, errors = run_here(*arguments, **environ)
    assert (status, out) == (1, "")
    assert "cannot be bound" not in errors
    assert errors.startswith("bucketline: ")
    assert errors.count("\n") == 1
    assert word in errors


def test_a_store_that_is_none(tmp_path: Path) -> None:
    """Found when it is opened, with the port bound: the process ends all the same."""
    flags = ["--port", "0", "--data-dir", str(tmp_path / "data"), "--store", "mysql://x"]
    status, out, errors = run_command("serve", *flags)
    assert (status, out, errors.count("\n")) == (1, "", 1)
    assert errors.startswith("bucketline: store")


def test_tokens_by_file_and_by_environment(start: Callable[..., ServerProcess], tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("o1\n\n o2 \n")
    environ = {"BUCKETLINE_WORKER_TOKEN": "w1,w2"}
    server = start("--operator-token-file", str(tmp_path / "tokens"), "--host", "0.0.0.0", environ=environ)
    for token, status in [("w1", 403), ("w2", 403), ("o1", 404), ("o2", 404), ("o3", 401), (None, 401)]:
        server.api(token).ask("DELETE", "/v1/runs/none", status)


def test_ended_kindly_it_finishes_what_was_begun(start: Callable[..., ServerProcess]) -> None:
    server = start()
    sent, go_on = threading.Event(), threading.Event()

    def slowly() -> Iterator[bytes]:
        yield SMALL[:100].encode()
        sent.set()
        go_on.wait(WAIT_S)
        yield SMALL[100:].encode()

    answers: list[httpx.Response] = []

    def upload() -> None:
        headers = {"Content-Type": "text/csv"}
        url = f"{server.url}/v1/maps/slow"
        answers.append(httpx.put(url, content=slowly(), headers=headers, timeout=WAIT_S, verify=False))

    uploading = threading.Thread(target=upload)
    uploading.start()
    sent.wait(WAIT_S)
    uploads = server._data_dir / "uploads"
    until("an upload has begun", lambda: any(uploads.iterdir()))
    server.process.send_signal(signal.SIGTERM)
    address = httpx.URL(server.url)
    until("it no longer listens", lambda: not listens(address.host, address.port or 0))
    go_on.set()
    uploading.join()
    assert answers[0].status_code == 201
    _, errors = server.process.communicate()
    assert (server.process.returncode, errors) == (0, "")
    server.start()
    assert [each["map"] for each in server.api().get("/v1/maps")["maps"]] == ["slow"]


def listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port)).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ended_idle_it_exits_0(start: Callable[..., ServerProcess], number: signal.Signals) -> None:
    server = start()
    server.api().ask("GET", "/readyz", 200)
    assert server._end(number) == (0, "")


def test_an_upload_that_breaks_off_leaves_nothing(start: Callable[..., ServerProcess]) -> None:
    server = start()
    api = server.api()
    address = httpx.URL(server.url)
    with socket.create_connection((address.host, address.port or 0)) as connection:
        head = b"PUT /v1/maps/m HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n"
        connection.sendall(head + b"Content-Length: 1000\r\n\r\nid,width")
        uploads = server._data_dir / "uploads"
        until("an upload has begun", lambda: any(uploads.iterdir()))
    until("nothing is left of it", lambda: not any(uploads.iterdir()))
    assert api.get("/v1/maps") == {"maps": []}
    assert server.stop() == (0, "")


@pytest.mark.parametrize("num_up", [pytest.param(0, marks=pytest.mark.exhaustive), 2])
def test_workers_end_with_a_parent_that_is_killed(start: Callable[..., ServerProcess], num_up: int) -> None:
    """Also where they have not begun to serve by then. All of them have its standard error open, and its port."""
    server = start("--workers", "2", "--log-level", "debug")
    assert server.process.stderr is not None
    while num_up:
        num_up -= "Application startup complete" in server.process.stderr.readline()
    server.kill()
    address = httpx.URL(server.url)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.host, address.port or 0))


def test_two_workers_share_one_port_and_their_counts(start: Callable[..., ServerProcess]) -> None:
    server = start("--workers", "2")
    api = server.api()
    lease = put(api)
    first = api.next("run", 0, lease)["batches"]
    for step in range(8):
        # a new connection each time, so that either worker may get it
        with httpx.Client(timeout=WAIT_S, verify=False) as client:
            body = {"lease": lease, "ack": {"epoch": 0, "step": step}}
            answer = client.post(f"{server.url}/v1/runs/run/ranks/0/next", json=body).json()
            assert answer["cursor"] == {"epoch": 0, "step": step + 1}
            assert answer["batches"] != first

    def metrics() -> str:
        return httpx.get(f"{server.url}/metrics", timeout=WAIT_S, verify=False).text

    for _ in range(4):
        text = metrics()
        assert 'bucketline_acks_total{run="run"} 8.0' in text
        assert 'bucketline_batches_served_total{run="run"} 9.0' in text
        assert 'bucketline_rank_lag_steps{run="run"} 8.0' in text
    api.ask("DELETE", "/v1/runs/run?force=true", 204)
    for _ in range(4):
        assert "bucketline_rank_lag_steps{" not in metrics()
    assert server.stop() == (0, "")


def test_nothing_listens_before_the_line_that_says_so(tmp_path: Path) -> None:
    process = popen("serve", "--port", "0", "--data-dir", str(tmp_path))
    assert process.stdout is not None
    lines = [process.stdout.readline(), process.stdout.readline()]
    process.terminate()
    process.communicate()
    assert lines[0].startswith("bucketline: listening on http://127.0.0.1:")
    assert "no token is set" in lines[1]
    assert process.returncode == 0
