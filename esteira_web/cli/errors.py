"""What the command line adds to Esteira's errors, and the exit codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from esteira.errors import EsteiraError, InvalidOption, InvalidRequest, mistakes

T = TypeVar("T")

OK = 0
#: Esteira refused, or the job that was waited for did not succeed.
REFUSED = 1
USAGE = 2
#: No database, or one that was not migrated; sysexits.h calls it EX_UNAVAILABLE, and Celery uses it too.
UNAVAILABLE = 69
INTERRUPTED = 130


class Usage(EsteiraError):
    """The command was typed wrongly; nothing was asked of Esteira."""

    code = "usage"


class Unreadable(InvalidOption):
    """An option that was typed in a way that means nothing."""

    code = "usage"


class SeveralMistyped(Usage, InvalidRequest):
    """Several mistakes, one of which is a word that means nothing."""


def noting(work: Callable[[], T], wrong: list[EsteiraError]) -> T | None:
    """Do the work, or note why it was refused."""
    try:
        return work()
    except EsteiraError as error:
        wrong.append(error)
        return None


def told_at_once(wrong: Sequence[EsteiraError]) -> EsteiraError:
    """Return the one error, or one that says them all; it is a Usage if a word could not be read."""
    if len(wrong) == 1 and not isinstance(wrong[0], Unreadable):
        return wrong[0]
    kind = SeveralMistyped if any(isinstance(one, Unreadable) for one in wrong) else InvalidRequest
    return kind([mistake for error in wrong for mistake in mistakes(error)])


class Unmet(EsteiraError):
    """Something that the command needs is not there."""

    code = "unmet"
