"""The result of a job is stored as it is, or refused: no part of it is changed or lost silently."""

from __future__ import annotations

import enum
import json
import math
from datetime import date
from typing import Any

import pytest

from esteira.runner.outcome import BadResult, BrokenResult, _result


class Shade(enum.Enum):
    DARK = "1"


@pytest.mark.parametrize(
    "value",
    [
        {1: "a", "1": "b"},
        {True: 1, "true": 2},
        {None: 1, "None": 2},
        {1.5: 1, "1.5": 2},
        {(1, 2): 1, "1,2": 2},
        {date(2026, 1, 1): 1, "2026-01-01": 2},
        {Shade.DARK: 1, "1": 2},
        {b"a": 1, "a": 2},
        [0, ({"deep": {1: 1, "1": 1}},)],
    ],
)
def test_a_result_with_two_keys_that_are_one_in_json_is_refused(value: Any) -> None:
    with pytest.raises(BadResult, match="two keys that are equal in JSON.* make every key text"):
        _result(value)


@pytest.mark.parametrize(
    "value",
    [math.nan, [math.inf], {"a": {"b": -math.inf}}, {"\ud800": 1}, {"a": ["\udfff"]}, "a\0", {"\0": 1}],
)
def test_a_result_that_json_does_not_have_is_refused(value: Any) -> None:
    with pytest.raises(BadResult):
        _result(value)


@pytest.mark.parametrize(
    "value", ["\\u0000", "a\\\\u0000", {"\\u0000": ["\\ud800"]}, {"1": 1, "2": [{}]}, "\ufffd", []]
)
def test_a_result_that_only_looks_odd_is_stored_as_it_is(value: Any) -> None:
    assert json.loads(_result(value) or "") == value


@pytest.mark.parametrize(("value", "stored"), [({1: "a"}, {"1": "a"}), ((1, {2: {3}}), [1, {"2": [3]}])])
def test_keys_that_are_no_text_become_text(value: Any, stored: Any) -> None:
    assert json.loads(_result(value) or "") == stored


def test_a_generator_that_raises_is_told_apart() -> None:
    with pytest.raises(BrokenResult, match="ZeroDivisionError"):
        _result({"a": (1 // n for n in (1, 0))})
