"""What the documents say about the code is so: links, names, commands, transitions, settings."""

from __future__ import annotations

import ast
import importlib
import re
from functools import reduce
from pathlib import Path

import pytest
from django.apps import apps
from django.conf import global_settings

from esteira import celery_settings, states
from esteira.broker import publisher
from esteira.defaults import DEFAULTS, PREFIX
from esteira.job_types import decorator
from esteira.job_types.registry import DEFAULT_TIMEOUT_S, registry
from esteira.runner import heartbeat
from tests.repo.test_env_example import read_by_settings, shown
from tests.repo.test_package import targets
from tests.repo.tree import ROOT, dotted, files, text, tree_of
from tests.repo.variables import read_by_tests
from tests.support.documents import FENCE

DOCS = [path for path in files() if path.suffix == ".md"]
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
#: Files that appear when somebody runs or tries things.
MADE_BY_RUNNING = (
    ".esteira",
    ".venv",
    ".env",
    "backups",
    "dist/",
    "compose.override.yaml",
    "deploy/prod/secrets.env",
    "jobs.env",
    "jobs/greetings.py",
    "jobs/shop/",
)
SUFFIXES = (".env", ".example", ".lock", ".md", ".pid", ".py", ".toml", ".yaml")
OURS = ("esteira", "esteira_web", "jobs", "project", "tests")


def code(path: Path) -> list[str]:
    """Inline code of a document."""
    return CODE.findall(FENCE.sub("", text(path)))


def typed(path: Path) -> list[str]:
    """Lines that a reader types into a shell, and inline code that begins like one."""
    blocks = [block for kind, block in FENCE.findall(text(path)) if kind in ("sh", "console", "bash")]
    lines = [line.removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in [*lines, *code(path)] if line and not line.startswith("#")]


