"""How many tries a job has used, and how many it has: one rule, the same at every door.

A try is an attempt that counted: it failed, it succeeded, or it runs. An attempt that was handed back, lost, cancelled
or refused used none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date, timedelta
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from esteira.db import Db, PrivateConnection
from esteira.models import Job
from esteira.record.claim import Claimed, claim, expire, refuse
from esteira.record.finish import finish
from esteira.record.lease import hand_back
from esteira.record.operate import cancel, retry
from esteira.record.rescue import process_lost
from esteira_web.cli.display import short_id
from jobs.reports._history import History, Period
from tests.support.clients import bearer, browser, get
from tests.support.jobs import elapse, outcome, stored
from tests.support.jobs_command import jobs

pytestmark = pytest.mark.usefixtures("database")

MAX_TRIES = 3
Pair = tuple[int, int]
Way = Callable[[Db, UUID], object]


def attempt(db: Db, job_id: UUID) -> Claimed:
    db.fetch("UPDATE esteira_job SET run_at = created_at, hold_until = NULL WHERE id = %s", [job_id])
    (claimed,) = claim(db, [job_id], worker="w1/boot", delivery=str(job_id))
    return claimed


def ends(db: Db, job_id: UUID, kind: str) -> None:
    assert finish(db, [outcome(attempt(db, job_id), kind)])


def is_lost(db: Db, job_id: UUID) -> None:
    attempt(db, job_id)
    assert process_lost(db, str(job_id), [job_id])


def is_handed_back(db: Db, job_id: UUID) -> None:
    assert hand_back(db, [(job_id, attempt(db, job_id).attempt)])


def is_refused(db: Db, job_id: UUID) -> None:
    assert refuse(db, [(job_id, attempt(db, job_id).attempt, "no")], worker="w1/boot")


def is_cancelled_while_it_runs(db: Db, job_id: UUID) -> None:
    claimed = attempt(db, job_id)
    cancel(db, job_id, by="ana", force=False)
    assert finish(db, [outcome(claimed, "cancelled")])


def expires(db: Db, job_id: UUID) -> None:
    db.fetch("UPDATE esteira_job SET expires_at = created_at WHERE id = %s", [job_id])
    assert expire(db)


def each(*steps: Way) -> Way:
    def walk(db: Db, job_id: UUID) -> None:
        for step in steps:
            step(db, job_id)

    return walk


def fails(db: Db, job_id: UUID) -> None:
    ends(db, job_id, "failed")


def succeeds(db: Db, job_id: UUID) -> None:
    ends(db, job_id, "succeeded")


def gives_up(db: Db, job_id: UUID) -> None:
    ends(db, job_id, "given_up")


def is_retried(db: Db, job_id: UUID) -> None:
    retry(db, job_id, by="ana")


#: What became of a job, and how many of its tries that used.
WAYS: dict[str, tuple[Way, int]] = {
    "waits": (each(), 0),
    "waits for later": (lambda db, job_id: elapse(db, job_id, "run_at", -3600), 0),
    "runs": (attempt, 1),
    "runs again after a failure": (each(fails, attempt), 2),
    "runs again after two lost processes": (each(is_lost, is_lost, attempt), 1),
    "succeeded": (succeeds, 1),
    "succeeded after a failure": (each(fails, succeeds), 2),
    "succeeded after a lost process": (each(is_lost, succeeds), 1),
    "waits after a failure": (fails, 1),
    "failed at its last try": (each(fails, fails, fails), 3),
    "gave up": (gives_up, 1),
    "handed back": (is_handed_back, 0),
    "handed back after a failure": (each(fails, is_handed_back), 1),
    "lost": (is_lost, 0),
    "dead": (each(is_lost, is_lost, is_lost), 0),
    "dead after a failure": (each(fails, is_lost, is_lost, is_lost), 1),
    "refused": (is_refused, 0),
    "cancelled while it waited": (lambda db, job_id: cancel(db, job_id, by="ana", force=False), 0),
    "cancelled while it ran": (is_cancelled_while_it_runs, 0),
    "expired": (expires, 0),
    "retried by an operator": (each(fails, fails, fails, is_retried), 0),
    "retried by an operator, and failed": (each(gives_up, is_retried, fails), 1),
}


@pytest.fixture
def made(core: PrivateConnection) -> dict[UUID, str]:
    found = {}
    for name, (way, _) in WAYS.items():
        (one,) = stored(core, max_failures=MAX_TRIES)
        way(core, one)
        found[one] = name
    return found


def as_pair(text: str, pattern: str) -> Pair:
    found = re.search(pattern, text, re.DOTALL)
    assert found, (pattern, text)
    return int(found[1]), int(found[2])


def api(made: dict[UUID, str]) -> dict[UUID, Pair]:
    client = bearer("viewer")
    bodies = [get(client, f"/jobs/{one}").json() for one in made]
    return {UUID(body["id"]): (body["tries"], body["max_tries"]) for body in bodies}


def api_list(made: dict[UUID, str]) -> dict[UUID, Pair]:
    items = get(bearer("viewer"), "/jobs?limit=200").json()["items"]
    return {UUID(line["id"]): (line["tries"], line["max_tries"]) for line in items}


def page(made: dict[UUID, str]) -> dict[UUID, Pair]:
    client = browser("operator")
    pages = {one: client.get(f"/jobs/{one}/").content.decode() for one in made}
    return {one: as_pair(text, r"<dt>Tries</dt><dd>(\d+) of (\d+)") for one, text in pages.items()}


def page_of_all(made: dict[UUID, str]) -> dict[UUID, Pair]:
    text = browser("operator").get("/").content.decode()
    return {
        one: as_pair(text.partition(f"/jobs/{one}/")[2], r'data-label="Tries"[^>]*>(\d+) of (\d+)<')
        for one in made
    }


def command_line(made: dict[UUID, str]) -> dict[UUID, Pair]:
    return {one: as_pair(jobs("show", str(one)).out, r"tries +(\d+) of (\d+)") for one in made}


def command_line_list(made: dict[UUID, str]) -> dict[UUID, Pair]:
    text = jobs("list", "--limit", "100").out
    return {one: as_pair(text, rf"{short_id(one)}[^\n]* (\d+) of (\d+) ") for one in made}


def command_line_json(made: dict[UUID, str]) -> dict[UUID, Pair]:
    lines = jobs("list", "--limit", "100", "--json").data
    return {UUID(line["id"]): (line["tries"], line["max_tries"]) for line in lines}


def admin(made: dict[UUID, str]) -> dict[UUID, Pair]:
    client = boss()
    pages = {one: client.get(f"/admin/esteira/job/{one}/change/").content.decode() for one in made}
    return {
        one: as_pair(text, r'field-tries">.*?class="readonly">(\d+) of (\d+)<') for one, text in pages.items()
    }


def admin_list(made: dict[UUID, str]) -> dict[UUID, Pair]:
    text = boss().get("/admin/esteira/job/").content.decode()
    return {
        one: as_pair(text.partition(f"/job/{one}/change")[2], r'field-tries">(\d+) of (\d+)<') for one in made
    }


def report(made: dict[UUID, str]) -> dict[UUID, Pair]:
    now = Job.objects.latest("created_at").created_at
    history = History(
        Period(first=date(2020, 1, 1), last=date(2199, 1, 1), zone=ZoneInfo("UTC"), now=now + timedelta(1))
    )
    return {UUID(row.id): (row.tries, row.max_tries) for row in history.rows(most=100)}


def boss() -> Client:
    client = Client()
    client.force_login(get_user_model().objects.create_superuser(f"boss-{uuid4()}"))
    return client


DOORS = (
    api,
    api_list,
    page,
    page_of_all,
    command_line,
    command_line_list,
    command_line_json,
    admin,
    admin_list,
    report,
)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_each_door_tells_the_tries_that_were_used_and_those_there_are(
    door: Callable[[dict[UUID, str]], dict[UUID, Pair]],
    made: dict[UUID, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    told = door(made)

    right = {name: (used, MAX_TRIES) for name, (_, used) in WAYS.items()}
    assert {made[one]: pair for one, pair in told.items()} == right
