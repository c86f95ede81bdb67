"""The way of one job, as the architecture lists it, leads from file to file in the code, and enters none twice."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from tests.repo.tree import dotted, functions, tree_of
from tests.support.way import Step, processes, steps


def test_the_list_is_whole() -> None:
    web, pool_process = processes()

    assert [step.number for step in steps()] == list(range(1, len(web) + len(pool_process) + 1))
    assert min(len(web), len(pool_process)) >= 5


def test_no_file_is_entered_twice() -> None:
    assert not [file for file, times in Counter(step.file for step in steps()).items() if times > 1]


@pytest.mark.parametrize("step", steps(), ids=lambda step: step.file)
def test_each_step_is_a_function_of_its_file(step: Step) -> None:
    there = {
        name
        for name, node in functions(tree_of(Path(step.file)))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }

    assert step.function in there


@pytest.mark.parametrize(
    ("before", "step"),
    [(process[:n], process[n]) for process in processes() for n in range(1, len(process))],
    ids=lambda one: one.file if isinstance(one, Step) else "",
)
def test_each_step_is_called_by_an_earlier_file_of_its_process(before: list[Step], step: Step) -> None:
    assert [one.file for one in before if _uses(one, step)], f"no earlier file uses {step.function}"


def _uses(earlier: Step, step: Step) -> bool:
    """Whether a file imports another one, and names the function by which that one is entered."""
    tree = tree_of(Path(earlier.file))
    name = step.function.rpartition(".")[2]
    used = {
        node.id if isinstance(node, ast.Name) else node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Name | ast.Attribute)
    }
    return step.module in _imported(tree) and name in used


def _imported(tree: ast.Module) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{one.name}" for one in node.names)}
    return found


def test_the_message_between_the_processes_has_the_name_of_the_job_type() -> None:
    """A hint's task is its type, and the pool process begins with the task of that name."""
    web, pool_process = processes()
    written = [
        dotted(value)
        for node in ast.walk(tree_of(Path(web[-1].file)))
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "task"
    ]
    registered = [
        keyword.value
        for node in ast.walk(tree_of(Path(pool_process[0].file)))
        if isinstance(node, ast.Call) and node.args and dotted(node.args[0]) == pool_process[0].function
        for keyword in node.keywords
        if keyword.arg == "name"
    ]

    assert sorted(written) == ["DOOR", "self.type"]  # the first is for adopted Celery tasks
    assert [dotted(name).rpartition(".")[2] for name in registered] == ["name"]
