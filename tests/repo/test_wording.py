"""Every error has a stable code, and `esteira.wording` makes its sentence: no other place puts a sentence together."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import esteira
import esteira_web
from esteira.errors import EsteiraError, Mistake
from esteira.wording import SENTENCES, add, names_in, sentence
from tests.repo.tree import ROOT


def classes_of(kind: type[EsteiraError]) -> Iterator[type[EsteiraError]]:
    yield kind
    for one in kind.__subclasses__():
        if one.__module__.startswith(("esteira.", "esteira_web.")):
            yield from classes_of(one)


for package in (esteira, esteira_web):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if ".migrations" not in module.name:
            importlib.import_module(module.name)

CLASSES = {one.__name__: one for one in classes_of(EsteiraError)}
#: Classes that take the code of a sentence and its values as they come.
PLAIN = {name for name, one in CLASSES.items() if one.__init__ is EsteiraError.__init__}
#: Calls that make an error or a mistake, and which of their arguments is the code of the sentence.
CODE_AT = {
    **dict.fromkeys([*PLAIN, "TooManyRequests", "Untypable"], 0),
    **dict.fromkeys(["InvalidOption", "Unreadable", "BadFilter", "Unanswerable"], 1),
    "NotFound": 2,
}
#: The same for functions that make one from what they are given, and the modules that have such a function.
HELPERS = {"refuse": 0, "_mistake": 0, "_refused": 1}
HAVE_HELPERS = {"decorator.py", "parameters.py", "unique_key.py", "uploads.py", "typed_values.py"}
#: The values that a call adds itself.
ADDED = {"refuse": {"where", "function", "parameter"}, "NotFound": {"kind", "name"}}


def calls() -> Iterator[tuple[str, str, ast.Call]]:
    """Yield each call that makes an error or a mistake, with its place and the name of the called function."""
    for path in files():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = (
                    node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                )
                if name in {*CLASSES, *CODE_AT, "Mistake"} or (name in HELPERS and path.name in HAVE_HELPERS):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", name, node


def files() -> list[Path]:
    return [path for folder in ("esteira", "esteira_web") for path in (ROOT / folder).rglob("*.py")]


CALLS = list(calls())


def test_every_error_has_a_code_of_its_own_and_an_http_status() -> None:
    codes = [one.code for one in CLASSES.values()]

    assert sorted(set(codes)) == sorted(codes)
    assert all(400 <= one.status < 600 for one in CLASSES.values())


@pytest.mark.parametrize("name", sorted(CLASSES.keys() - CODE_AT.keys()))
@pytest.mark.parametrize("everything", [True, False], ids=["all arguments", "required arguments"])
def test_an_error_carries_every_value_of_its_sentence(name: str, everything: bool) -> None:
    error = CLASSES[name](*arguments(CLASSES[name], everything))

    assert names_in(SENTENCES[error.wording]) <= error.values.keys()
    assert sentence(error.wording, error.values) in str(error)


def test_every_code_in_the_source_has_a_template_and_its_values() -> None:
    wrong = [
        f"{place}: {code}"
        for place, name, call in CALLS
        for code in codes(name, call)
        if code not in SENTENCES or not names_in(SENTENCES[code]) <= values(name, call, code)
    ]

    assert not wrong


def test_no_sentence_is_put_together_where_an_error_is_raised() -> None:
    wrong = [
        f"{place}: {text.value!r}"
        for place, _, call in CALLS
        for text in ast.walk(call)
        if isinstance(text, ast.Constant) and isinstance(text.value, str) and " " in text.value.strip()
    ]

    assert not wrong


def test_every_template_is_used() -> None:
    nodes = [
        node
        for path in files()
        if "wording" not in str(path)
        for node in ast.walk(ast.parse(path.read_text()))
    ]
    texts = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    heads = {node.values[0].value for node in nodes if isinstance(node, ast.JoinedStr) and node.values}  # type: ignore[attr-defined]

    unused = [code for code in SENTENCES if code not in texts and f"{code.rpartition('.')[0]}." not in heads]

    assert not set(unused) - {"other"}


def test_a_mistake_that_another_library_found_keeps_its_message() -> None:
    mistake = Mistake(code="string-too-short", at=("params", "a/b", 0), values={"message": "Too short"})

    assert mistake.as_json() == {
        "pointer": "#/params/a~1b/0",
        "code": "string-too-short",
        "detail": "Too short.",
    }


def test_a_code_has_one_template() -> None:
    with pytest.raises(ValueError, match="held"):
        add({"held": "again"})


def arguments(kind: type[EsteiraError], everything: bool) -> list[Any]:
    """Return values for the parameters of an error's class, also for those with a default if `everything`."""
    hints = typing.get_type_hints(kind.__init__)
    return [
        sample(hints[one.name])
        for one in inspect.signature(kind).parameters.values()
        if everything or one.default is one.empty
    ]


def sample(kind: Any) -> Any:
    """Return a value of an annotation."""
    match typing.get_args(kind):
        case (one,) if one is Mistake:
            return [Mistake(code="required", at=("a",))]
        case (one,) if one is str:
            return ["a", "b"]
        case (first, *_):
            return first
    return 5 if kind is int else "a"


def codes(name: str, call: ast.Call) -> Iterator[str]:
    """Yield the codes that a call gives as literals; a code that it passes on is checked where it comes from."""
    given = (
        [one.value for one in call.keywords if one.arg == "code"]
        if name == "Mistake"
        else call.args[{**CODE_AT, **HELPERS}.get(name, 99) :][:1]
    )
    if not given and name in PLAIN:
        yield CLASSES[name].code
    for one in given:
        for choice in (one.body, one.orelse) if isinstance(one, ast.IfExp) else (one,):
            if isinstance(choice, ast.Constant):
                yield str(choice.value) or CLASSES[name].code


def values(name: str, call: ast.Call, code: str) -> set[str]:
    """Return the names of the values that a call gives; a dict that it passes on may hold all of them."""
    given: set[str] = set(ADDED.get(name, ()))
    for one in call.keywords:
        if one.arg == "values" and isinstance(one.value, ast.Dict):
            given |= {str(key.value) for key in one.value.keys if isinstance(key, ast.Constant)}
        elif one.arg in (None, "values"):
            given |= names_in(SENTENCES[code])
        else:
            given.add(str(one.arg))
    return given
