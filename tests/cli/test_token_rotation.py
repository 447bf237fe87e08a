"""Tokens changed under a running coordinator, as with nginx: write the file, send SIGHUP."""

from __future__ import annotations

import hmac
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from bucketline_service.http import Tokens, auth
from tests.server import ServerProcess, run_command

SECRETS = ("worker-s3cret-1", "worker-s3cret-2", "operator-s3cret-1", "operator-s3cret-2", "env-s3cret")


class Guarded:
    """A coordinator with a token file of each kind, and one more worker's token in its environment."""

    def __init__(self, folder: Path, workers: str) -> None:
        self.worker, self.operator = folder / "worker", folder / "operator"
        self.worker.write_text("worker-s3cret-1\n")
        self.operator.write_text("operator-s3cret-1\n")
        files = ["--worker-token-file", str(self.worker), "--operator-token-file", str(self.operator)]
        self.server = ServerProcess(
            folder / "data", "--workers", workers, "--log-level", "debug", *files,
            environ={"BUCKETLINE_WORKER_TOKEN": "env-s3cret"},
        )  # fmt: skip
        self.http = httpx.Client(base_url=self.server.url, timeout=30, verify=False, trust_env=False)
        self.bodies: list[str] = []
        self.num_workers = int(workers)
        self.wait_for("Application startup complete", self.num_workers)

    def ask(self, token: str, method: str = "GET", path: str = "/v1/runs") -> int:
        """On a new connection, so that any worker may get it."""
        headers = {"Authorization": f"Bearer {token}", "Connection": "close"}
        answer = self.http.request(method, path, headers=headers)
        self.bodies.append(answer.text + str(answer.headers))
        return answer.status_code

    def rotate(self) -> None:
        """Return when all processes have read the files: with several, their parent has too."""
        self.server.process.send_signal(signal.SIGHUP)
        self.wait_for('"event": "renewed"', self.num_workers + (self.num_workers > 1))

    def wait_for(self, words: str, num_lines: int = 1) -> str:
        """Read the log up to the last of so many lines that have these words in them, which is returned."""
        assert self.server.process.stderr is not None
        for line in self.server.process.stderr:
            self.bodies.append(line)
            num_lines -= words in line
            if num_lines == 0:
                return line
        raise AssertionError("".join(self.bodies))

    def close(self) -> str:
        """End it: all that it has ever said."""
        self.http.close()
        process = self.server.process
        assert process.stderr is not None
        process.terminate()
        said = process.stderr.read() + process.communicate()[0]
        self.server.close()
        return said + "".join(self.bodies)


def with_workers(num_workers: str, exhaustive: str) -> pytest.MarkDecorator:
    numbers = [num_workers, pytest.param(exhaustive, marks=pytest.mark.exhaustive)]
    return pytest.mark.parametrize("guarded", numbers, indirect=True)


@pytest.fixture
def guarded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Guarded]:
    guarded = Guarded(tmp_path, request.param)
    yield guarded
    said = guarded.close()
    assert said
    for secret in SECRETS:
        assert secret not in said


@with_workers("2", exhaustive="1")
def test_a_rotation_without_a_pause(guarded: Guarded) -> None:
    assert [guarded.ask(secret) for secret in SECRETS] == [200, 401, 200, 401, 200]
    guarded.worker.write_text("worker-s3cret-1\nworker-s3cret-2\n")
    guarded.operator.write_text("operator-s3cret-2\n\noperator-s3cret-1")
    guarded.rotate()
    assert [guarded.ask(secret) for secret in SECRETS] == [200] * 5
    guarded.worker.write_text("worker-s3cret-2\n")
    guarded.operator.write_text("operator-s3cret-2\n")
    guarded.rotate()
    assert [guarded.ask(secret) for secret in SECRETS] == [401, 200, 401, 200, 200]
    assert guarded.ask("worker-s3cret-2", "DELETE", "/v1/runs/none") == 403
    assert guarded.ask("operator-s3cret-2", "DELETE", "/v1/runs/none") == 404


