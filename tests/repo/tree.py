"""The repository's own files, as text and as syntax trees."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
MADE_HERE = {".venv", ".git", ".esteira", "__pycache__", "node_modules"}


@cache
def files() -> tuple[Path, ...]:
    """Every file that is, or is about to be, under version control, relative to the root."""
    ask = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        names = subprocess.run(ask, capture_output=True, check=True, text=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive
        names = [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if not MADE_HERE & set(p.parts)]
    return tuple(sorted(Path(name) for name in set(names) if name and (ROOT / name).is_file()))


def text(path: Path | str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def texts() -> Iterator[tuple[Path, str]]:
    """Every file that is text."""
    for path in files():
        try:
            yield path, text(path)
        except UnicodeDecodeError:
            continue


def modules(*tops: str) -> list[Path]:
    """Our Python files below these folders, without migrations; those of another project are not ours."""
    ours = [p for p in files() if p.suffix == ".py" and p.parts[:2] != ("tests", "existing")]
    found = [p for p in ours if p.parts[0] in tops and "migrations" not in p.parts]
    assert found, f"no module below {tops}"
    return found


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(text(path), filename=str(path))


def functions(tree: ast.AST, above: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Yield every node with the dotted name of the function or class that it stands in."""
    for node in ast.iter_child_nodes(tree):
        name = above
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{above}.{node.name}".lstrip(".")
        yield name, node
        yield from functions(node, name)


def dotted(node: ast.AST) -> str:
    """Return `a.b.c` for a chain of names, calls in between left out; "" for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Call):
        return dotted(node.func)
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def strings(tree: ast.Module) -> Iterator[ast.Constant]:
    """Yield the string constants that are not docstrings."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node
