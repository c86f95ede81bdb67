"""Each option of a submit at every door: Python, HTTP, the command line; and schedules, which choose none.

The options come from `SubmitRequest`, so one that is missing at a door, or in the samples below, fails here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from esteira.db import PrivateConnection
from esteira.errors import EsteiraError
from esteira.job_types.registry import registry
from esteira.job_types.request import OPTIONS, Option
from esteira.keeper.schedules import write_ticks
from esteira.models import Job, Schedule
from esteira_web.api.openapi import described
from esteira_web.api.routes import api
from esteira_web.cli import submit as cli_submit
from tests.support.clients import KNOWN, bearer, declare_types, post, problem
from tests.support.jobs_command import jobs

pytestmark = pytest.mark.usefixtures("database", "types")

SOON = (datetime.now(UTC) + timedelta(days=3)).replace(microsecond=0)
PAST = datetime(1969, 12, 31, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A value that is taken and one that is refused: in Python and, where they differ, in JSON and as it is typed."""

    good: Any
    bad: Any
    as_json: Callable[[Any], Any] = lambda value: value
    typed: Callable[[Any], str] = str


SAMPLES = {
    "queue": Sample(good="other", bad="nobody"),
    "priority": Sample(good="high", bad="urgent"),
    "delay": Sample(good=3600.0, bad=1e12, typed="{:f}".format),
    "run_at": Sample(good=SOON, bad=PAST, as_json=datetime.isoformat, typed=datetime.isoformat),
    "expires_in": Sample(good=7200.0, bad=0.0),
    "unique": Sample(good="k", bad="x" * 201),
    "on_conflict": Sample(good="error", bad="explode"),
}
#: What differs between two jobs that were asked for alike.
OWN = {"id", "created_at", "submitted_by", "account", "published_at"}
Refused = list[tuple[str, str]]
Door = Callable[[dict[str, Any]], Refused]
each_option = pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.name)


@pytest.fixture
def types(job_types: None, settings: Any) -> None:
    settings.JOB_QUEUES = ["default", "other"]
    declare_types()


@pytest.fixture
def doors(database: None) -> dict[str, Door]:
    """Submit with options; return what was refused: the option and why."""
    client = bearer("operator")

    def python(options: dict[str, Any]) -> Refused:
        try:
            registry.get(KNOWN["type"]).options(**options).submit(**KNOWN["params"])  # type: ignore[arg-type]
        except EsteiraError as error:
            return _refused(
                [one.as_json() for one in error.mistakes] if error.status == 422 else [{"detail": error.code}]
            )
        return []

    def http(options: dict[str, Any]) -> Refused:
        given = {name: SAMPLES[name].as_json(value) for name, value in options.items()}
        answer = post(client, "/jobs", {**KNOWN, "options": given})
        if answer.status_code == 202:
            return []
        told = problem(answer)
        return _refused(told.get("errors") or [{"detail": told["type"].rpartition("/")[2]}])

    def command_line(options: dict[str, Any]) -> Refused:
        typed = [
            f"--{name.replace('_', '-')}={SAMPLES[name].typed(value)}" for name, value in options.items()
        ]
        said = jobs("submit", "t.note", "text=hello", *typed, "--json")
        if said.code == 0:
            return []
        told = json.loads(said.err)
        return _refused(told["errors"] or [{"detail": told["code"]}])

    return {"python": python, "http": http, "command line": command_line}


def _refused(errors: list[dict[str, Any]]) -> Refused:
    return [(one.get("pointer", "").rpartition("/")[2], one["detail"]) for one in errors]


@dataclass(frozen=True, eq=False)
class Seconds:
    """A span that counts as equal to one that is a little longer: one door answers sooner than another."""

    seconds: float

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Seconds) and abs(self.seconds - other.seconds) < 60

    __hash__ = None  # type: ignore[assignment]


def facts() -> Iterator[dict[str, Any]]:
    """Yield what is stored of each job, its moments as seconds from when it was submitted; and remove them."""
    for row in Job.objects.order_by("created_at").values():
        yield {
            name: Seconds((value - row["created_at"]).total_seconds())
            if isinstance(value, datetime)
            else value
            for name, value in row.items()
            if name not in OWN
        }
    Job.objects.all().delete()


def twice(door: Door, options: dict[str, Any]) -> tuple[list[Refused], list[dict[str, Any]]]:
    return [door(options), door(options)], list(facts())


@each_option
def test_an_option_does_the_same_at_every_door(option: Option, doors: dict[str, Door]) -> None:
    beside = {"unique": "k"} if option.name == "on_conflict" else {}

    without = twice(doors["python"], beside)
    made = {
        name: twice(door, {**beside, option.name: SAMPLES[option.name].good}) for name, door in doors.items()
    }

    assert made["http"] == made["python"]
    assert made["command line"] == made["python"]
    assert made["python"] != without


@each_option
def test_an_option_has_the_same_bounds_at_every_door(option: Option, doors: dict[str, Door]) -> None:
    refused = {name: door({option.name: SAMPLES[option.name].bad}) for name, door in doors.items()}

    [(named, why)] = refused["python"]
    assert named == option.name
    assert list(refused.values()) == [[(named, why)]] * len(doors)
    assert not Job.objects.exists()


@each_option
def test_an_option_has_the_same_meaning_at_every_door(option: Option) -> None:
    schema = described(api, registry.all())["components"]["schemas"]["SubmitOptions"]["properties"]
    parser = argparse.ArgumentParser()
    cli_submit.arguments(parser)
    typed = {action.dest: action.help for action in parser._actions}

    assert option.meaning[1:] in schema[option.name]["description"]
    assert str(typed[option.name]).startswith(option.meaning)


def test_no_door_has_an_option_of_its_own(doors: dict[str, Door]) -> None:
    schema = described(api, registry.all())["components"]["schemas"]["SubmitOptions"]["properties"]

    assert set(schema) == {option.name for option in OPTIONS} == set(SAMPLES)
    with pytest.raises(TypeError):
        doors["python"]({"colour": "red"})
    assert post(bearer("submitter"), "/jobs", {**KNOWN, "options": {"colour": "red"}}).status_code == 422


def test_a_schedule_stores_what_a_submit_without_options_stores(
    doors: dict[str, Door], core: PrivateConnection
) -> None:
    doors["python"]({})
    [submitted] = facts()
    before = datetime.now(UTC) - timedelta(seconds=90)
    Schedule.objects.create(
        name="nightly",
        type=str(KNOWN["type"]),
        params=KNOWN["params"],
        every_s=60,
        origin="database",
        anchor_at=before,
        last_tick_at=before,
    )

    write_ticks(core)

    [ticked] = facts()
    assert {name for name, value in ticked.items() if submitted[name] != value} == {"schedule_id", "tick_at"}