@with_workers("1", exhaustive="2")
def test_a_file_that_can_not_be_used_changes_nothing(guarded: Guarded) -> None:
    """Above all, an empty one does not grant access. Nothing of the other file is used either."""
    guarded.operator.write_text("operator-s3cret-2\n")
    for content in (b"", b"\n \n", b"\xff\xfe", None):
        if content is None:
            guarded.worker.unlink()
        else:
            guarded.worker.write_bytes(content)
        guarded.server.process.send_signal(signal.SIGHUP)
        line = guarded.wait_for("not_renewed")
        assert "worker_token_file" in line
        assert '"level": "ERROR"' in line
        assert [guarded.ask(secret) for secret in SECRETS] == [200, 401, 200, 401, 200]
        assert guarded.http.get("/v1/runs").status_code == 401
    # once it is repaired, it counts
    guarded.worker.write_text("worker-s3cret-2\n")
    guarded.rotate()
    assert guarded.ask("operator-s3cret-2") == 200


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.exhaustive)])
def test_without_files_sighup_ends_it(tmp_path: Path, workers: str) -> None:
    """As it ends every program that has nothing to read again, for example when a terminal is closed."""
    server = ServerProcess(tmp_path, "--workers", workers)
    server.process.send_signal(signal.SIGHUP)
    server.process.communicate()
    assert server.process.returncode in (0, -signal.SIGHUP)
    server.close()


def test_every_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``hmac.compare_digest``, and always with all of them: timing shows neither a wrong letter nor a token's
    place."""
    compared: list[tuple[bytes, bytes]] = []
    real = hmac.compare_digest

    def noted(given: Any, known: Any) -> bool:
        compared.append((given, known))
        return real(given, known)

    monkeypatch.setattr(auth.hmac, "compare_digest", noted)
    tokens = Tokens(worker=frozenset({"w1", "w2"}), operator=frozenset({"o1", "o2"}))
    for given in ("w1", "o2", "w", ""):
        compared.clear()
        if given in ("w1", "o2"):
            auth.check_token(tokens, given.encode(), operator=False)
        else:
            with pytest.raises(auth.Unauthorized):
                auth.check_token(tokens, given.encode(), operator=False)
        assert sorted(compared) == [(given.encode(), known) for known in (b"o1", b"o2", b"w1", b"w2")]


def test_tokens_are_not_shown() -> None:
    assert "s3cret" not in repr(Tokens(frozenset(SECRETS), frozenset(SECRETS)))


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf o  \r\r\n\r\np\r\n",
        "\ufeffo\r\np\r\n".encode("utf-16-le"),
        pytest.param("\ufeffo\np".encode("utf-16-be"), marks=pytest.mark.exhaustive),
    ],
)
def test_files_of_other_systems_hold_their_tokens(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "operator"
    file.write_bytes(data)
    with closing(ServerProcess(tmp_path / "data", "--operator-token-file", str(file))) as server:
        server.api("o").ask("GET", "/v1/runs", 200)
        server.api("x").ask("GET", "/v1/runs", 401)


@pytest.mark.parametrize(
    "data",
    [
        b"\x00o\n",
        b"\xff",
        *(
            pytest.param(data, marks=pytest.mark.exhaustive)
            for data in ("o\u200b\n".encode(), "o\np".encode("utf-16-le"), b"\x1b[31mo")
        ),
    ],
)
def test_a_token_that_nobody_can_send_is_refused(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "operator"
    file.write_bytes(data)
    status, _, errors = run_command(
        "serve", "--operator-token-file", str(file), "--data-dir", str(tmp_path / "data")
    )
    assert status == 1
    assert "operator_token_file" in errors


def test_nor_is_one_of_the_environment(tmp_path: Path) -> None:
    environ = {"BUCKETLINE_WORKER_TOKEN": "s3cret,\ufeffs3cret"}
    status, _, errors = run_command("serve", "--data-dir", str(tmp_path / "data"), environ=environ)
    assert status == 1
    assert "worker_token: token 2" in errors
    assert "s3cret" not in errors
