"""When a schedule fires: cron expressions in a time zone, or a fixed interval.

Pure arithmetic on wall clocks: the nominal tick times in a span depend only on the schedule, so any number of keepers
compute the same ones. Cron follows Debian's rules around daylight saving (the `cronsim` library): a time that the clock
skips fires right after the gap, a time that comes twice fires once; expressions with `*` hours follow real time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError
from cronsim.cronsim import RANGES, Field

from esteira.errors import DeclarationError, InvalidOption
from esteira.values.bounds import CRON, EVERY, ZONE, Span, Text

#: The library also reads the digits of other scripts, and 1_0.
_PLAIN = re.compile(r"[A-Za-z0-9*/,# -]*")


@dataclass(frozen=True, kw_only=True)
class Cadence:
    """Either `cron` in zone `tz`, or `every_s` seconds counted from an anchor."""

    cron: str = ""
    tz: str = "UTC"
    every_s: float = 0

    def ticks(self, after: datetime, until: datetime, anchor: datetime) -> Iterator[datetime]:
        """Yield the nominal ticks in (after, until], oldest first, in UTC.

        The cost of each does not depend on how long ago `after` is. Raises DeclarationError if the schedule can never
        fire.
        """
        # Arithmetic on moments of one zone uses its wall clock, which in autumn shows an hour twice.
        after, until, anchor = (moment.astimezone(UTC) for moment in (after, until, anchor))
        return self._every(after, until, anchor) if self.every_s else self._cron(after, until)

    def _every(self, after: datetime, until: datetime, anchor: datetime) -> Iterator[datetime]:
        _within(EVERY, "every", self.every_s)  # an old row may hold any interval
        step = timedelta(seconds=self.every_s)
        n = max((after - anchor) // step, 0) + 1
        while (tick := anchor + n * step) <= until:
            if tick > after:
                yield tick
            n += 1

    def _cron(self, after: datetime, until: datetime) -> Iterator[datetime]:
        zone = ZoneInfo(self.tz)
        try:
            times = CronSim(self.cron, after.astimezone(zone))
        except CronSimError as error:
            raise DeclarationError("cron-unreadable", cron=self.cron, reason=str(error)) from None
        _refuse_long_steps(self.cron)
        for local in times:
            tick = local.astimezone(UTC)
            if tick > until:
                return
            if tick > after:
                yield tick
        raise DeclarationError("cron-never", cron=self.cron)

    def words(self) -> str:
        """Describe it in English: "At 06:00 on the first day of every month (America/Sao_Paulo)".

        Raises DeclarationError for an invalid row.
        """
        if self.every_s:
            _within(EVERY, "every", self.every_s)
            return f"Every {timedelta(seconds=self.every_s)}"
        checked(self)
        return f"{CronSim(self.cron, datetime.now(UTC)).explain()} ({self.tz})"

    def shown(self) -> str:
        """Describe it for a list, in which one invalid row must not stop the others."""
        try:
            return self.words()
        except DeclarationError as error:
            return f"broken: {error}"


def cron(expression: str, *, tz: str = "UTC") -> Cadence:
    """Fire at the times of a five-field cron expression on the wall clocks of `tz`; raises DeclarationError."""
    _within(CRON, "cron", expression)
    zone = _zone(tz)
    if not _PLAIN.fullmatch(expression):
        raise DeclarationError("cron-characters", cron=expression)
    if len(expression.split()) != 5:  # the library would take a sixth field for seconds
        raise DeclarationError("cron-fields", cron=expression)
    try:
        next(CronSim(expression, datetime.now(zone)))
    except StopIteration:
        raise DeclarationError("cron-never", cron=expression) from None
    except CronSimError as error:
        raise DeclarationError("cron-unreadable", cron=expression, reason=str(error)) from None
    _refuse_long_steps(expression)
    return Cadence(cron=expression, tz=tz)


def _zone(tz: str) -> ZoneInfo:
    _within(ZONE, "tz", tz)
    try:
        return ZoneInfo(tz)
    except (KeyError, ValueError, OSError):
        raise DeclarationError("unknown-zone", zone=tz) from None


def _refuse_long_steps(expression: str) -> None:
    """Refuse `*/61`, which would fire once in its range and is certainly a mistake."""
    fields = (Field.MINUTE, Field.HOUR, Field.DAY, Field.MONTH, Field.DOW)
    for field, part in zip(
        fields, expression.upper().split()[-5:], strict=True
    ):  # an old row may have seconds
        for term in part.split(","):
            span, slash, step = term.partition("/")
            if slash and int(step) > (most := _length(field, span)):
                raise DeclarationError("cron-step", cron=expression, term=term, most=most)


def _length(field: Field, span: str) -> int:
    if span == "*":
        return 7 if field is Field.DOW else len(RANGES[field])  # Sunday is 0 and 7
    values = field.parse(span)
    first = min(one for one in values if isinstance(one, int))
    return len(values) if "-" in span or first < 0 else max(RANGES[field]) - first + 1


def every(seconds: float = 0, *, minutes: float = 0, hours: float = 0) -> Cadence:
    """Fire at a fixed interval of one second to ten years; raises DeclarationError."""
    try:
        total = timedelta(seconds=seconds, minutes=minutes, hours=hours).total_seconds()
    except (TypeError, ValueError, OverflowError):
        raise DeclarationError("not-an-interval", least=EVERY.least, most=EVERY.most) from None
    if total < 1:
        raise DeclarationError("too-often", seconds=total)
    return checked(Cadence(every_s=total))


def checked(cadence: Cadence) -> Cadence:
    """Return the cadence if it is valid; raises DeclarationError."""
    if cadence.cron and cadence.every_s:
        raise DeclarationError("cron-and-every", cron=cadence.cron, every=cadence.every_s)
    if cadence.cron:
        return cron(cadence.cron, tz=cadence.tz)
    _within(EVERY, "every", cadence.every_s)
    _zone(cadence.tz)  # an interval needs none, but an invalid one would fail when a cron replaces it
    return cadence


def _within(allowed: Span | Text, field: str, value: object) -> None:
    try:
        allowed.check(field, value)
    except InvalidOption as error:
        [mistake] = error.mistakes
        raise DeclarationError("bad-schedule-option", option=field, mistake=mistake) from None
