"""Errors name the field and the remedy, and carry the values that the API needs."""

from __future__ import annotations

import inspect

import pytest

from esteira import errors
from esteira.errors import (
    EsteiraError,
    InvalidParameters,
    Mistake,
    TooLarge,
    UniqueConflict,
    UnknownJobType,
    UnknownQueue,
)
from esteira.job_types.exceptions import Cancelled, LeaseLost, TimeLimitExceeded

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, EsteiraError)]


def test_every_error_has_its_own_code_and_an_http_status() -> None:
    codes = [c.code for c in CLASSES]

    assert len(set(codes)) == len(codes)
    assert all(400 <= c.status < 600 for c in CLASSES)


def test_an_unknown_job_type_names_the_known_ones() -> None:
    assert str(UnknownJobType("mail.sned", ["mail.send"])) == (
        "type: there is no job type 'mail.sned'. Known: mail.send."
    )


def test_an_unknown_queue_says_how_to_get_one() -> None:
    error = UnknownQueue("slow", ["default", "mail"])

    assert "use one of default, mail, or add it to JOB_QUEUES" in str(error)
    assert error.mistakes[0].pointer == "#/queue"


def test_many_mistakes_are_all_kept_and_a_few_are_said() -> None:
    mistakes = [Mistake(code="required", at=("params", f"p{n}")) for n in range(7)]

    error = InvalidParameters(mistakes)

    assert error.mistakes == mistakes
    assert "#/params/p4" in str(error)
    assert str(error).endswith("(and 2 more)")


@pytest.mark.parametrize(
    "error", [TooLarge("file", 100 * 1024**2), UniqueConflict("nightly"), errors.FilesFull()]
)
def test_a_refusal_says_what_to_do(error: EsteiraError) -> None:
    assert len(str(error)) > 20


def test_a_jobs_own_except_exception_swallows_neither_cancel_nor_a_lost_lease() -> None:
    assert not issubclass(Cancelled, Exception)
    assert not issubclass(LeaseLost, Exception)


def test_a_time_limit_is_an_ordinary_exception() -> None:
    assert issubclass(TimeLimitExceeded, Exception)
