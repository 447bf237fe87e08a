"""``bucketline serve``: its settings, its hints and its logs."""

from __future__ import annotations

import inspect
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from bucketline_service import cli, event_kinds
from bucketline_service.errors import Invalid
from bucketline_service.maps.store import STAGING_LIFE_S
from bucketline_service.observability import logs
from bucketline_service.settings import NO_FLAGS, Settings
from tests.cli.commands import run_here
from tests.server import ServerProcess


def flags() -> set[str]:
    """Of a switch, that which turns it on."""
    found = set(re.findall(r"--[a-z][a-z-]+", run_here("serve", "--help")[1])) - {"--help"}
    return found - {each.replace("--", "--no-", 1) for each in found}


def test_every_setting_is_a_flag_but_the_tokens() -> None:
    assert set(inspect.signature(cli.serve).parameters) == set(Settings.model_fields) - NO_FLAGS
    assert flags() == {f"--{name.replace('_', '-')}" for name in set(Settings.model_fields) - NO_FLAGS}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("max_upload_bytes", "much", "must be an integer"),
        ("store_timeout_s", "0", "must be greater than 0"),
        ("port", "-1", "must be at least 0"),
        ("log_level", "loud", "must be 'debug', 'info', 'warning' or 'error'"),
    ],
)
def test_a_hint_names_what_is_there(
    name: str, value: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"BUCKETLINE_{name.upper()}", value)
    with pytest.raises(Invalid) as found:
        Settings.load()
    hinted = set(re.findall(r"--[a-z][a-z-]+", str(found.value)))
    assert hinted <= flags()
    assert f"BUCKETLINE_{name.upper()}" in str(found.value)
    assert str(found.value).startswith(f"{name}: {words}. ")


def test_no_hint_to_tell_a_token_on_the_command_line() -> None:
    with pytest.raises(Invalid) as found:
        Settings.load(worker_token=1)
    assert "Set BUCKETLINE_WORKER_TOKEN" in str(found.value)


def test_a_flag_counts_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUCKETLINE_STORE_TIMEOUT_S", "3")
    assert Settings.load(max_upload_bytes=5).store_timeout_s == 3
    assert Settings.load(store_timeout_s=4, max_upload_bytes=5).store_timeout_s == 4


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({}, "no token is set"),
        ({"BUCKETLINE_WORKER_TOKEN": "w"}, "BUCKETLINE_OPERATOR_TOKEN"),
        pytest.param({"BUCKETLINE_OPERATOR_TOKEN": "o"}, "", marks=pytest.mark.exhaustive),
        ({"BUCKETLINE_WORKER_TOKEN": "w", "BUCKETLINE_OPERATOR_TOKEN": "o"}, ""),
    ],
)
def test_it_says_what_the_tokens_do_not_allow(tmp_path: Path, environ: dict[str, str], words: str) -> None:
    server = ServerProcess(tmp_path, environ=environ)
    server.process.terminate()
    assert server.process.stdout is not None
    said = server.process.stdout.read()
    _, errors = server.process.communicate()
    server.close()
    assert (server.process.returncode, errors) == (0, "")
    assert words in said
    assert said.count("\n") == bool(words)


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("workers", ["1", pytest.param("2", marks=pytest.mark.exhaustive)])
def test_logs_are_one_object_a_line_with_fields(tmp_path: Path, workers: str) -> None:
    secrets = {"BUCKETLINE_WORKER_TOKEN": "secret-w", "BUCKETLINE_OPERATOR_TOKEN": "secret-o"}
    server = ServerProcess(tmp_path, "--log-level", "debug", "--workers", workers, environ=secrets)
    api = server.api("secret-o")
    api.put_csv("small", "id,width,height\n1,512,512\n", 201)
    api.ask("GET", "/v1/runs/none", 404)
    _, errors = server.stop()
    server.close()
    for secret in ("secret-", "512", "uthorization", "Bearer", "\\u001b", "color_message"):
        assert secret not in errors
    lines = lines_of(errors)
    for line in lines:
        assert {"time", "level", "logger", "message"} <= set(line)
    asked = [line for line in lines if line["logger"] == "bucketline.access"]
    assert [(line["method"], line["path"], line["status"]) for line in asked[-2:]] == [
        ("PUT", "/v1/maps/small", 201),
        ("GET", "/v1/runs/none", 404),
    ]
    assert all(set(line) == {*line_fields, "method", "path", "status", "ms"} for line in asked)
    assert all(isinstance(line["ms"], float) and line["message"] == "request" for line in asked)


line_fields = ("time", "level", "logger", "message")


def test_an_event_is_a_line_with_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    event_kinds.log("store_lost_state", run="r", rank=3, cursor=[0, 7])
    event_kinds.log("planning", progress=0.5)
    event_kinds.log("fenced", run="r")
    [record] = caplog.records
    line = json.loads(logs.formatter().format(record))
    assert line.pop("time")
    assert line == {
        "level": "WARNING",
        "logger": "bucketline",
        "message": "store_lost_state",
        "event": "store_lost_state",
        "run": "r",
        "rank": 3,
        "cursor": [0, 7],
    }


def test_what_is_left_of_uploads_is_swept_when_old(tmp_path: Path) -> None:
    """Left by a coordinator that was killed: a body may have 16 GiB."""
    uploads = tmp_path / "data" / "uploads"
    uploads.mkdir(parents=True)
    for name, age_s in (("upload-old", STAGING_LIFE_S + 60), ("upload-young", STAGING_LIFE_S - 3600)):
        (uploads / name).write_bytes(b"id,width")
        written_s = (uploads / name).stat().st_mtime - age_s
        os.utime(uploads / name, (written_s, written_s))
    ServerProcess(tmp_path / "data").close()
    assert [file.name for file in uploads.iterdir()] == ["upload-young"]
