"""When schedules fire: the same ticks for every keeper, whatever clocks do in spring and autumn."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from esteira import cron, every
from esteira.errors import DeclarationError
from esteira.job_types.schedule import Cadence

# Whole hours both ways, half an hour (Lord Howe), summer as the standard time (Dublin), a clock that went
# back in winter until 2019 (Sao Paulo), one that follows Ramadan (Casablanca), and one without any of this
# (Kolkata).
ZONES = [
    "UTC",
    "America/Sao_Paulo",
    "America/New_York",
    "Europe/Berlin",
    "Europe/Dublin",
    "Africa/Casablanca",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
]
EXPRESSIONS = [
    "* * * * *",
    "*/7 * * * *",
    "0 * * * *",
    "30 * * * *",
    "30 2 * * *",
    "0 0 * * *",
    "15 1,2,3 * * *",
    "*/20 0-4 * * *",
    "0 6 1 * *",
    "0 6 * * MON-FRI",
    "59 23 L * *",
]


def moments_near_a_change_of_clocks(zone: str) -> list[datetime]:
    """Return the hours in 2017 to 2027 within which the zone's offset from UTC changes."""
    tz, hour, found = ZoneInfo(zone), datetime(2017, 1, 1, tzinfo=UTC), []
    while hour.year < 2028:
        later = hour + timedelta(hours=1)
        if hour.astimezone(tz).utcoffset() != later.astimezone(tz).utcoffset():
            found.append(hour)
        hour = later
    return found or [datetime(2026, 3, 29, tzinfo=UTC)]


CHANGES = {zone: moments_near_a_change_of_clocks(zone) for zone in ZONES}


@st.composite
def spans(draw: st.DrawFn) -> tuple[str, datetime, datetime, datetime]:
    """Draw a zone and three moments in order, most of them around a change of its clocks."""
    zone = draw(st.sampled_from(ZONES))
    change = draw(st.sampled_from(CHANGES[zone]))
    seconds = st.integers(min_value=-30 * 3600, max_value=30 * 3600)
    a, b, c = sorted(draw(st.tuples(seconds, seconds, seconds)))
    return zone, change + timedelta(seconds=a), change + timedelta(seconds=b), change + timedelta(seconds=c)


@given(spans(), st.sampled_from(EXPRESSIONS))
def test_a_span_has_the_same_ticks_however_it_is_cut(
    span: tuple[str, datetime, datetime, datetime], expression: str
) -> None:
    zone, a, b, c = span
    cadence = cron(expression, tz=zone)

    whole = list(cadence.ticks(a, c, a))
    cut = [*cadence.ticks(a, b, a), *cadence.ticks(b, c, a)]

    assert cut == whole


@given(spans(), st.sampled_from(EXPRESSIONS))
def test_ticks_rise_and_stay_within_their_span(
    span: tuple[str, datetime, datetime, datetime], expression: str
) -> None:
    zone, a, _, c = span

    ticks = list(cron(expression, tz=zone).ticks(a, c, a))

    assert ticks == sorted(set(ticks))
    assert all(a < tick <= c and tick.tzinfo is UTC for tick in ticks)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("expression", ["30 2 * * *", "0 0 * * *", "30 1 * * *"])
@pytest.mark.parametrize("year", [2018, 2026])
def test_a_daily_schedule_fires_once_on_every_day_of_a_year(zone: str, expression: str, year: int) -> None:
    tz = ZoneInfo(zone)
    start, end = datetime(year, 1, 1, tzinfo=tz), datetime(year + 1, 1, 1, tzinfo=tz)

    ticks = cron(expression, tz=zone).ticks(start - timedelta(seconds=1), end - timedelta(seconds=1), start)
    days = Counter(tick.astimezone(tz).date() for tick in ticks)

    assert len(days) == 365
    assert set(days.values()) == {1}


@pytest.mark.parametrize("zone", [z for z in ZONES if z != "Australia/Lord_Howe"])
def test_an_hourly_schedule_follows_real_time_through_every_change(zone: str) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)

    ticks = list(cron("0 * * * *", tz=zone).ticks(start, start + timedelta(days=365), start))

    assert {later - earlier for earlier, later in zip(ticks, ticks[1:], strict=False)} == {timedelta(hours=1)}


def test_a_time_that_the_clock_skips_fires_right_after_the_gap() -> None:
    eve = datetime(2026, 3, 28, 22, tzinfo=UTC)

    ticks = list(cron("30 2 * * *", tz="Europe/Berlin").ticks(eve, eve + timedelta(hours=12), eve))

    assert ticks == [datetime(2026, 3, 29, 1, tzinfo=UTC)]


def test_a_time_that_comes_twice_fires_once() -> None:
    eve = datetime(2026, 10, 24, 22, tzinfo=UTC)

    ticks = list(cron("30 2 * * *", tz="Europe/Berlin").ticks(eve, eve + timedelta(hours=12), eve))

    assert ticks == [datetime(2026, 10, 25, 0, 30, tzinfo=UTC)]


