"""Every bound of stored values: moments, durations, counts, numbers and texts, and the functions that check them.

Every input is checked here, at every interface, before anything is stored; the message names the field and the allowed
values. Moments and numbers have the same bounds as CHECK constraints (`models`), so that neither an old release nor a
statement typed by hand stores a value that Python cannot read back. `docs/limits.md` shows these bounds, and a test
compares the page with this module. Pure: importable before Django.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from numbers import Real
from typing import Any, SupportsFloat

from esteira.errors import InvalidOption
from esteira.values.pause import LONGEST_PAUSE_S
from esteira.values.storable import encodes
from esteira.wording.english import span

DAY_S = 86400.0
TEN_YEARS_S = LONGEST_PAUSE_S
#: Every stored moment lies in [FIRST_MOMENT, END_OF_MOMENTS): far inside the range that Python can read, in any time
#: zone.
FIRST_MOMENT = datetime(1970, 1, 1, tzinfo=UTC)
END_OF_MOMENTS = datetime(2200, 1, 1, tzinfo=UTC)
#: Progress is a double in the database, which counts exactly up to here.
MOST_PROGRESS = 1e15
PROGRESS_TEXT = 200
#: Every view of a job reads the rows of all its files.
FILES_OF_A_JOB = 1000
#: A whole number in an address or on a command line has no more digits, so 64 bits hold it.
LONGEST_NUMBER = 18
#: Not every Python version that may have to show it can write deeper nesting as JSON.
NESTED = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A duration, in seconds or as a timedelta."""

    least: float
    most: float

    def check(self, field: str, value: Any) -> float:
        """Return the seconds; raises InvalidOption."""
        seconds = _seconds(value)
        if not self.least <= seconds <= self.most:  # not true of NaN either
            wording = "infinite-duration" if math.isinf(seconds) else "not-a-duration"
            raise InvalidOption(field, wording, least=self.least, most=self.most, given=shown(value))
        return seconds

    def words(self) -> str:
        return f"from {span(self.least)} to {span(self.most)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    """A whole number."""

    least: int
    most: int

    def check(self, field: str, value: Any) -> int:
        """Return the number; raises InvalidOption."""
        if isinstance(value, bool) or not isinstance(value, int) or not self.least <= value <= self.most:
            raise InvalidOption(field, "not-a-count", least=self.least, most=self.most, given=shown(value))
        return value

    def typed(self, field: str, text: str) -> int:
        """Return the number typed into an address or a terminal; raises InvalidOption."""
        readable = is_digits(text) and len(text) <= LONGEST_NUMBER
        return self.check(field, int(text) if readable else text)

    def words(self) -> str:
        return f"from {self.least:,} to {self.most:,}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """A text; PostgreSQL stores neither NUL nor half of a surrogate pair.

    A `seen` text is a name or a reason: one line, in which each character is visible.
    """

    most: int
    least: int = 0
    seen: bool = False

    def check(self, field: str, value: Any) -> str:
        """Return the text as it was given; raises InvalidOption."""
        if not isinstance(value, str):
            raise InvalidOption(field, "not-text", given=shown(value))
        allowed = {"least": self.least, "most": self.most}
        if not self.least <= len(value) <= self.most:
            raise InvalidOption(field, "wrong-length" if self.least else "too-long", **allowed)
        if "\0" in value:
            raise InvalidOption(field, "nul")
        if not encodes(value):
            raise InvalidOption(field, "half-character")
        if self.seen and not value.isprintable():
            odd = next(c for c in value if not c.isprintable())
            raise InvalidOption(field, "invisible-character", number=ord(odd))
        if self.least and self.seen and not value.strip():
            raise InvalidOption(field, "only-spaces", **allowed)
        return value

    def fit(self, value: str) -> str:
        """Return the nearest text that can be stored, for texts of a job or a system that no user can correct."""
        return clean(value)[: self.most]

    def words(self) -> str:
        return f"{self.least} to {self.most} characters" if self.least else f"at most {self.most} characters"


@dataclass(frozen=True, kw_only=True, slots=True)
class OneOf:
    """One of a few names."""

    names: tuple[str, ...]

    def check(self, field: str, value: Any) -> str:
        """Return the name; raises InvalidOption."""
        if not isinstance(value, str) or value not in self.names:
            raise InvalidOption(field, "not-one-of", allowed=self.names, given=shown(value))
        return value

    def words(self) -> str:
        return f"one of {', '.join(self.names)}"


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment that can be stored."""

    def check(self, field: str, value: Any) -> datetime:
        """Return the moment in UTC; raises InvalidOption."""
        return moment(field, value)

    def words(self) -> str:
        return "from 1970 to ten years from now, with a time zone"


MOMENT = Moment()

