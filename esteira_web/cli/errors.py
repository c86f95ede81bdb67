"""The errors of the command line itself, and the exit codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from esteira.errors import EsteiraError, InvalidOption, InvalidRequest

T = TypeVar("T")

OK = 0
#: Esteira refused the request, or the job that the command waited for did not succeed.
REFUSED = 1
USAGE = 2
#: No database, or one without the migrations; it is EX_UNAVAILABLE in sysexits.h, and Celery uses it too.
UNAVAILABLE = 69
INTERRUPTED = 130


class Usage(EsteiraError):
    """The command has a mistake; no request reached Esteira. Its first argument is the code of the sentence."""

    code = "usage"


class Unreadable(InvalidOption):
    """An option whose value cannot be parsed."""

    code = "unreadable"


class SeveralMistyped(Usage, InvalidRequest):
    """Several mistakes, at least one of which is a value that cannot be parsed."""

    code = "several-usage"


def noting(work: Callable[[], T], wrong: list[EsteiraError]) -> T | None:
    """Call `work`; append its error to `wrong` if it is refused."""
    try:
        return work()
    except EsteiraError as error:
        wrong.append(error)
        return None


def told_at_once(wrong: Sequence[EsteiraError]) -> EsteiraError:
    """Return the one error, or one that holds all mistakes; it is a Usage if a value could not be parsed."""
    if len(wrong) == 1 and not isinstance(wrong[0], Unreadable):
        return wrong[0]
    kind = SeveralMistyped if any(isinstance(one, Unreadable) for one in wrong) else InvalidRequest
    return kind([mistake for error in wrong for mistake in error.mistakes])


class Unmet(EsteiraError):
    """The command needs something that is missing. Its first argument is the code of the sentence."""

    code = "unmet"
