"""A row that Esteira never stores, with the constraints removed: it alone is marked, and all else works."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from io import StringIO
from typing import Any
from uuid import UUID

import pytest
import redis as redis_client
from django.core.management import call_command
from django.test import Client

from esteira import Context, job
from esteira.broker.hint import ids_in, list_key
from esteira.db import PrivateConnection
from esteira.keeper.scheduler import Keeper
from esteira.models import Job, Schedule
from tests.support.clients import account, bearer, browser, get
from tests.support.jobs import stored

MOMENTS = [
    "infinity",
    "-infinity",
    "0044-03-15 BC",
    "12000-01-01Z",
    "0001-01-01 00:00:00+14",
    "9999-12-31 23:59:59-12",
]


pytestmark = pytest.mark.usefixtures("types", "unbound")


def break_rows(core: PrivateConnection) -> list[UUID]:
    """Store one row for each way in which a row may be odd, and a sound one."""
    odd = [("run_at", f"'{value}'::timestamptz") for value in MOMENTS]
    odd += [("created_at", "'infinity'"), ("created_at", "'-infinity'"), ("expires_at", "'infinity'")]
    odd += [("progress_done", "'NaN'"), ("progress_total", "'Infinity'"), ("priority", "7")]
    odd += [("error", value) for value in ("'[1]'", "'\"x\"'", "'5'", "'{\"type\": [1]}'")]
    odd += [("params", value) for value in ("'[1]'", "'\"x\"'", "'null'")]
    ids = stored(core, len(odd) + 1, type="t.note", params='{"text": "x"}')
    core.fetch("UPDATE esteira_job SET progress_done = 1")
    for job_id, (column, value) in zip(ids, odd, strict=False):
        core.fetch(f"UPDATE esteira_job SET {column} = {value} WHERE id = %s", [job_id])
    return ids


def strict(content: bytes | str) -> Any:
    """Read JSON as every other language does: NaN is none."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(content, parse_constant=refuse)


def test_lists_show_odd_rows_as_broken_and_the_others_as_usual(core: PrivateConnection) -> None:
    ids = break_rows(core)
    api = bearer("operator")

    lines = strict(get(api, "/jobs?limit=200").content)["items"]
    out = StringIO()
    call_command("jobs", "list", "--limit", "100", "--json", stdout=out)

    assert {line["id"] for line in lines} == set(map(str, ids))
    assert [line["broken"] for line in lines if line["id"] == str(ids[-1])] == [[]]
    assert sum(bool(line["broken"]) for line in lines) >= len(MOMENTS) + 8
    assert [strict(line)["id"] for line in out.getvalue().splitlines()] == [line["id"] for line in lines]


def test_pages_admin_and_terminal_show_odd_rows(core: PrivateConnection) -> None:
    ids = break_rows(core)
    page = browser("operator")
    admin = Client()
    admin.force_login(account("boss", superuser=True, staff=True))

    listed = page.get("/")
    call_command("jobs", "list", "--limit", "100", stdout=StringIO())

    assert "broken: run_at" in listed.content.decode()
    assert "broken: run_at" in admin.get("/admin/esteira/job/").content.decode()
    api = bearer("operator")
    for one in ids:
        assert page.get(f"/jobs/{one}/").status_code == 200
        assert admin.get(f"/admin/esteira/job/{one}/change/").status_code == 200
        strict(get(api, f"/jobs/{one}").content)
        call_command("jobs", "show", str(one), stdout=StringIO(), stderr=StringIO())


def test_the_keeper_publishes_the_others(core: PrivateConnection, redis: redis_client.Redis) -> None:
    ids = break_rows(core)
    core.fetch(
        """INSERT INTO esteira_worker (name, incarnation, host, pid, queues, types, slots, state)
           VALUES ('w1', 'x', 'h', 1, '["default"]', '["t.note"]', 2, 'up')"""
    )
    redis.set("esteira:filled", "1")
    keeper = Keeper()

    for _ in range(3):
        keeper.turn()

    hinted = {
        one for message in redis.lrange(list_key("esteira:", "default", 6), 0, -1) for one in ids_in(message)
    }
    due = {
        str(one)
        for one in core.fetch("SELECT id::text FROM esteira_job WHERE run_at <= clock_timestamp()")[0]
    }
    assert str(ids[-1]) in hinted
    assert due <= hinted


ODD_SCHEDULES = [
    "every_s = 3e11",
    "every_s = 'NaN'",
    "grace_s = 1e12",
    "last_tick_at = '-infinity'",
    "cron = 'x', every_s = 0",
]


@pytest.mark.parametrize("odd", ODD_SCHEDULES)
def test_the_admin_lists_an_odd_schedule(core: PrivateConnection, odd: str) -> None:
    for name in ("odd", "sound"):
        Schedule.objects.create(name=name, type="t.note", every_s=60, origin="database", params={"text": "x"})
    core.fetch(f"UPDATE esteira_schedule SET {odd} WHERE name = 'odd'")
    admin = Client()
    admin.force_login(account("boss", superuser=True, staff=True))

    listed = admin.get("/admin/esteira/schedule/")

    assert listed.status_code == 200
    assert "sound" in listed.content.decode()


def test_a_moment_beyond_python_is_written_back_as_it_was(core: PrivateConnection) -> None:
    (job_id,) = stored(core)
    core.fetch("UPDATE esteira_job SET expires_at = 'infinity'")

    row = Job.objects.get()
    Job.objects.filter(pk=job_id).update(expires_at=row.expires_at)

    assert row.broken == ["expires_at"]
    assert core.fetch("SELECT expires_at = 'infinity' FROM esteira_job") == [(True,)]
    assert core.fetch("SELECT expires_at FROM esteira_job")[0][0] > datetime(9000, 1, 1, tzinfo=UTC)


def test_a_type_with_a_default_that_is_no_json_leaves_the_list_of_types_readable(
    core: PrivateConnection,
) -> None:
    @job(name="t.nan")
    def nan(ctx: Context, x: float = float("nan")) -> None: ...

    types = strict(get(bearer("viewer"), "/job-types").content)["items"]

    assert "t.nan" in [one["name"] for one in types]
