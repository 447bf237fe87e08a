"""The manifests in deploy/: rendered by the real kustomize, checked against Kubernetes' schemas, and at one with the
image, the settings and the documentation."""

import functools
import os
import re
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from packaging.version import Version
from ruamel.yaml import YAML

from bucketline_service.server import GRACEFUL_S
from bucketline_service.settings import Settings
from bucketline_service.version import VERSION

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
OVERLAYS = sorted(each.name for each in (DEPLOY / "overlays").iterdir())
KUBERNETES = ["1.28", "1.37"]
Resource = dict[str, Any]


@functools.cache
def render(folder: Path) -> list[Resource]:
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    kubectl = shutil.which("kubectl", path=path)
    if kubectl is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no kubectl is installed here")
    done = subprocess.run([kubectl, "kustomize", folder], text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return list(YAML(typ="safe").load_all(done.stdout))


@pytest.fixture(params=OVERLAYS)
def rendered(request: pytest.FixtureRequest) -> list[Resource]:
    return render(DEPLOY / "overlays" / request.param)


def of(resources: list[Resource], *kinds: str) -> list[Resource]:
    return [each for each in resources if each["kind"] in kinds]


def workloads(resources: list[Resource]) -> list[Resource]:
    return of(resources, "Deployment", "StatefulSet")


def pods(resources: list[Resource]) -> list[Resource]:
    return [each["spec"]["template"]["spec"] for each in workloads(resources)]


def coordinator(resources: list[Resource]) -> Resource:
    [container] = of(resources, "Deployment")[0]["spec"]["template"]["spec"]["containers"]
    return dict(container)


def values(tree: Any, key: str) -> list[Any]:
    """All that is called ``key``, however deep."""
    if isinstance(tree, list):
        return [found for each in tree for found in values(each, key)]
    if not isinstance(tree, dict):
        return []
    here = [tree[key]] if key in tree else []
    return here + [found for each in tree.values() for found in values(each, key)]


def documented_secrets() -> dict[str, set[str]]:
    """The Secrets that docs/how-to/kubernetes.md has the operator make, each with its keys."""
    text = (ROOT / "docs" / "how-to" / "kubernetes.md").read_text()
    lines = re.findall(r"(?m)create secret generic ([\w-]+) (.*)$", text)
    return {name: set(re.findall(r"--from-file=(\w+)", rest)) for name, rest in lines}


@pytest.mark.parametrize(
    "version", [pytest.param(KUBERNETES[0], marks=pytest.mark.exhaustive), KUBERNETES[-1]]
)
def test_everything_fits_the_schemas(rendered: list[Resource], version: str) -> None:
    for each in rendered:
        assert kubernetes_validate.validate(each, version, strict=True) == version


def test_the_schemas_would_notice() -> None:
    [deployment] = of(render(DEPLOY / "overlays" / OVERLAYS[0]), "Deployment")
    spec = deployment["spec"]
    for change in [{"replicas": "two"}, {"replica": 2}, {"selector": {"matchlabels": {}}}]:
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate({**deployment, "spec": {**spec, **change}}, "1.37", strict=True)


@pytest.mark.parametrize("folder", ["base", "redis", "namespace"])
def test_every_file_is_in_use(folder: str) -> None:
    [listed] = YAML(typ="safe").load_all((DEPLOY / folder / "kustomization.yaml").read_text())
    used = {*listed["resources"], *(file for each in values(listed, "files") for file in each)}
    assert {file.name for file in (DEPLOY / folder).iterdir()} == used | {"kustomization.yaml"}


def test_what_pods_refer_to_is_there(rendered: list[Resource]) -> None:
    """The Secrets, which nobody keeps in git, are those that the documentation makes."""
    known = {(each["kind"], each["metadata"]["name"]) for each in rendered}
    secrets = documented_secrets()
    for pod in pods(rendered):
        optional = {each["name"] for each in values(pod, "secretRef") if each["optional"]}
        assert all(
            f"`{name}`" in (ROOT / "docs" / "how-to" / "kubernetes.md").read_text() for name in optional
        )
        wanted = [("ConfigMap", each["name"]) for each in values(pod, "configMapRef")]
        wanted += [("ConfigMap", each["name"]) for each in values(pod, "configMap")]
        wanted += [("PersistentVolumeClaim", name) for name in values(pod, "claimName")]
        wanted += [("ServiceAccount", name) for name in values(pod, "serviceAccountName")]
        assert set(wanted) <= known
        for key in values(pod, "secretKeyRef"):
            assert key["key"] in secrets[key["name"]]
        assert set(values(pod, "secretName")) <= set(secrets)
    tokens = {each["value"] for each in coordinator(rendered)["env"] if each["name"].endswith("_TOKEN_FILE")}
    [mounted] = [
        each["mountPath"] for each in coordinator(rendered)["volumeMounts"] if each["name"] == "tokens"
    ]
    assert tokens == {f"{mounted}/{key}" for key in secrets["bucketline-tokens"]}


def test_selectors_and_ports_meet_their_pods(rendered: list[Resource]) -> None:
    for each in of(rendered, "Service", "PodDisruptionBudget", "NetworkPolicy"):
        spec = each["spec"]
        selector = spec.get("podSelector", spec.get("selector"))
        selector = selector.get("matchLabels", selector)
        [template] = [
            found["spec"]["template"]
            for found in workloads(rendered)
            if selector.items() <= found["spec"]["template"]["metadata"]["labels"].items()
        ]
        named = {port["name"]: port["containerPort"] for port in values(template, "ports")[0]}
        targets = values(spec, "targetPort")
        targets += [port["port"] for ports in values(spec.get("ingress", []), "ports") for port in ports]
        assert set(targets) <= set(named)
        assert [named[each] for each in values(spec, "targetPort")] == values(spec.get("ports", []), "port")
    for each in workloads(rendered):
        labels = each["spec"]["template"]["metadata"]["labels"]
        spread = values(each["spec"]["template"], "labelSelector")
        for selector in [each["spec"]["selector"], *spread]:
            assert selector["matchLabels"].items() <= labels.items()


def test_pods_have_no_rights(rendered: list[Resource]) -> None:
    [namespace] = of(rendered, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for pod in pods(rendered):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"]["memory"]
        assert not set(pod) & {"hostNetwork", "hostPID", "hostIPC", "initContainers"}
        assert not values(pod, "hostPath")


def test_every_pod_has_a_network_policy_and_all_probes(rendered: list[Resource]) -> None:
    held = [each["spec"]["podSelector"]["matchLabels"] for each in of(rendered, "NetworkPolicy")]
    for each in workloads(rendered):
        assert each["spec"]["selector"]["matchLabels"] in held
        [container] = each["spec"]["template"]["spec"]["containers"]
        assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)


def test_no_service_sets_the_servers_settings(rendered: list[Resource]) -> None:
    """Kubernetes would set BUCKETLINE_PORT=tcp://… in every pod, for the Service of that name."""
    for pod in pods(rendered):
        assert pod["enableServiceLinks"] is False


def test_the_pod_is_the_images(rendered: list[Resource]) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    [pod] = [each["spec"]["template"]["spec"] for each in of(rendered, "Deployment")]
    security = pod["securityContext"]
    assert re.findall(r"(?m)^USER (.*)$", dockerfile) == [f"{security['runAsUser']}:{security['runAsGroup']}"]
    [port] = coordinator(rendered)["ports"]
    assert re.findall(r"(?m)^EXPOSE (.*)$", dockerfile) == [str(port["containerPort"])]
    mounts = {each["name"]: each["mountPath"] for each in coordinator(rendered)["volumeMounts"]}
    assert re.findall(r"(?m)^VOLUME (.*)$", dockerfile) == [mounts["data"]]
    assert mounts["tmp"] == "/tmp"
    assert re.findall(r'(?m)^CMD \["(.*)"\]$', dockerfile) == coordinator(rendered)["args"]
    assert coordinator(rendered)["image"].endswith(f"/bucketline:{VERSION}")


def test_every_setting_is_one_of_the_servers(rendered: list[Resource]) -> None:
    [config] = [each["data"] for each in of(rendered, "ConfigMap") if "BUCKETLINE_WORKERS" in each["data"]]
    names = {*config, *(each["name"] for each in coordinator(rendered)["env"])}
    known = {f"BUCKETLINE_{name.upper()}" for name in Settings.model_fields}
    assert names <= known
    assert Settings.load(
        **{name.removeprefix("BUCKETLINE_").lower(): value for name, value in config.items()}
    )


def test_times_fit_each_other(rendered: list[Resource]) -> None:
    """What was begun can be finished, and a late store is reported by the server, not by a probe's own timeout."""
    [pod] = [each["spec"]["template"]["spec"] for each in of(rendered, "Deployment")]
    sleep, seconds = coordinator(rendered)["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep"
    assert pod["terminationGracePeriodSeconds"] > GRACEFUL_S + int(seconds)
    assert (
        coordinator(rendered)["readinessProbe"]["timeoutSeconds"]
        > Settings.model_fields["store_timeout_s"].default
    )


def test_a_drain_leaves_one_replica(rendered: list[Resource]) -> None:
    [deployment], [budget] = of(rendered, "Deployment"), of(rendered, "PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] < deployment["spec"]["replicas"]
    assert deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_the_documented_url_is_the_redis_that_is_deployed() -> None:
    [service] = [
        each
        for each in of(render(DEPLOY / "overlays" / "with-redis"), "Service")
        if each["spec"].get("clusterIP")
    ]
    address = f"@{service['metadata']['name']}:{service['spec']['ports'][0]['port']}/0"
    text = (ROOT / "docs" / "how-to" / "kubernetes.md").read_text()
    assert f'echo -n "redis://:$(cat password){address}" > url' in text
    assert f"http://bucketline.{service['metadata']['namespace']}:7700" in text


def test_with_an_object_store_no_volume_is_shared() -> None:
    resources = render(DEPLOY / "overlays" / "object-store")
    assert not of(resources, "PersistentVolumeClaim")
    [pod] = [each["spec"]["template"]["spec"] for each in of(resources, "Deployment")]
    assert {each["name"]: "emptyDir" in each for each in pod["volumes"]} == {
        "data": True,
        "tmp": True,
        "tokens": False,
    }
    [config] = [each["data"] for each in of(resources, "ConfigMap") if "BUCKETLINE_MAP_ROOT" in each["data"]]
    assert config["BUCKETLINE_WORKERS"] == "1"
    [policy] = [each for each in of(resources, "NetworkPolicy") if each["metadata"]["name"] == "bucketline"]
    assert {"protocol": "TCP", "port": 443} in [
        port for each in policy["spec"]["egress"] for port in each["ports"]
    ]


def test_documented_versions_are_those_that_are_tested() -> None:
    [oldest] = re.findall(
        r"for Kubernetes ([\d.]+) and newer", (ROOT / "docs" / "how-to" / "kubernetes.md").read_text()
    )
    assert min(KUBERNETES, key=Version) == oldest


@pytest.mark.parametrize(("fence", "name"), [("haproxy", "haproxy.cfg"), ("nginx", "nginx.conf")])
def test_the_documented_proxies_are_the_files(fence: str, name: str) -> None:
    [text] = re.findall(
        rf"(?s)```{fence}\n(.*?)```", (ROOT / "docs" / "how-to" / "load-balancer.md").read_text()
    )
    assert text == (DEPLOY / name).read_text()
