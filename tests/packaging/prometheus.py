"""Prometheus' own tools, its server as a process, and what an expression of its language asks for."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML

from tests.waiting import until

WAIT_S = 30

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[0-9][\w.]*|\[[^\]]*\]|[A-Za-z_:][\w:]*|[=!]~|[=!<>]=|\S')
_WORDS = {"and", "or", "unless", "offset", "bool"}
_OF_FUNCTIONS = {"(", "by", "without"}
_LABELS_FOLLOW = {"by", "without", "on", "ignoring", "group_left", "group_right"}


@dataclass
class Asked:
    """``selectors``: each a metric with its matchers as (label, operator, value). ``labels``: what is grouped by."""

    selectors: list[tuple[str, list[tuple[str, str, str]]]] = field(default_factory=list)
    labels: set[str] = field(default_factory=set)


def asked(expr: str) -> Asked:
    """What an expression contains; promtool and Prometheus check that it is well-formed."""
    tokens: list[str] = _TOKEN.findall(expr)
    found, at = Asked(), 0
    while at < len(tokens):
        token, after = tokens[at], "".join(tokens[at + 1 : at + 2])
        at += 1
        if token in _LABELS_FOLLOW:
            end = tokens.index(")", at)
            found.labels |= {*tokens[at + 1 : end]} - {","}
            at = end + 1
        elif re.match(r"[A-Za-z_:]", token) and token not in _WORDS and after not in _OF_FUNCTIONS:
            matchers = []
            if after == "{":
                end = tokens.index("}", at)
                inside = [each for each in tokens[at + 1 : end] if each != ","]
                matchers = [(inside[i], inside[i + 1], inside[i + 2][1:-1]) for i in range(0, len(inside), 3)]
                at = end + 1
            found.selectors.append((token, matchers))
    return found


def tool(name: str) -> str:
    """Its path; skips if it is not installed, except in CI."""
    path = shutil.which(name)
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no {name} is installed here")
    return path


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("promtool"), *arguments], text=True, capture_output=True)


class Prometheus:
    """The real one, with our configuration except for targets and shorter intervals."""

    def __init__(self, config: Path, target: str, folder: Path) -> None:
        yaml = YAML(typ="safe", pure=True)
        about = yaml.load(config)
        about["global"] = {
            "scrape_interval": "100ms",
            "scrape_timeout": "100ms",
            "evaluation_interval": "100ms",
        }
        about["rule_files"] = [str(config.parent / name) for name in about["rule_files"]]
        [job] = about["scrape_configs"]
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": [target]}]
        yaml.dump(about, folder / "prometheus.yml")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        self._log = (folder / "prometheus.log").open("w")
        self._process = subprocess.Popen(
            [
                tool("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'series'}",
                f"--web.listen-address={address}",
            ],
            stdout=self._log,
            stderr=self._log,
        )
        self._client = httpx.Client(
            base_url=f"http://{address}/api/v1", timeout=WAIT_S, verify=False, trust_env=False
        )
        until("Prometheus has started", self._is_up)

    def query(self, expr: str) -> list[dict[str, Any]]:
        return list(self._ask("/query", query=expr)["result"])

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self._ask("/rules")["groups"] for rule in group["rules"]]

    def close(self) -> None:
        self._client.close()
        self._process.terminate()
        self._process.wait()
        self._log.close()

    def _is_up(self) -> bool:
        assert self._process.poll() is None, Path(self._log.name).read_text()
        try:
            return self._client.get("/query", params={"query": "1"}).status_code == 200
        except httpx.ConnectError:
            return False

    def _ask(self, path: str, **params: str) -> dict[str, Any]:
        answer = self._client.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["data"])
