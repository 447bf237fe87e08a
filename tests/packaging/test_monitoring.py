"""deploy/monitoring: alerts that fire when they should, a dashboard whose every panel shows something, and both at one
with what the service really exports and with the documentation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ruamel.yaml import YAML

from tests.checked import Api
from tests.packaging.prometheus import Prometheus, asked, promtool
from tests.server import ServerProcess
from tests.waiting import until
from tests.worlds import SMALL

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "grafana" / "bucketline.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
BY_PROMETHEUS = {"up", "ALERTS"}
OF_TARGETS = {"job", "instance"}

Exported = dict[str, list[dict[str, str]]]


def load(file: Path) -> Any:
    return YAML(typ="safe").load(file)


RULES = [rule for group in load(MONITORING / "alerts.yml")["groups"] for rule in group["rules"]]


def panel_exprs() -> dict[str, str]:
    """Of all panels, by title and letter, as Grafana would send them."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        .replace("$__rate_interval", "1m")
        .replace("$run", ".*")
        for panel in PANELS
        for target in panel["targets"]
    }


def exprs() -> dict[str, str]:
    """Of panels, alerts and documentation."""
    found = {**panel_exprs(), **{rule["alert"]: rule["expr"] for rule in RULES}}
    for fence in re.findall(
        r"(?s)```promql\n(.*?)```", (ROOT / "docs" / "reference" / "metrics.md").read_text()
    ):
        found |= dict(re.findall(r"(?m)^# (.*)\n(.*)$", fence))
    return found


class Traffic:
    """A service as a process, and everything that a job does to it."""

    def __init__(self, folder: Path) -> None:
        self.server = ServerProcess(folder / "data")
        self.api: Api = self.server.api()
        self.api.put_csv("small", SMALL, 201)
        self._num_runs = 0

    @property
    def target(self) -> str:
        return self.server.url.removeprefix("http://")

    def go_on(self) -> str:
        """A further run, with a start of its job, leases, batches, acknowledgements and a fence; its name."""
        run = f"run-{self._num_runs}"
        self._num_runs += 1
        spec = {"map": "small", "world_size": 2, "batch_size": 8, "seed": self._num_runs}
        self.api.put(f"/v1/runs/{run}", spec, 201)
        self.api.session(run, "start")
        leases = [self.api.lease(run, rank)["lease"] for rank in range(2)]
        for rank, lease in enumerate(leases):
            self.api.ack(run, rank, lease, 0, 2 * rank + 1)
        self.api.next(run, 0, leases[0] - (1 << 14), 409)
        report = {"rank": 0, "epoch": 0, "step": 0, "images": [{"id": 7, "reason": "unreadable"}]}
        self.api.ask("POST", f"/v1/runs/{run}/reports", 200, json=report)
        return run


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traffic]:
    found = Traffic(tmp_path_factory.mktemp("traffic"))
    found.go_on()
    yield found
    found.server.close()


@pytest.fixture(scope="module")
def families(traffic: Traffic) -> dict[tuple[str, str], list[dict[str, str]]]:
    """The labels of all samples, by name and type, as after some traffic; without a histogram's ``le``."""
    traffic.api.ask("GET", "/metrics", 200)  # the first is counted itself by the second
    found = {}
    for family in text_string_to_metric_families(traffic.api.ask("GET", "/metrics", 200).text):
        name = family.name + ("_total" if family.type == "counter" else "")
        found[name, family.type] = [sample.labels for sample in family.samples]
    return found


@pytest.fixture(scope="module")
def exported(families: dict[tuple[str, str], list[dict[str, str]]]) -> Exported:
    """The labels of all samples, by the name that they are asked by."""
    found: Exported = {}
    for (name, kind), samples in families.items():
        parts = [f"{name}_{part}" for part in ("bucket", "sum", "count")] if kind == "histogram" else [name]
        found |= {part: [s for s in samples if ("le" in s) == part.endswith("_bucket")] for part in parts}
    return found


def wrong(expr: str, exported: Exported) -> list[str]:
    """Names, labels and their values in an expression that the service does not export. Of ``status`` any value will
    do: most mean that something is wrong, which it is not here."""
    found, known = [], set(OF_TARGETS)
    for metric, matchers in asked(expr).selectors:
        if metric in BY_PROMETHEUS:
            continue
        samples = exported.get(metric, [])
        if not samples:
            found.append(metric)
            continue
        known |= set(samples[0])
        for label, how, value in matchers:
            if label not in {*samples[0], *OF_TARGETS}:
                found.append(f"{metric}{{{label}}}")
            elif how != "=" or label in {"status", *OF_TARGETS}:
                continue
            elif value not in {sample[label] for sample in samples}:
                found.append(f"{metric}{{{label}={value}}}")
    return found + sorted(asked(expr).labels - known)


def test_what_is_asked_for_is_exported(exported: Exported) -> None:
    found = exprs()
    assert len(found) == len(panel_exprs()) + len(RULES) + 7
    assert {name: wrong(expr, exported) for name, expr in found.items() if wrong(expr, exported)} == {}


