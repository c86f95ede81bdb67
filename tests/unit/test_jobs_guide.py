"""The code in docs/adding-a-job.md runs as it stands, its own tests included."""

from __future__ import annotations

import importlib.util
import inspect
import re
import sys
from pathlib import Path

import pytest

from esteira import job
from esteira.job_types.registry import JobType, registry
from esteira.job_types.request import OPTIONS
from jobs import demo, email, images, reports

GUIDE = Path(__file__).resolve().parent.parent.parent / "docs" / "adding-a-job.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def guide(tmp_path, job_types):
    """All of the page's code, as one module."""
    file = tmp_path / "guide.py"
    file.write_text("\n".join(BLOCKS))
    spec = importlib.util.spec_from_file_location("guide", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["guide"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["guide"]


def test_every_block_of_code_declares_what_it_says(guide):
    declared = {kind.name for kind in vars(guide).values() if isinstance(kind, JobType)}

    assert declared == {
        f"guide.{name}"
        for name in ("greet", "import_orders", "charge", "add_group", "add_groups", "count_digits")
    }
    assert registry.get("guide.add_group").atomic
    assert registry.get("guide.add_groups").alone


def test_the_guides_own_tests_pass(guide):
    tests = [test for name, test in vars(guide).items() if name.startswith("test_")]

    assert len(tests) == 3
    for test in tests:
        test()


def test_the_guides_pool_of_processes_counts(guide):
    assert guide.count_digits.run(exponents=[1, 10, 100]) == [1, 4, 31]


def test_the_guide_names_every_type_that_ships():
    told = set(re.findall(r"^\| `(\w+\.\w+)` \|", _section("Included job types"), re.MULTILINE))

    ours = {
        kind.name
        for module in (demo, email, images, reports)
        for kind in vars(module).values()
        if isinstance(kind, JobType)
    }
    assert told == ours


def test_the_guide_names_every_option_that_a_beginner_needs():
    told = set(re.findall(r"^\| `(\w+)=", _section("Options"), re.MULTILINE))

    assert set(inspect.signature(job).parameters) - told == {"fn", "lease", "alone", "grace"}


def test_the_guide_names_every_option_of_a_submit_and_its_meaning():
    told = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", _section("Submitting"), re.MULTILINE))

    assert told == {option.name: option.meaning for option in OPTIONS}


def _section(heading: str) -> str:
    return GUIDE.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
