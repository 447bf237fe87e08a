"""What the manifests say, carried out: their Redis with its file and password, and a coordinator with the settings, the
Secrets and the probes of their pod."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis
from ruamel.yaml import YAML

from tests.redis_server import RedisServer
from tests.server import ServerProcess

from .test_deploy import DEPLOY, Resource, coordinator, of, render

PASSWORD = secrets.token_hex(32)


class DeployedRedis(RedisServer):
    """The StatefulSet's container, in a folder of this machine and on its own port."""

    def _arguments(self, port: int) -> list[str]:
        [config] = YAML(typ="safe").load_all((DEPLOY / "redis" / "kustomization.yaml").read_text())
        [file] = config["configMapGenerator"][0]["files"]
        [pod] = of(render(DEPLOY / "overlays" / "with-redis"), "StatefulSet")
        [container] = pod["spec"]["template"]["spec"]["containers"]
        assert container["command"] == ["redis-server"]
        copy = self.directory / file
        copy.write_text(
            (DEPLOY / "redis" / file).read_text().replace("dir /data\n", f"dir {self.directory}\n")
        )
        words = [str(copy) if each == f"/etc/redis/{file}" else each for each in container["args"]]
        [variable] = [
            each["name"]
            for each in container["env"]
            if each["valueFrom"]["secretKeyRef"]["key"] == "password"
        ]
        return [each.replace(f"$({variable})", PASSWORD) for each in words] + ["--port", str(port)]


@pytest.fixture(scope="module")
def store() -> Iterator[RedisServer]:
    with DeployedRedis() as server:
        yield server


@pytest.fixture
def resources() -> list[Resource]:
    return render(DEPLOY / "overlays" / "with-redis")


def test_redis_asks_for_its_password_and_keeps_what_it_acknowledged(store: RedisServer) -> None:
    with redis.Redis(port=store.port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    with redis.Redis(port=store.port, password=PASSWORD, decode_responses=True) as client:
        found = client.config_get("append*", "maxmemory*", "save")
    assert (found["appendonly"], found["appendfsync"], found["save"]) == ("yes", "always", "")
    assert (found["maxmemory-policy"], found["maxmemory"]) == ("noeviction", str(768 << 20))


def test_the_pods_environment_starts_a_coordinator_that_its_probes_find_ready(
    store: RedisServer, resources: list[Resource], tmp_path: Path
) -> None:
    container = coordinator(resources)
    [config] = [each["data"] for each in of(resources, "ConfigMap") if "BUCKETLINE_WORKERS" in each["data"]]
    environ = {
        **config,
        "BUCKETLINE_HOST": "0.0.0.0",
        "BUCKETLINE_STORE": f"redis://:{PASSWORD}@127.0.0.1:{store.port}/0",
    }
    tokens = {}
    for each in container["env"]:
        if each["name"].endswith("_TOKEN_FILE"):
            file = tmp_path / os.path.basename(each["value"])
            tokens[file.name] = secrets.token_hex(32)
            file.write_text(tokens[file.name])
            environ[each["name"]] = str(file)
    server = ServerProcess(tmp_path / "data", environ=environ)
    try:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert httpx.get(server.url + container[probe]["httpGet"]["path"]).status_code == 200, probe
        assert httpx.get(f"{server.url}/v1/runs").status_code == 401
        header = {"Authorization": f"Bearer {tokens['operator']}"}
        assert httpx.get(f"{server.url}/v1/runs", headers=header).status_code == 200
        store.stop()
        assert httpx.get(server.url + container["livenessProbe"]["httpGet"]["path"]).status_code == 200
        assert httpx.get(server.url + container["readinessProbe"]["httpGet"]["path"]).status_code == 503
        assert server.stop()[0] == 0
    finally:
        server.close()
