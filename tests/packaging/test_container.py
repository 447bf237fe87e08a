"""The Dockerfile and the compose file: well-formed, and as careful as operators expect."""

import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

SCRIPTS = Path(sysconfig.get_path("scripts"))


def hadolint(file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPTS / "hadolint", "--no-color", file], text=True, capture_output=True)


def compose_schema(file: Path) -> subprocess.CompletedProcess[str]:
    command = [SCRIPTS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", file]
    return subprocess.run(command, text=True, capture_output=True)


def test_dockerfile_passes_hadolint(root: Path) -> None:
    done = hadolint(root / "Dockerfile")
    assert done.returncode == 0, done.stdout


def test_hadolint_would_notice(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python\nRUN cd /src && pip install httpx\n")
    done = hadolint(bad)
    assert done.returncode != 0
    assert "DL3042" in done.stdout


def test_the_base_is_an_argument_and_the_last_stage_is_nobody(root: Path) -> None:
    text = (root / "Dockerfile").read_text()
    assert "\nARG BASE_IMAGE=python:3.12-slim\n" in text
    stages = re.split(r"(?m)^FROM ", text)[1:]
    assert [stage.split()[0] for stage in stages] == ["${BASE_IMAGE}", "${BASE_IMAGE}"]
    assert re.findall(r"(?m)^USER (.*)$", stages[-1]) == ["10001:10001"]
    assert re.findall(r"(?m)^HEALTHCHECK", stages[-1])


def test_compose_file_fits_the_schema(root: Path) -> None:
    done = compose_schema(root / "docker-compose.yml")
    assert done.returncode == 0, done.stdout


def test_the_schema_would_notice(tmp_path: Path) -> None:
    bad = tmp_path / "docker-compose.yml"
    bad.write_text("services:\n  redis:\n    imagine: redis:7-alpine\n")
    assert compose_schema(bad).returncode != 0


def services(root: Path) -> dict[str, dict[str, Any]]:
    loaded: dict[str, dict[str, Any]] = YAML(typ="safe").load(root / "docker-compose.yml")["services"]
    return loaded


@pytest.mark.parametrize("name", ["coordinator", "coordinator-b", "proxy", "redis", "prometheus", "grafana"])
def test_services_can_write_to_their_volume_only(root: Path, name: str) -> None:
    service = services(root)[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["volumes"]


def test_each_service_has_one_health_check(root: Path) -> None:
    """The coordinator's is its image's, which uses the configured port."""
    for name in ("redis", "proxy", "prometheus", "grafana"):
        assert services(root)[name]["healthcheck"]["test"]
    for name in ("coordinator", "coordinator-b"):
        assert "healthcheck" not in services(root)[name]
    [check] = re.findall(r"(?m)^HEALTHCHECK(?:.*\\\n)*.*$", (root / "Dockerfile").read_text())
    assert "/readyz" in check
    assert "BUCKETLINE_PORT" in check


def test_redis_keeps_every_acknowledged_cursor(root: Path) -> None:
    command = services(root)["redis"]["command"]
    assert command[command.index("--appendonly") + 1] == "yes"
    assert command[command.index("--appendfsync") + 1] == "always"
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"
    assert "ports" not in services(root)["redis"]


def test_the_coordinator_waits_for_redis_and_will_not_start_without_tokens(root: Path) -> None:
    coordinator = services(root)["coordinator"]
    assert coordinator["depends_on"] == {"redis": {"condition": "service_healthy"}}
    required = {name for name, value in coordinator["environment"].items() if f"${{{name}:?" in str(value)}
    assert required == {"BUCKETLINE_WORKER_TOKEN", "BUCKETLINE_OPERATOR_TOKEN"}


def test_without_its_profile_nothing_is_beside_the_coordinator_and_redis(root: Path) -> None:
    profiles = {name: service.get("profiles") for name, service in services(root).items()}
    assert profiles == {
        "coordinator": None,
        "redis": None,
        "coordinator-b": ["replicas"],
        "proxy": ["replicas"],
        "prometheus": ["monitoring"],
        "grafana": ["monitoring"],
    }


def test_replicas_differ_in_their_names_only(root: Path) -> None:
    """One store, one folder of maps, the same tokens: what several replicas need."""
    first, second = services(root)["coordinator"], services(root)["coordinator-b"]
    apart = {"ports", "networks", "profiles"}
    assert {key: first[key] for key in first.keys() - apart} == {
        key: second[key] for key in second.keys() - apart
    }
    assert "ports" not in second


def test_the_proxy_finds_the_replicas_by_the_names_of_its_file(root: Path) -> None:
    """deploy/haproxy.cfg is what docs/how-to/load-balancer.md has, and the proxy's own tests run."""
    proxy = services(root)["proxy"]
    assert proxy["volumes"] == ["./deploy/haproxy.cfg:/usr/local/etc/haproxy/haproxy.cfg:ro"]
    text = (root / "deploy" / "haproxy.cfg").read_text()
    networks = [services(root)[name]["networks"] for name in ("coordinator", "coordinator-b")]
    aliases = [alias for each in networks for alias in each["front"]["aliases"]]
    assert re.findall(r"(?m)^ +server \w+ (\w+):7700$", text) == aliases
    [port] = re.findall(r"bind \*:(\d+)", text)
    assert proxy["networks"] == ["front"]
    assert [each.rsplit(":", 1)[1] for each in proxy["ports"]] == [port]
    assert f"http://127.0.0.1:{port}/" in proxy["healthcheck"]["test"][1]


def test_the_example_environment_names_every_variable_of_the_compose_file(root: Path) -> None:
    used = set(re.findall(r"\$\{(\w+)", (root / "docker-compose.yml").read_text()))
    named = set(re.findall(r"(?m)^#?(\w+)=", (root / ".env.example").read_text()))
    assert used == named


def test_the_image_check_names_every_tool_that_is_missing(root: Path, tmp_path: Path) -> None:
    """Where neither they nor apt are installed. It has functions of the names of some."""
    for tool in ("bash", "dirname"):
        found = shutil.which(tool)
        assert found is not None
        (tmp_path / tool).symlink_to(found)
    (tmp_path / "id").write_text("#!/bin/sh\necho 0\n")  # as root
    (tmp_path / "id").chmod(0o755)
    script = [tmp_path / "bash", root / "scripts" / "image-check"]
    done = subprocess.run(script, text=True, capture_output=True, env={"PATH": str(tmp_path)})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "image-check: please install: buildah debootstrap\n"