@pytest.mark.parametrize(
    ("expr", "found"),
    [
        ('sum by (run) (rate(bucketline_ack_total{run=~"a,b}"}[5m]))', ["bucketline_ack_total", "run"]),
        ("max by (rank, job) (bucketline_rank_lag_steps)", ["rank"]),
        ('bucketline_rank_lag_steps{rank="1", job="x"} > 0', ["bucketline_rank_lag_steps{rank}"]),
        ('bucketline_store_seconds_sum{verb="get"}', ["bucketline_store_seconds_sum{verb=get}"]),
        ("bucketline_store_seconds and bucketline_store_up unless up", ["bucketline_store_seconds"]),
        (
            'sum without (le) (bucketline_acks_total{status!="x"} offset 1h) * 1e3',
            ["bucketline_acks_total{status}", "le"],
        ),
    ],
)
def test_it_would_be_noticed(expr: str, found: list[str], exported: Exported) -> None:
    assert wrong(expr, exported) == found


def test_the_documentation_has_every_metric(families: dict[tuple[str, str], list[dict[str, str]]]) -> None:
    """Both ways, with types and labels; each of ours has been set by the traffic."""
    told = {}
    for name, kind, cell in re.findall(
        r"(?m)^\| `(\w+)` \| (\w+) \|([^|]*)\|", (ROOT / "docs" / "reference" / "metrics.md").read_text()
    ):
        told[name, kind] = set(re.findall(r"`(\w+)`", cell))
    assert told == {key: set().union(*samples) - {"le"} for key, samples in families.items()}
    assert all(samples for samples in families.values())


@pytest.mark.parametrize(
    ("action", "what", "file"),
    [
        ("check", "config", "prometheus.yml"),
        # in make test one of them, below
        pytest.param("test", "rules", "alerts.test.yml", marks=pytest.mark.exhaustive),
    ],
)
def test_alerts_are_well_formed_and_do_what_their_tests_say(action: str, what: str, file: str) -> None:
    done = promtool(action, what, MONITORING / file)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested_both_ways() -> None:
    fires: dict[str, set[bool]] = {rule["alert"]: set() for rule in RULES}
    for test in load(MONITORING / "alerts.test.yml")["tests"]:
        for check in test["alert_rule_test"]:
            fires[check["alertname"]].add("exp_alerts" in check)
    assert set(map(frozenset, fires.values())) == {frozenset({True, False})}


def test_an_alert_does_what_its_test_says_or_promtool_notices(tmp_path: Path) -> None:
    tests = (MONITORING / "alerts.test.yml").read_text()
    one = re.sub(r"(?s)tests:.*(  - name: the store goes\n.*?)  - name: .*", r"tests:\n\1", tests)
    (tmp_path / "alerts.test.yml").write_text(one)
    for change, is_wrong in (("== 0", False), ("== 1", True)):
        rules = (MONITORING / "alerts.yml").read_text()
        rules = rules.replace("bucketline_store_up == 0", f"bucketline_store_up {change}")
        (tmp_path / "alerts.yml").write_text(rules)
        done = promtool("test", "rules", tmp_path / "alerts.test.yml")
        assert (done.returncode != 0) is is_wrong, done.stdout + done.stderr
        assert ("BucketlineStoreDown" in done.stdout + done.stderr) is is_wrong


def test_every_alert_has_its_section() -> None:
    text = (ROOT / "docs" / "how-to" / "alerts.md").read_text()
    sections = dict(re.findall(r"(?ms)^## (\w+)\n(.*?)(?=^## |\Z)", text))
    assert list(sections) == [rule["alert"] for rule in RULES]
    for section in sections.values():
        assert re.findall(r"(?m)^\*\*([\w ]+)\*\*", section) == ["Means", "Look at", "Do"]
    for rule in RULES:
        assert rule["annotations"]["runbook_url"] == f"docs/how-to/alerts.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_a_real_prometheus_finds_something_for_every_panel(traffic: Traffic, tmp_path: Path) -> None:
    prometheus = Prometheus(MONITORING / "prometheus.yml", traffic.target, tmp_path)
    try:
        until("something is scraped", lambda: prometheus.query("bucketline_store_up"))
        run = traffic.go_on()
        until("it scrapes again", lambda: prometheus.query(f'bucketline_leased_ranks{{run="{run}"}} == 2'))
        traffic.go_on()  # what was counted before is counted on
        for about, expr in panel_exprs().items():
            if 'status=~"5.."' in expr:
                assert prometheus.query(expr) == [], about  # and it is understood
            else:
                until(f"{about} shows something", lambda expr=expr: prometheus.query(expr))  # type: ignore[misc]
        rules = until(
            "rules are evaluated",
            lambda: [rule for rule in prometheus.rules() if rule["health"] != "unknown"][: len(RULES)],
        )
        assert {rule["name"]: rule.get("lastError", "") for rule in rules if rule["health"] != "ok"} == {}
        firing = prometheus.query('ALERTS{alertstate="firing"}')
        assert firing == []
    finally:
        prometheus.close()
