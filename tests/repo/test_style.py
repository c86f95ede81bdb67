"""Rules for every file: size, nothing of one machine, no secret, no unfinished part."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.repo.tree import ROOT, dotted, files, functions, modules, texts, tree_of

ME = Path("tests/repo/test_style.py")
PYTHON = ("esteira", "esteira_web", "jobs", "project", "tests", "bench")
MOST_LINES, MOST_LINES_OF_TESTS = 300, 450
LARGEST_FILE = 512 * 1024
BINARIES = {".gif", ".ico", ".jpg", ".jpeg", ".mo", ".pdf", ".png", ".ttf", ".webp", ".woff2"}

#: Sleeps whose length is the very thing that is tested.
PAUSES = {("tests/support/load.py", "outage")}

LEFT_FOR_LATER = re.compile(r"\b(TODO|FIXME|XXX|HACK|WIP)\b")
ONE_MACHINE = re.compile(r"(?<![\w.~-])/(home|Users|work|root)/[\w.-]+")
SECRETS = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_\w{30,}|\bxox[abpr]-\w{10,}"
    r"|://[^\s:/@{}<>$*'\"`]+:(?!password@|secret@)[^\s:/@{}<>$*'\"`…]{6,}@(?!example\.)[\w.]+"
)


def test_modules_are_short() -> None:
    long = {
        str(path): lines
        for path in modules(*PYTHON)
        if (lines := sum(1 for line in (ROOT / path).read_text().splitlines() if line.strip()))
        > (MOST_LINES_OF_TESTS if path.parts[0] == "tests" else MOST_LINES)
    }

    assert not long, f"one idea per module, at most {MOST_LINES} lines that are not blank: {long}"


def test_nothing_is_left_for_later_and_nothing_belongs_to_one_machine() -> None:
    found = [
        f"{path}:{number}: {match.group(0)}"
        for path, content in texts()
        if path not in (ME, Path("uv.lock"), Path("pyproject.toml"))
        for number, line in enumerate(content.splitlines(), 1)
        for pattern in (LEFT_FOR_LATER, ONE_MACHINE, SECRETS)
        if (match := pattern.search(line))
    ]

    assert not found, "\n".join(found)


def test_no_stray_binaries() -> None:
    texts_ = {path for path, _ in texts()}
    stray = [str(path) for path in files() if path not in texts_ and path.suffix not in BINARIES]
    large = [str(path) for path in files() if (ROOT / path).stat().st_size > LARGEST_FILE]

    assert not stray, f"binary files that nothing needs: {stray}"
    assert not large, f"larger than {LARGEST_FILE} bytes: {large}"


def test_tests_wait_for_conditions_instead_of_sleeping() -> None:
    """A sleep is allowed in a helper of tests/support that asks again and again, and in a job that is run."""
    sleeps = [
        f"{path}:{node.lineno} in {where or 'the module'}"
        for path in modules("tests")
        for where, node in functions(tree_of(path))
        if isinstance(node, ast.Call) and dotted(node.func).split(".")[-1] == "sleep"
        if (str(path), where) not in PAUSES and not _is_allowed(path, where, node)
    ]

    assert not sleeps, "wait for a condition with a deadline instead:\n" + "\n".join(sleeps)


def _is_allowed(path: Path, where: str, node: ast.Call) -> bool:
    tree = tree_of(path)
    inside = [
        outer for outer in ast.walk(tree) if outer is not node and any(n is node for n in ast.walk(outer))
    ]
    in_loop = any(isinstance(outer, ast.While) for outer in inside)
    in_job = any(
        isinstance(outer, ast.FunctionDef)
        and any(dotted(d).split(".")[0] == "job" for d in outer.decorator_list)
        for outer in inside
    )
    return in_job or (in_loop and path.parts[:2] == ("tests", "support"))