ANCHOR = datetime(2026, 1, 1, tzinfo=UTC)
STEPS = st.one_of(
    st.integers(min_value=1, max_value=90_000).map(float), st.floats(min_value=1, max_value=90_000, width=32)
)


@given(
    STEPS,
    st.lists(st.floats(min_value=-1e5, max_value=1e6), min_size=3, max_size=3).map(sorted),
    st.integers(min_value=0, max_value=40),
)
@example(step=1.1, offsets=[0.0, 1.1, 2.2], ticks=3)
def test_an_interval_ticks_at_multiples_from_its_anchor_however_the_span_is_cut(
    step: float, offsets: list[float], ticks: int
) -> None:
    cadence = every(step)
    width = timedelta(seconds=cadence.every_s)
    a = ANCHOR + timedelta(seconds=offsets[0])
    c = a + ticks * width
    b = a + (c - a) * (
        (offsets[1] - offsets[0]) / (offsets[2] - offsets[0]) if offsets[2] > offsets[0] else 0
    )

    whole = list(cadence.ticks(a, c, ANCHOR))

    assert [*cadence.ticks(a, b, ANCHOR), *cadence.ticks(b, c, ANCHOR)] == whole
    assert all(a < tick <= c and (tick - ANCHOR) % width == timedelta(0) for tick in whole)
    assert all(tick > ANCHOR for tick in whole)


def test_an_interval_counts_its_units_together() -> None:
    assert every(30, minutes=1, hours=1).every_s == 3690
    assert every(3690).words() == "Every 1:01:30"


def test_a_cron_schedule_is_said_in_words_with_its_zone() -> None:
    words = cron("0 6 1 * *", tz="America/Sao_Paulo").words()

    assert words == "At 06:00 on the first day of every month (America/Sao_Paulo)"


@pytest.mark.parametrize(
    ("expression", "tz", "said"),
    [
        ("61 * * * *", "UTC", "cron '61 * * * *' cannot be read"),
        ("* * * *", "UTC", "cannot be read"),
        ("0 0 * * * 7", "UTC", "it needs five fields"),
        ("", "UTC", "cannot be read"),
        ("@daily", "UTC", "cannot be read"),
        ("0 0 30 2 *", "UTC", "30 2"),
        ("0 0 * * *", "Mars/Olympus", "no time zone 'Mars/Olympus'"),
        ("0 0 * * *", "", "no time zone"),
        ("0 0 * * *", "../../etc/passwd", "no time zone"),
        ("0 0 * * *", "/etc/passwd", "no time zone"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused_with_its_reason(expression: str, tz: str, said: str) -> None:
    with pytest.raises(DeclarationError, match="schedule: .*") as refusal:
        cron(expression, tz=tz)

    assert said in str(refusal.value)


@pytest.mark.parametrize("seconds", [0, 0.5, -5, float("nan"), float("inf"), 1e300])
def test_an_interval_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(DeclarationError, match="schedule: "):
        every(seconds)


@pytest.mark.parametrize(
    "expression",
    [
        "*/61 * * * *",
        "0 */25 * * *",
        "0 0 */32 * *",
        "0 0 1 */13 *",
        "0 0 * * */8",
        "0-10/20 * * * *",
        "50/15 * * * *",
        "0,30/40 * * * *",
        "0 0 * JAN-MAR/4 *",
        "0 0 * * MON-FRI/6",
    ],
)
def test_a_step_beyond_its_range_is_refused_because_it_would_fire_once(expression: str) -> None:
    with pytest.raises(
        DeclarationError, match=r"cannot be read: the step of '\S+' is larger than its range; at most"
    ):
        cron(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "*/60 * * * *",
        "0 */24 * * *",
        "0 0 */31 * *",
        "0 0 1 */12 *",
        "0 0 * * */7",
        "30/30 * * * *",
        "5-10/6 * * * *",
    ],
)
def test_a_step_as_long_as_its_range_is_kept(expression: str) -> None:
    assert cron(expression).cron == expression


def test_a_stored_step_beyond_its_range_does_not_fire_either() -> None:
    cadence = Cadence(cron="*/61 * * * *")
    now = datetime(2026, 1, 1, tzinfo=UTC)

    assert cadence.shown().startswith("broken: ")
    with pytest.raises(DeclarationError, match="larger than its range"):
        list(cadence.ticks(now, now + timedelta(days=1), now))


def test_a_row_with_a_zone_that_is_none_goes_on_as_long_as_it_needs_no_zone() -> None:
    """Older releases looked at the zone for cron alone, so such rows are there; their ticks are right."""
    row = Cadence(every_s=60, tz="Mars/X")
    start = datetime(2026, 1, 1, tzinfo=UTC)

    assert len(list(row.ticks(start, start + timedelta(minutes=3), start))) == 3
    assert row.words() == "Every 0:01:00"
