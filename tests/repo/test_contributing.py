"""CONTRIBUTING.md and the Makefile say how tests are chosen: their words, marks, files and variables are those of the suite."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator

import pytest

from tests.repo.tree import ROOT, dotted, functions, modules, text, tree_of
from tests.repo.variables import read_by_tests

PAGE, MAKEFILE = "CONTRIBUTING.md", "Makefile"
WORDS = [(page, word) for page in (PAGE, MAKEFILE) for word in re.findall(r"-k (\w+)", text(page))]
MARKS = [
    (page, given or quoted)
    for page in (PAGE, MAKEFILE)
    for quoted, given in re.findall(r"-m (?:[\"']([a-z_ ]+)[\"']|([a-z_]+))", text(page))
    if (given or quoted) not in ("pytest", "bench", "ruff", "mypy", "pip", "venv", "project")
]


def names_that_k_sees() -> Iterator[str]:
    for path in modules("tests"):
        if path.name.startswith("test_"):
            yield path.name
            yield from (
                name.rpartition(".")[2]
                for name, node in functions(tree_of(path))
                if isinstance(node, ast.FunctionDef | ast.ClassDef)
                and name.rpartition(".")[2].startswith(("test_", "Test"))
            )


def test_the_page_lists_every_variable_that_tests_read() -> None:
    listed = re.findall(r"^\| `([A-Z_]+)` \|", text(PAGE), re.MULTILINE)

    assert len(set(listed)) == len(listed)
    assert set(listed) == read_by_tests()


def test_targets_set_only_variables_that_tests_read() -> None:
    tests = re.findall(
        r"^(?:test|quick|fuzz|chaos|kills|chaos-compose|chaos-k8s): export (\w+)",
        text(MAKEFILE),
        re.MULTILINE,
    )

    assert tests
    assert all(f"| `{name}` |" in text(PAGE) for name in tests)


@pytest.mark.parametrize(("page", "word"), WORDS)
def test_a_word_that_is_given_as_an_example_is_found_in_no_longer_one(page: str, word: str) -> None:
    found = [name for name in names_that_k_sees() if word in name.lower()]
    inside = [name for name in found if re.search(rf"[a-z]{word}", name.lower())]

    assert found and not inside, f"{page}: -k {word} also selects {inside}"


@pytest.mark.parametrize(("page", "expression"), MARKS)
def test_marks_that_select_are_declared(page: str, expression: str) -> None:
    declared = tomllib.loads(text("pyproject.toml"))["tool"]["pytest"]["ini_options"]["markers"]

    known = {each.partition(":")[0] for each in declared}

    assert set(expression.split()) - {"not", "and", "or"} <= known, f"{page}: -m {expression}"


def test_every_mark_is_carried_by_a_test() -> None:
    declared = tomllib.loads(text("pyproject.toml"))["tool"]["pytest"]["ini_options"]["markers"]
    by_folder = set(re.findall(r'mark="(\w+)"', text("tests/conftest.py")))
    carried = {
        node.attr
        for path in modules("tests")
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and dotted(node).startswith("pytest.mark.")
    }

    assert {each.partition(":")[0] for each in declared} <= by_folder | carried


def test_each_test_that_is_named_is_there() -> None:
    named = re.findall(r"`[^`]*?(tests/[\w/]+\.py)(?:::(\w+))?`", text(PAGE))

    assert named
    for path, test in named:
        assert f"def {test}(" in text(path) if test else (ROOT / path).is_file(), f"{path}::{test}"
