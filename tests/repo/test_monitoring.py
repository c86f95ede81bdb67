"""The content of k8s/monitoring: eleven alerts with a remedy, a dashboard, and the scrapers that may read."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.repo.manifests import build, copied, overlay
from tests.repo.tree import ROOT, text
from tests.support.alerts import FOLDER, dashboard, expressions, rules

GUNICORN = ROOT / "services" / "web" / "gunicorn.conf.py"
RUNBOOKS = "https://github.com/example/esteira/blob/main/docs/operations.md"
PANEL_KINDS = {"stat", "timeseries"}


def objects() -> list[dict[str, Any]]:
    names = yaml.safe_load(text(FOLDER / "kustomization.yaml"))["resources"]
    return [one for name in names for one in yaml.safe_load_all(text(FOLDER / name))]


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = [one for one in objects() if one["kind"] == kind]
    return found


def service() -> dict[str, Any]:
    (found,) = [one for one in yaml.safe_load_all(text(Path("k8s/web.yaml"))) if one["kind"] == "Service"]
    return dict(found)


def test_each_alert_says_what_is_wrong_what_to_look_at_and_where_more_is_written() -> None:
    headings = re.findall(r"^### (\w+)$", text("docs/operations.md"), re.MULTILINE)

    assert len(rules()) == 11
    assert [rule["alert"] for rule in rules()] == headings
    for rule in rules():
        told = rule["annotations"]
        assert set(told) == {"summary", "description", "runbook_url"}
        assert "ook at" in told["description"], rule["alert"]
        assert told["runbook_url"] == f"{RUNBOOKS}#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("critical", "warning")


def test_one_line_says_where_all_runbooks_are() -> None:
    with copied() as here:
        overlay_file = here / "deploy/prod/kustomization.yaml"
        overlay_file.write_text(
            re.sub(r"(?m)^#(  - \.\./\.\./k8s/monitoring )", r"\1", overlay_file.read_text())
        )
        file = here / "k8s/monitoring/kustomization.yaml"
        changed = file.read_text().replace(f"url={RUNBOOKS}", "url=https://wiki.example.com/esteira")
        assert changed != file.read_text()
        file.write_text(changed)
        built = build(overlay_file.parent)

    (made,) = [one for one in built if one["kind"] == "PrometheusRule"]
    found = [rule["annotations"]["runbook_url"] for rule in made["spec"]["groups"][0]["rules"]]
    assert found == [f"https://wiki.example.com/esteira#{rule['alert'].lower()}" for rule in rules()]
    assert not [one for one in built if "runbooks" in one["metadata"]["name"]]


def test_what_every_pod_says_alike_is_not_added_up() -> None:
    """All pods tell the same numbers, so each expression looks at one of them before it adds anything up."""
    for expr in expressions():
        adding = re.findall(r"\b(?:sum|count)\b(?: by \([^)]*\))? ?\((?!max by|max\()(\w+)", expr)
        assert set(adding) <= {"up", "esteira_build_info"}, expr


def test_what_is_scraped_is_the_service_s_port_for_metrics() -> None:
    monitor = of_kind("ServiceMonitor")["spec"]
    labels, ports = service()["metadata"]["labels"], service()["spec"]["ports"]

    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert labels[monitor["jobLabel"]] == "esteira"
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {port["name"] for port in ports}
    assert endpoint["path"] == "/metrics"


@pytest.mark.parametrize(
    ("given", "bound"),
    [
        (None, ["0.0.0.0:8000", "0.0.0.0:9090"]),
        ("9191", ["0.0.0.0:8000", "0.0.0.0:9191"]),
        ("0", ["0.0.0.0:8000"]),
    ],
)
def test_web_has_a_second_port_unless_it_is_told_none(
    monkeypatch: pytest.MonkeyPatch, given: str | None, bound: list[str]
) -> None:
    monkeypatch.delenv("METRICS_PORT", raising=False)
    if given is not None:
        monkeypatch.setenv("METRICS_PORT", given)

    assert runpy.run_path(str(GUNICORN))["bind"] == bound


def test_the_port_of_the_pages_is_refused_for_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METRICS_PORT", "8000")

    with pytest.raises(SystemExit, match=r"METRICS_PORT=8000 is the port of the pages"):
        runpy.run_path(str(GUNICORN))


def test_prometheus_alone_reaches_the_port_for_metrics() -> None:
    (rule,) = of_kind("NetworkPolicy")["spec"]["ingress"]
    settings = yaml.safe_load(text(Path("k8s/config.yaml")))["data"]

    assert rule["ports"] == [{"protocol": "TCP", "port": int(settings["METRICS_PORT"])}]
    assert rule["from"] == [
        {
            "namespaceSelector": {},
            "podSelector": {"matchLabels": {"app.kubernetes.io/name": "prometheus"}},
        }
    ]
    others = [
        port["port"]
        for one in yaml.safe_load_all(text(Path("k8s/network.yaml")))
        for open_ in one["spec"].get("ingress", [])
        for port in open_["ports"]
    ]
    assert 9090 not in others


def test_the_dashboard_is_found_by_its_label_and_fits_together() -> None:
    generated = yaml.safe_load(text(FOLDER / "kustomization.yaml"))["configMapGenerator"]
    (made,) = [one for one in generated if one["name"] == "esteira-dashboard"]
    panels = dashboard()["panels"]

    assert made["options"]["labels"]["grafana_dashboard"] == "1"
    assert made["options"]["disableNameSuffixHash"] is True
    assert {panel["type"] for panel in panels} <= PANEL_KINDS
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < 24


def test_the_sidecar_finds_the_dashboard_in_what_is_applied() -> None:
    found = [one for one in overlay("prod", "monitoring") if one["metadata"]["name"] == "esteira-dashboard"]

    (board,) = found
    assert json.loads(board["data"]["esteira.json"]) == dashboard()
    assert board["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    if not shutil.which("promtool") and not os.environ.get("CI"):
        pytest.skip("promtool (of Prometheus) is not here, so no alert is fired")
    (tmp_path / "rules.yaml").write_text(json.dumps(of_kind("PrometheusRule")["spec"]))
    shutil.copyfile(ROOT / "tests" / "support" / "alerts.yaml", tmp_path / "cases.yaml")

    done = subprocess.run(
        ["promtool", "test", "rules", "cases.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
