""".env.example says every variable that the code reads, with its default, in the order of the settings."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from project.local.options import Options
from tests.repo.compose_files import VARIABLES
from tests.repo.tree import dotted, functions, modules, strings, text, tree_of

SETTINGS, OPTIONS, PARTS, SERVERS = (
    Path("project/settings.py"),
    Path("project/local/options.py"),
    Path("project/local/parts.py"),
    Path("project/local/servers.py"),
)
HEADING = re.compile(r"^# --- (.+?) -{3,}$", re.MULTILINE)
MARKED = re.compile(r"\[([RCK-]{3})\] (.+)")
VARIABLE = re.compile(r"^#?([A-Z][A-Z0-9_]*)=(.*)$")
#: Read from the environment, but nobody's to set in .env: conventions of the system, and what our own parts hand on.
NOT_OURS = {
    "PATH",
    "NO_COLOR",
    "DJANGO_SETTINGS_MODULE",
    "DJANGO_ALLOW_ASYNC_UNSAFE",
    "PYTHONWARNINGS",
    "DEV_PASSWORD",
    "BACKUPS",
    "PGHOST",
    "CI",
    "KUBERNETES_SERVICE_HOST",
    "KUBERNETES_SERVICE_PORT",
}
#: What compose sets for itself if nobody else does: an address made of its ports, a secret, a build's name for itself,
#: images' names made of the project's.
OTHERWISE = {"WEB_URL", "FLOWER_URL", "REDIS_URL", "VERSION", "IMAGE_PREFIX"}

#: What compose itself reads, and no file of ours.
COMPOSE_S_OWN = {"COMPOSE_PROFILES"}


@dataclass(frozen=True)
class Shown:
    """A variable as .env.example shows it, with who reads it: R is `make run`, C is compose, K is Kubernetes."""

    section: str
    name: str
    default: str
    readers: str
    why: str


def shown() -> list[Shown]:
    section, why, found = "", "", []
    for line in text(".env.example").splitlines():
        if match := HEADING.match(line):
            section, why = match[1], ""
        elif match := VARIABLE.match(line):
            marked = MARKED.fullmatch(why)
            assert marked, f"{match[1]}: begin with who reads it, such as [RCK]"
            found.append(Shown(section, match[1], match[2], marked[1], marked[2]))
            why = ""
        elif line.startswith("# "):
            why = f"{why} {line[2:]}".strip()
    return found


def read_by_settings() -> list[tuple[str, str]]:
    """Name and default of each variable, in order."""
    calls = [n for n in ast.walk(tree_of(SETTINGS)) if isinstance(n, ast.Call) and _reads(n)]
    calls.sort(key=lambda call: (call.lineno, call.col_offset))
    return [(call.args[0].value, _as_text(_default(call))) for call in calls]  # type: ignore[attr-defined]


def _reads(call: ast.Call) -> bool:
    return dotted(call.func).startswith("env.") and bool(call.args) and isinstance(call.args[0], ast.Constant)


def _default(call: ast.Call) -> Any:
    given = [k.value for k in call.keywords if k.arg == "default"]
    assert given, f"{SETTINGS}:{call.lineno}: every variable has a default, if only an empty one"
    (expression,) = given
    names = {"str": str, "BASE_DIR": Path(), "ESTEIRA_DATA_DIR": Path(".esteira")}
    return eval(compile(ast.Expression(expression), str(SETTINGS), "eval"), {"__builtins__": {}}, names)


def _as_text(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def test_every_setting_is_shown_in_its_order_with_its_default() -> None:
    expected = read_by_settings()
    names = [name for name, _ in expected]

    found = [(each.name, each.default) for each in shown() if each.name in names]

    assert found == expected


def test_headings_are_those_of_the_settings_and_then_those_that_only_starters_read() -> None:
    """A heading of the settings under which no variable is read is not one of the example."""
    read = {heading_of(name) for name, _ in read_by_settings()}
    expected = [heading for heading in HEADING.findall(text(SETTINGS)) if heading in read]

    found = HEADING.findall(text(".env.example"))

    assert found == [*expected, "make run", "Flower", "Compose"]


def heading_of(name: str) -> str:
    """Return the heading of the settings above the place where a variable is read."""
    source = text(SETTINGS)
    return str(HEADING.findall(source[: source.index(f'"{name}"')])[-1])


def test_every_setting_stands_under_its_heading() -> None:
    sections = {each.name: each.section for each in shown()}

    wrong = [name for name, _ in read_by_settings() if sections[name] != heading_of(name)]

    assert not wrong


def test_make_run_s_own_variables_are_shown_with_their_defaults() -> None:
    in_settings = dict(read_by_settings())
    options = [n for n in ast.walk(tree_of(OPTIONS)) if isinstance(n, ast.Call) and dotted(n.func) == "text"]
    expected = {ast.literal_eval(n.args[0]): ast.literal_eval(n.args[1]) for n in options if n.args[1:2] and
                isinstance(n.args[1], ast.Constant)}  # fmt: skip

    found = {each.name: each.default for each in shown()}

    assert {ast.literal_eval(n.args[0]) for n in options} <= set(found)
    for name, default in expected.items():
        assert name in in_settings or found[name] == default, name


def test_flower_s_variables_are_those_that_make_run_or_its_image_reads() -> None:
    sources = [PARTS, *modules("services")]
    names = {str(s.value) for path in sources for s in strings(tree_of(path))}
    expected = {
        name for name in names if re.fullmatch(r"FLOWER_[A-Z_]+", name) and not name.endswith("_FILE")
    }

    found = {each.name for each in shown() if each.name.startswith("FLOWER_")}

    assert found == expected


def test_every_variable_of_compose_is_shown_with_its_default() -> None:
    found = {each.name: each.default for each in shown()}

    assert set(VARIABLES) <= set(found)
    for name, defaults in VARIABLES.items():
        if name not in OTHERWISE:
            assert defaults == {found[name]}, name


def test_what_only_compose_reads_stands_under_its_heading() -> None:
    others = {each.name for each in shown() if each.section != "Compose"}

    found = {each.name for each in shown() if each.section == "Compose"}

    assert found == (set(VARIABLES) - others) | COMPOSE_S_OWN


def test_nothing_is_shown_that_nobody_reads() -> None:
    read = {name for name, _ in read_by_settings()} | {str(s.value) for s in strings(tree_of(OPTIONS))}

    strangers = [
        each.name
        for each in shown()
        if each.name not in read | set(VARIABLES) | COMPOSE_S_OWN and not each.name.startswith("FLOWER_")
    ]

    assert not strangers


def test_each_variable_says_who_reads_it() -> None:
    read = {"R": read_by_make_run(), "C": set(VARIABLES) | COMPOSE_S_OWN, "K": read_in_kubernetes()}
    expected = {
        each.name: "".join(letter if each.name in names else "-" for letter, names in read.items())
        for each in shown()
    }

    assert {each.name: each.readers for each in shown()} == expected


def read_by_make_run() -> set[str]:
    """What the settings and the options take, but for what `make run` gives its processes whatever somebody says."""
    options = {str(s.value) for s in strings(tree_of(OPTIONS)) if str(s.value).isupper()}
    given = {
        key.value
        for path, function in ((PARTS, "environment"), (SERVERS, "choose"))
        for where, node in functions(tree_of(path))
        if where == function and isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and not _is_the_option(str(key.value), value)
    }
    return ({name for name, _ in read_by_settings()} | options) - given


def _is_the_option(name: str, value: ast.expr) -> bool:
    """Whether the value is that of the option of this name, however it is written."""
    named = {dotted(node) for node in ast.walk(value) if isinstance(node, ast.Attribute)}
    known = {f"options.{one.name}" for one in fields(Options)}
    return f"options.{name.lower()}" in named & known


def read_in_kubernetes() -> set[str]:
    secrets = re.findall(r"^#([a-z_]+)=", text("deploy/prod/secrets.env.example"), re.MULTILINE)
    return set(yaml.safe_load(text("k8s/config.yaml"))["data"]) | {name.upper() for name in secrets}


def test_each_variable_says_why_and_none_is_set() -> None:
    silent = [each.name for each in shown() if len(each.why) < 20]
    set_ = [line for line in text(".env.example").splitlines() if line and not line.startswith("#")]

    assert not silent
    assert not set_, "a copy of .env.example must change nothing"


def test_the_environment_is_read_in_the_settings_only() -> None:
    names = {each.name for each in shown()}
    known = names | {f"{name}_FILE" for name in names} | NOT_OURS
    found = {
        f"{path}: {name}"
        for path in modules("esteira", "esteira_web", "jobs", "project", "services")
        for node in ast.walk(tree_of(path))
        if (name := _environ_name(node)) and name not in known
    }

    assert not found, "read it in project/settings.py, or a part's own folder, and show it in .env.example"


def _environ_name(node: ast.AST) -> str:
    """Return NAME for os.environ["NAME"], os.environ.get("NAME") and os.getenv("NAME")."""
    if isinstance(node, ast.Subscript) and dotted(node.value).endswith("environ"):
        return str(node.slice.value) if isinstance(node.slice, ast.Constant) else ""
    reads = isinstance(node, ast.Call) and dotted(node.func).endswith(("environ.get", "getenv"))
    if reads and isinstance(first := node.args[0], ast.Constant):  # type: ignore[attr-defined]
        return str(first.value)
    return ""