DELAY = Span(least=0, most=TEN_YEARS_S)
EXPIRES_IN = Span(least=0.001, most=TEN_YEARS_S)
TIMEOUT = Span(least=0.001, most=TEN_YEARS_S)
LEASE = Span(least=1, most=DAY_S)
BACKOFF = Span(least=0.001, most=TEN_YEARS_S)
RETRY_AFTER = Span(least=0, most=TEN_YEARS_S)
EVERY = Span(least=1, most=TEN_YEARS_S)
GRACE = Span(least=0.001, most=TEN_YEARS_S)
TOKEN_LIFE = Span(least=0.001, most=TEN_YEARS_S)

RETRIES = Count(least=0, most=1000)
BATCH = Count(least=1, most=1000)
PAGE = Count(least=1, most=200)
TERMINAL_PAGE = Count(least=1, most=100_000)

UNIQUE = Text(least=1, most=200)
TYPE_NAME = Text(least=1, most=120)
QUEUE_NAME = Text(least=1, most=60)
SCHEDULE_NAME = Text(least=1, most=120, seen=True)
CRON = Text(most=120)
ZONE = Text(most=64)
BY = Text(most=300)
REASON = Text(most=500, seen=True)
IDEMPOTENCY_KEY = Text(least=1, most=255)
FILE_NAME = Text(least=1, most=255)
TOKEN_NAME = Text(least=1, most=80, seen=True)
TASK_ID = Text(least=1, most=250)
#: The message of a Celery task, as it would be in Redis, and the stored result of one.
MESSAGE_BYTES = 16 * 1024**2


def is_digits(text: str) -> bool:
    """Return whether a text is a whole number in plain digits; `int` takes `1_0`, ` 5`, `+5` and other scripts too."""
    return text.isascii() and text.isdigit()


def moment(field: str, value: Any) -> datetime:
    """Check a moment: from 1970 to ten years from now, with a time zone; return it in UTC. Raises InvalidOption.

    In UTC, because PostgreSQL refuses offsets of 16 hours and more, which Python and JSON allow.
    """
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise InvalidOption(field, "not-a-moment")
    try:
        at = value.astimezone(UTC)
    except (OverflowError, ValueError):  # before the first year, or after the last
        at = None
    if at is None or not FIRST_MOMENT <= at <= datetime.now(UTC) + timedelta(seconds=TEN_YEARS_S):
        raise InvalidOption(field, "moment-out-of-range", given=value.isoformat())
    return at


def is_moment(at: datetime | None) -> bool:
    """Return whether a stored moment is one that the database should hold; None is fine."""
    return at is None or FIRST_MOMENT <= at < END_OF_MOMENTS


def progress(done: Any, total: Any, text: Any) -> tuple[float, float | None, str]:
    """Make a report of progress storable; raises TypeError for a value that is not a number.

    An invalid number becomes the nearest valid one, because a division by zero in a report should not fail hours of
    work: NaN is 0 as `done`, and no total at all as `total`. The host cuts the text to PROGRESS_TEXT after it has
    removed secrets: half of a secret would not be found.
    """
    got = _finite("done", done)
    of = None if total is None else _finite("total", total)
    return got or 0.0, of, clean(_said(text))


def clean(text: str) -> str:
    """Replace what PostgreSQL cannot store as text: NUL and lone surrogates."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def nests_too_deeply(text: str) -> bool:
    """Return whether a JSON text is nested more than 200 levels deep."""
    if text.count("[") + text.count("{") <= NESTED:
        return False  # nearly every text ends here, without the loop
    deep = most = 0
    in_string = escaped = False
    for c in text:
        if in_string:
            in_string = escaped or c != '"'
            escaped = c == "\\" and not escaped
        elif c == '"':
            in_string = True
        elif c in "[{":
            deep += 1
            most = max(most, deep)
        elif c in "]}":
            deep -= 1
    return most > NESTED


def shown(value: Any) -> str:
    """Return a refused value as a text of at most 80 characters."""
    try:
        said = repr(value)
    except Exception:  # its own code runs here, and a number may have too many digits
        said = f"that {type(value).__name__}"
    return said if len(said) <= 80 else f"{said[:77]}…"


def _seconds(value: Any) -> float:
    """Return a duration's seconds; NaN if it is not a duration."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    return _float(value)


def _float(value: SupportsFloat) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number beyond the range of a double
        return math.inf if value > 0 else -math.inf  # type: ignore[operator]
    except (TypeError, ValueError):
        return math.nan


def _finite(field: str, value: Any) -> float | None:
    """Return a number between 0 and the most that is stored, None for NaN.

    Any type that converts to float is accepted.
    """
    if isinstance(value, bool | str | bytes) or not hasattr(value, "__float__"):
        raise TypeError(f"progress: {field} must be a number, not {shown(value)}.")
    number = _float(value)
    return None if math.isnan(number) else min(max(number, 0.0), MOST_PROGRESS)


def _said(text: Any) -> str:
    try:
        return str(text)
    except Exception as error:  # an object's own __str__ may fail, and a report should not fail its job
        return f"(this text cannot be read: {type(error).__name__})"
