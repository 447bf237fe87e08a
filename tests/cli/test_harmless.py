"""Names that others have chosen are shown on an operator's terminal, and never executed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from tests.cli.commands import Terminal, run_here
from tests.server import ServerProcess

EVIL = "\x1b]52;c;ZXZpbA==\x1b\\\x1b[31mRED\x9b2J\x07\x7f\u202egnp.\u2066\u2028\u200f\r\nrank 0 is fine"
"""Writes to the clipboard, colours, clears the screen, reverses the order of what follows, begins a new line."""
SHOWN = r"\x1b]52;c;ZXZpbA==\x1b\\x1b[31mRED\x9b2J\x07\x7f\u202egnp.\u2066\u2028\u200f\r\nrank 0 is fine"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """Its holder and its session are called ``NAME``, one of its ids is ``EVIL``."""
    server = ServerProcess(tmp_path_factory.mktemp("harmless"))
    api = server.api()
    quoted = EVIL.replace("\r\n", "")
    api.put_csv(
        "odd", "id,width,height\n" + f'"{quoted}",40,40\n' + "".join(f"{i}x,64,64\n" for i in range(8)), 201
    )
    spec = {"map": "odd", "world_size": 1, "batch_size": 1}
    api.put("/v1/runs/run", spec, 201)
    api.put("/v1/runs/pruning", {**spec, "assign": {"min_size": 50}}, 201)
    api.session("run", "NAME")
    api.lease("run", 0, "NAME")
    while '"holder":"NAME"' not in api.ask("GET", "/v1/events").text:
        pass  # told within a second
    yield server
    server.close()


@pytest.fixture(scope="module")
def url(server: ServerProcess) -> Iterator[str]:
    """Of a coordinator under an attacker's control, or of a release that accepted any name: ``NAME`` is ``EVIL``."""
    evil = json.dumps(EVIL)[1:-1].encode()
    client = httpx.Client(base_url=server.url, verify=False, trust_env=False)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer = client.get(self.path)
            body = answer.content.replace(b"NAME", evil)
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers["content-type"])
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{proxy.server_port}"
    proxy.shutdown()
    thread.join()
    proxy.server_close()
    client.close()


def hidden(text: str) -> set[str]:
    return {each for each in text if not each.isprintable()} - {"\n"}


@pytest.mark.parametrize(
    "command",
    [["run", "ranks", "run"], ["run", "show", "run"], ["events"], ["top", "run", "--once"]],
    ids=" ".join,
)
def test_names_are_shown_and_not_obeyed(url: str, command: list[str]) -> None:
    status, out, errors = run_here(*command, BUCKETLINE_URL=url)
    assert (status, errors) == (0, "")
    assert SHOWN.replace("\\", "") in out.replace("\\", "")  # an event's fields are quoted
    assert hidden(out) == set()
    assert "\nrank 0 is fine" not in out
    if command[0] == "top":
        return
    status, out, _ = run_here(*command, "--json", BUCKETLINE_URL=url)
    assert status == 0
    assert json.dumps(EVIL)[1:-1] in out  # scripts get what is there, in ASCII
    assert hidden(out) == set()


def test_so_are_ids(url: str) -> None:
    name = EVIL.replace("\r\n", "")
    status, out, errors = run_here("run", "explain", "run", name, BUCKETLINE_URL=url)
    assert (status, errors) == (0, "")
    assert hidden(out) == set()
    assert r"image \x1b]52;c" in out


def test_and_what_goes_wrong(url: str) -> None:
    status, _, errors = run_here("run", "show", f"NAME{EVIL}", BUCKETLINE_URL=url)
    assert status == 1
    assert hidden(errors) == set()
    status, _, errors = run_here("run", "explain", "run", "NAME", BUCKETLINE_URL=url)
    assert status == 1
    assert errors.startswith("bucketline: ")
    assert hidden(errors) == set()
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["run", "ranks", "run"], marks=pytest.mark.exhaustive),
        ["top", "run", "--interval-s", "0.1"],
        ["run", "ledger", "pruning"],
        pytest.param(["events", "--follow"], marks=pytest.mark.exhaustive),
    ],
    ids=" ".join,
)
def test_a_terminal_hears_nothing_of_it(url: str, command: list[str]) -> None:
    code = f"from bucketline_service import cli; cli.app({[*command, '--url', url]!r})"
    with Terminal("-c", code, columns=300) as terminal:
        terminal.until("RED")
        for order in ("\x1b]52", "\x1b[31mRED", "\x9b", "\x07", "\u202e", "\u2066", "\u2028"):
            assert order not in terminal.said
        assert r"\x1b]52;c;" in terminal.said


def test_a_file_has_what_is_there(url: str, tmp_path: Path) -> None:
    status, _, _ = run_here("run", "ledger", "pruning", "-o", str(tmp_path / "l.csv"), BUCKETLINE_URL=url)
    assert status == 0
    assert "\x1b]52;c" in (tmp_path / "l.csv").read_text(encoding="utf-8")


def test_the_log_is_ascii(tmp_path: Path) -> None:
    with closing(ServerProcess(tmp_path, "--log-level", "debug")) as server:
        server.api()._send("GET", "/v1/runs/%1b%5d52;c%c2%9b%e2%80%ae%0a")
        _, log = server.stop()
    assert r"\u001b]52" in log
    assert log.isascii()
    assert hidden(log) == set()
