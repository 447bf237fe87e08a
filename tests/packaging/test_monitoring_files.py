"""deploy/monitoring where it is used: the dashboard by its structure, the compose profile, the kustomize component."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import kubernetes_validate
from ruamel.yaml import YAML

from tests.packaging.test_container import services
from tests.packaging.test_deploy import KUBERNETES, of, render
from tests.packaging.test_monitoring import DASHBOARD, MONITORING, PANELS, ROOT, load


def test_the_dashboard_can_be_drawn() -> None:
    """By its structure: there is no Grafana here."""
    assert DASHBOARD["schemaVersion"] >= 39
    assert DASHBOARD["refresh"]
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert variables["run"]["datasource"] == source
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    for panel in PANELS:
        assert panel["datasource"] == source
        assert panel["fieldConfig"]["defaults"]["unit"]
        letters = [target["refId"] for target in panel["targets"]]
        assert letters == sorted(set(letters))
        for target in panel["targets"]:
            assert target["datasource"] == source
    used = {name for expr in map(json.dumps, PANELS) for name in re.findall(r"\$\{?([a-z]\w*)", expr)}
    assert used == set(variables)


def test_compose_puts_the_files_where_they_are_looked_for() -> None:
    prometheus, grafana = (services(ROOT)[name] for name in ("prometheus", "grafana"))
    for service in (prometheus, grafana):
        mounts = dict(mount.split(":")[:2] for mount in service["volumes"] if mount.startswith("./"))
        assert all((ROOT / source).exists() for source in mounts)
        assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", service["image"])
        assert [port.split(":")[0] for port in service["ports"]] == ["127.0.0.1"]
    at = dict(reversed(mount.split(":")[:2]) for mount in prometheus["volumes"])
    assert (
        f"--config.file={next(path for path in at if path.endswith('prometheus.yml'))}"
        in prometheus["command"]
    )
    [job] = load(MONITORING / "prometheus.yml")["scrape_configs"]
    [static], [found] = job["static_configs"], job["dns_sd_configs"]
    assert job["job_name"] == "bucketline"
    assert [*static["targets"], *(f"{name}:{found['port']}" for name in found["names"])] == [
        "coordinator:7700",
        "coordinator-b:7700",
    ]
    provisioning = MONITORING / "grafana" / "provisioning"
    [source] = load(provisioning / "datasources" / "prometheus.yml")["datasources"]
    port = prometheus["ports"][0].rsplit(":", 1)[1]
    assert source["url"] == f"http://prometheus:{port}"
    [provider] = load(provisioning / "dashboards" / "bucketline.yml")["providers"]
    [folder] = [path for path in mounts.values() if path.endswith("/bucketline.json")]
    assert folder == f"{provider['options']['path']}/bucketline.json"


def test_grafana_does_not_start_with_its_default_password(tmp_path: Path) -> None:
    grafana = services(ROOT)["grafana"]
    assert grafana["environment"]["GF_SECURITY_ADMIN_PASSWORD"] == "${BUCKETLINE_GRAFANA_PASSWORD:-}"
    started = tmp_path / "run.sh"
    started.write_text("#!/bin/sh\necho started\n")
    started.chmod(0o755)
    command = [part.replace("$$", "$").replace("/run.sh", str(started)) for part in grafana["entrypoint"]]
    for password, told in (("", "BUCKETLINE_GRAFANA_PASSWORD"), ("secret", "started")):
        environ = {"PATH": os.environ["PATH"], "GF_SECURITY_ADMIN_PASSWORD": password}
        done = subprocess.run(command, text=True, capture_output=True, env=environ)
        assert told in done.stdout + done.stderr
        assert (done.returncode == 0) is bool(password)


def test_the_kustomize_component_says_the_same(tmp_path: Path) -> None:
    deploy = os.path.relpath(ROOT / "deploy", tmp_path.resolve())
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "bucketline",
        "resources": [f"{deploy}/overlays/with-redis"],
        "components": [f"{deploy}/monitoring"],
    }
    YAML(typ="safe", pure=True).dump(overlay, tmp_path / "kustomization.yaml")
    rendered = render(tmp_path)
    for each in of(rendered, "NetworkPolicy", "ConfigMap"):
        assert kubernetes_validate.validate(each, KUBERNETES[-1], strict=True)
    [rule], [monitor] = of(rendered, "PrometheusRule"), of(rendered, "ServiceMonitor")
    assert rule["spec"] == load(MONITORING / "alerts.yml")
    [service] = [
        each
        for each in of(rendered, "Service")
        if monitor["spec"]["selector"]["matchLabels"].items() <= each["metadata"]["labels"].items()
    ]
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    assert service["metadata"]["name"] == "bucketline"  # which becomes the job's name
    assert {each["metadata"]["namespace"] for each in (rule, monitor, service)} == {"bucketline"}
    dashboards = [
        each
        for each in of(rendered, "ConfigMap")
        if "grafana_dashboard" in each["metadata"].get("labels", {})
    ]
    assert [json.loads(each["data"]["bucketline.json"]) for each in dashboards] == [DASHBOARD]
