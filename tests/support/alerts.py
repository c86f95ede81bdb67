"""The alerts and the dashboard of k8s/monitoring, as the tests read them."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path("k8s/monitoring")


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((ROOT / FOLDER / "alerts.yaml").read_text())["spec"]["groups"]
    return list(group["rules"])


def dashboard() -> dict[str, Any]:
    return dict(json.loads((ROOT / FOLDER / "dashboard.json").read_text()))


def expressions() -> list[str]:
    """Every expression of the alerts and of the dashboard."""
    board = dashboard()
    shown = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    marked = [mark["expr"] for mark in board["annotations"]["list"]]
    asked = [variable["query"] for variable in board["templating"]["list"] if variable["type"] == "query"]
    return [*(rule["expr"] for rule in rules()), *shown, *marked, *asked]


def metrics_used() -> set[str]:
    """The names of ours in all of them."""
    return {name for expr in expressions() for name in re.findall(r"\besteira_\w+", expr)}