@pytest.mark.parametrize("doc", DOCS, ids=str)
def test_links_lead_somewhere(doc: Path) -> None:
    broken = []
    for target in LINK.findall(text(doc)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        there = (ROOT / doc).parent / name if name else ROOT / doc
        if not there.exists() or (anchor and anchor not in _anchors(there)):
            broken.append(target)

    assert not broken


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("doc", DOCS, ids=str)
def test_named_files_exist(doc: Path) -> None:
    known = {path.name for path in files()}
    missing = [
        name
        for name in code(doc)
        if (re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", name) and name.endswith((*SUFFIXES, "/"))) or _is_path(name)
        if not name.startswith(MADE_BY_RUNNING)
        if not (ROOT / name).exists() and not ((ROOT / doc).parent / name).exists() and name not in known
    ]

    assert not missing


@pytest.mark.parametrize("doc", DOCS, ids=str)
def test_drawings_name_files_that_exist(doc: Path) -> None:
    drawings = " ".join(block for kind, block in FENCE.findall(text(doc)) if not kind)
    named = set(re.findall(rf"\b(?:{'|'.join(OURS)})/[\w/]+\.py\b", drawings))

    assert not {name for name in named if not (ROOT / name).exists()}


def _is_path(name: str) -> bool:
    return re.fullmatch(rf"({'|'.join(OURS)})/[\w./-]+", name) is not None


@pytest.mark.parametrize("doc", DOCS, ids=str)
def test_dotted_names_exist(doc: Path) -> None:
    missing = [name for name in code(doc) if _is_dotted(name) and not _resolves(name)]

    assert not missing


def _is_dotted(name: str) -> bool:
    return re.fullmatch(rf"({'|'.join(OURS)})(\.\w+)+", name) is not None and not name.endswith(SUFFIXES)


def _resolves(name: str) -> bool:
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        try:
            reduce(getattr, parts[cut:], module)
        except AttributeError:
            return _is_job_type(name)
        return True
    return _is_job_type(name)


def _is_job_type(name: str) -> bool:
    return name.removeprefix("jobs.") in registry.names()


@pytest.mark.parametrize("doc", DOCS, ids=str)
def test_every_make_target_exists(doc: Path) -> None:
    named = {name for line in typed(doc) for name in re.findall(r"(?:^|[;&|] *)make ([a-z0-9-]+)", line)}

    assert named <= set(targets())


@pytest.mark.parametrize("doc", DOCS, ids=str)
def test_variables_are_shown_in_env_example(doc: Path) -> None:
    known = {each.name for each in shown()} | OTHER_NAMES
    named = {name for name in code(doc) if re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+", name)}

    assert not named - known - {f"{name}_FILE" for name in known}


#: Settings of Django and of Esteira in another project, and what only tests read.
OTHER_NAMES = {
    "DJANGO_SETTINGS_MODULE",
    *dir(global_settings),
    *(PREFIX + name for name in DEFAULTS),
    *read_by_tests(),
}

LIFECYCLE = Path("docs/lifecycle.md")
ARCHITECTURE = Path("docs/architecture.md")
OPERATIONS = Path("docs/operations.md")


def test_the_architecture_says_why_of_each_celery_setting() -> None:
    (update,) = [
        node
        for node in ast.walk(tree_of(Path("project/celery.py")))
        if isinstance(node, ast.Call) and dotted(node.func) == "app.conf.update"
    ]
    shared = [*celery_settings.needed(), *celery_settings.usual(), "broker_transport_options"]
    own = [str(keyword.arg) for keyword in update.keywords]
    told = re.findall(r"^\| (`.+`) \| .+ \|$", _section(ARCHITECTURE, "Celery's settings"), re.MULTILINE)

    assert sorted(CODE.findall(" ".join(told))) == sorted([*shared, *own])


def test_the_architecture_knows_every_table() -> None:
    told = re.findall(r"^\| (`.+`) \| .+ \|$", _section(ARCHITECTURE, "Tables"), re.MULTILINE)

    ours = {model.__name__ for model in apps.get_app_config("esteira").get_models()}
    assert set(CODE.findall(" ".join(told))) == ours


def test_the_architecture_states_the_limits_of_the_code() -> None:
    sizes = {"": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
    rows = re.findall(r"^\| .+ \| (\d+) ?(\w*) \| `(.+)` \|$", _section(ARCHITECTURE, "Limits"), re.MULTILINE)
    assert len(rows) >= 6

    for number, unit, name in rows:
        module, _, constant = name.rpartition(".")
        value = getattr(importlib.import_module(module), constant) if module else int(_defaults()[constant])
        assert value == int(number) * sizes[unit], name


def test_the_operations_page_lists_every_metric() -> None:
    rows = re.findall(r"^\| (`esteira_.+?`) \| .+ \|$", _section(OPERATIONS, "Metrics"), re.MULTILINE)
    listed = [re.sub("_(total|info)$", "", name) for name in CODE.findall(" ".join(rows))]
    made = {
        node.value
        for node in ast.walk(tree_of(Path("esteira_web/server/collector.py")))
        if isinstance(node, ast.Constant)
        if isinstance(node.value, str) and re.fullmatch("esteira_[a-z_]+", node.value)
    }

    assert sorted(listed) == sorted(made)


#: How the architecture names shares of a lease.
SHARES = {4: "a quarter", 8: "an eighth"}


def test_the_architecture_states_the_durations_of_the_code() -> None:
    section = _section(ARCHITECTURE, "Time")
    rows = re.findall(r"^\| (?!---)[^|]+ \| ([^|]+) \| ([^|]+) \|$", section, re.MULTILINE)
    named = [
        (said, name)
        for said, where in rows
        for name in CODE.findall(where)
        if name.strip("_").isupper() or "." in name
    ]
    assert len(named) >= 8

    for said, name in named:
        module, _, constant = name.rpartition(".")
        value = getattr(importlib.import_module(module), constant) if module else float(_defaults()[constant])
        expected = SHARES[int(value)] if constant.endswith("_PER_LEASE") else f"{value:g}"
        assert re.search(rf"(?<![\d.]){re.escape(expected)}(?![\d.])", said), (said, name, value)


def test_durations_stand_in_their_order() -> None:
    """What must end first is shorter; changing one default must not turn two around."""
    keeper, lease_s, drain = (float(_defaults()[f"{name}_SECONDS"]) for name in ("KEEPER", "LEASE", "DRAIN"))
    extension = lease_s / heartbeat.EXTENSIONS_PER_LEASE

    assert heartbeat.EXTENSIONS_PER_LEASE >= 2, "one missed extension must not lose a lease"
    assert heartbeat.LOCK_WAITS_PER_LEASE >= 2 * heartbeat.EXTENSIONS_PER_LEASE, (
        "a wait must not cost an extension"
    )
    assert publisher.FAST_TIMEOUT_S < keeper < extension
    assert heartbeat.BEAT_S < heartbeat.WAITING_MAX_S < extension
    assert lease_s < drain < decorator.ATOMIC_TIMEOUT_S < DEFAULT_TIMEOUT_S


def _defaults() -> dict[str, str]:
    return dict(read_by_settings())


def _section(path: Path, heading: str) -> str:
    return text(path).partition(f"\n## {heading}\n")[2].partition("\n## ")[0]


def test_the_diagram_draws_every_transition() -> None:
    arrows = re.findall(r"^ +(\S+) --> (\S+): ([T\d ]+)$", text(LIFECYCLE), re.MULTILINE)
    drawn: dict[str, set[tuple[str, str]]] = {}
    for source, target, codes in arrows:
        for one in codes.split():
            drawn.setdefault(one, set()).add((source, target))

    assert drawn == {
        t.code: {(source or "[*]", target) for source, target in t.arrows} for t in states.TRANSITIONS
    }


def test_the_table_says_what_the_states_say() -> None:
    rows = re.findall(r"^\| (T\d+) \| (.+?) \| (.+?) \| (.+?) \| (.+?) \|$", text(LIFECYCLE), re.MULTILINE)

    assert [row[:2] for row in rows] == [(t.code, t.name) for t in states.TRANSITIONS]
    for row in rows:
        assert CODE.findall(row[4]), f"{row[0]} names its statement"


def test_every_transition_says_what_a_death_means() -> None:
    section = _section(LIFECYCLE, "What if the process dies here?")

    rows = re.findall(r"^\| (T\d+) \| (.+?) \| (.+?) \|$", section, re.MULTILINE)

    assert [row[0] for row in rows] == [t.code for t in states.TRANSITIONS]


def test_every_stored_state_is_explained() -> None:
    rows = re.findall(r"^\| `(\w+)` \| .+ \|$", _section(LIFECYCLE, "States"), re.MULTILINE)

    assert rows == [str(state) for state in states.State]


def test_decisions_are_numbered_listed_and_complete() -> None:
    pages = sorted(p for p in files() if p.parent == Path("docs/adr") and p.name != "README.md")

    assert [int(p.name[:4]) for p in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        assert f"]({page.name})" in text("docs/adr/README.md"), page.name
        assert re.findall(r"^## (.+)$", text(page), re.MULTILINE) == ["Context", "Decision", "Consequences"]
        assert len(text(page).splitlines()) <= 60, page.name
