"""What the command line adds to Esteira's errors, and the exit codes."""

from __future__ import annotations

from esteira.errors import EsteiraError

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


class Unmet(EsteiraError):
    """Something that the command needs is not there."""

    code = "unmet"
