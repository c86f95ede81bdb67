"""Every block of lines for a shell is run as it is printed by a test, or stands in a list with the reason why not."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import pytest

from tests.repo.test_docs import DOCS
from tests.repo.tree import dotted, functions, modules, text, tree_of
from tests.support.documents import MAY_DIFFER, NOT_RUN, Block, block, blocks

SHELLS = ("sh", "bash", "shell", "console")


@dataclass(frozen=True, kw_only=True)
class Taken:
    """A call of `printed`, and the test or the fixture that makes it."""

    by: str
    page: str
    begins: str
    differs: set[str] = field(default_factory=set)


def taken_in(tree: ast.Module, where: str) -> Iterator[Taken]:
    """Yield the calls of a module; one whose page or beginning is no constant is an error."""
    for name, node in functions(tree):
        if isinstance(node, ast.Call) and dotted(node.func).rpartition(".")[2] == "printed":
            words = [each.value if isinstance(each, ast.Constant) else None for each in node.args[:2]]
            given = node.args[2] if len(node.args) > 2 else ast.Dict(keys=[], values=[])
            keys = given.keys if isinstance(given, ast.Dict) else [None]
            differs = {each.value if isinstance(each, ast.Constant) else None for each in keys}
            assert not node.keywords and name, (
                f"{where}: {ast.unparse(node)} stands in a test, and has no keywords"
            )
            assert all(isinstance(word, str) for word in [*words, *differs]), (
                f"{where}: write out {ast.unparse(node)}"
            )
            yield Taken(by=f"{where}::{name}", page=words[0], begins=words[1], differs=differs)  # type: ignore[arg-type]


@cache
def taken() -> tuple[Taken, ...]:
    some = [path for path in modules("tests") if "printed(" in text(path)]
    return tuple(one for path in some for one in taken_in(tree_of(path), str(path)))


def run_blocks() -> dict[Block, list[str]]:
    """Return who runs which block."""
    found: dict[Block, list[str]] = {}
    for one in taken():
        found.setdefault(block(one.page, one.begins), []).append(one.by)
    return found


def test_every_block_is_run_as_printed_or_has_a_reason_not_to_be() -> None:
    known = {*run_blocks(), *(block(*one) for one in NOT_RUN)}

    neither = [one.name for doc in DOCS for one in blocks(str(doc)) if one not in known]

    how = "Run it in a test by `printed(page, beginning)`, or say in NOT_RUN of tests/support/documents.py why not"
    assert not neither, how


def test_what_is_run_needs_no_reason_not_to_be() -> None:
    both = {one.name: run_blocks()[one] for one in {block(*one) for one in NOT_RUN} & set(run_blocks())}

    assert not both


def test_what_is_registered_is_printed() -> None:
    """`block` fails where a page has no such block, or two; here for tests, too, that do not run everywhere."""
    for page, begins in [(one.page, one.begins) for one in taken()] + list(NOT_RUN):
        block(page, begins)
    for one in taken():
        assert one.differs <= set(MAY_DIFFER), one
        assert all(old in block(one.page, one.begins).lines for old in one.differs), one


def test_whatever_may_differ_does_somewhere() -> None:
    assert set(MAY_DIFFER) == {old for one in taken() for old in one.differs}


def test_lines_for_a_shell_are_called_sh() -> None:
    """The rule is for these; a block of another kind would be under none."""
    assert not [(str(doc), kind) for doc in DOCS for kind in SHELLS[1:] if blocks(str(doc), kind)]


@pytest.mark.parametrize(
    "call",
    [
        "printed(PAGE, 'make up')",
        "printed('README.md', begins='make up')",
        "printed('README.md', 'make up', others)",
        "printed('README.md', f'make {up}')",
    ],
)
def test_a_call_that_cannot_be_read_is_an_error(call: str) -> None:
    with pytest.raises(AssertionError):
        list(taken_in(ast.parse(f"def test():\n    {call}"), "tests/test_x.py"))


def test_a_call_at_no_test_s_place_is_an_error() -> None:
    with pytest.raises(AssertionError):
        list(taken_in(ast.parse("LINES = printed('README.md', 'make run')"), "tests/test_x.py"))


def test_a_call_is_found_with_what_differs_in_it() -> None:
    source = "class TestX:\n    def test_y(self):\n        self.type(printed('README.md', 'make run', {'sleep 5': WAIT}))"

    (found,) = taken_in(ast.parse(source), "tests/test_x.py")

    assert found == Taken(
        by="tests/test_x.py::TestX.test_y", page="README.md", begins="make run", differs={"sleep 5"}
    )
