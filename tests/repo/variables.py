"""Which variables of the environment the tests read, so that people can set them."""

from __future__ import annotations

import ast

from tests.repo.tree import dotted, modules, tree_of

#: Read, but not for people to set: conventions of the system, and what a test gives to a program that it starts.
NOT_FOR_PEOPLE = {
    "DATABASE_URL",
    "DJANGO_SETTINGS_MODULE",
    "ESTEIRA_LEFT",
    "HOME",
    "PATH",
    "RUN_DIR",
    "SKEW_SECONDS",
    "TZ",
}


def read_by_tests() -> set[str]:
    found = {name for path in modules("tests") for node in ast.walk(tree_of(path)) if (name := _read(node))}
    return found - NOT_FOR_PEOPLE


def _read(node: ast.AST) -> str:
    """Return NAME for `os.environ["NAME"]`, `os.environ.get("NAME")`, `os.getenv("NAME")` and `"NAME" in os.environ`."""
    found: ast.expr | None = None
    if isinstance(node, ast.Subscript) and dotted(node.value).endswith("environ"):
        found = node.slice
    elif isinstance(node, ast.Call) and dotted(node.func).endswith(("environ.get", "environ.pop", "getenv")):
        found = node.args[0]
    elif isinstance(node, ast.Compare) and dotted(node.comparators[0]).endswith("environ"):
        found = node.left
    return str(found.value) if isinstance(found, ast.Constant) else ""
