"""Loading job packages: what is public is imported, and no process pays for a library that one job type needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from esteira.job_types import discover
from tests.support.forks import ROOT, environment

HEAVY = ("reportlab", "xlsxwriter")


def test_a_private_module_is_left_to_those_that_import_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("shop", "shop/_large", "shop/orders"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").touch()
    for private in ("shop/_large/chart.py", "shop/_chart.py", "shop/orders/_chart.py"):
        (tmp_path / private).write_text("raise AssertionError('nobody asked for it')\n")
    (tmp_path / "shop/orders/paid.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    discover.load(["shop"])

    loaded = {name for name in sys.modules if name.startswith("shop")}
    for name in loaded:
        monkeypatch.delitem(sys.modules, name)
    assert {"shop.orders.paid"} < loaded <= {"shop", "shop.orders", "shop.orders.paid", "shop._large"}


def test_a_start_loads_no_library_that_only_reports_need() -> None:
    program = (
        f"import sys, django; django.setup(); print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    env = environment(JOB_PACKAGES="jobs")

    done = subprocess.run(
        [sys.executable, "-c", program], env=env, cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"
