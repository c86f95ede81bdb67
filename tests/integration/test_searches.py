"""What people and programs are told when a search came to its bounds: how far it looked, and how it goes on."""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Iterator
from io import StringIO
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.conf import settings
from django.core.management import call_command
from django.test import Client

from esteira.db import PrivateConnection
from esteira.search import scan
from esteira_web.admin import found as admin_list
from tests.support.clients import account, bearer, browser, get, problem
from tests.support.jobs import stored

pytestmark = pytest.mark.django_db

NEWER, OLD = 60, 3
BOUND = 20
RARE = "tests.rare"


@pytest.fixture
def rare(core: PrivateConnection, monkeypatch: pytest.MonkeyPatch) -> list[UUID]:
    """A few jobs of one type behind many of another; a search looks at 20 jobs."""
    for name in ("MOST_ROWS", "FIRST_ROWS"):
        monkeypatch.setattr(scan, name, BOUND)
    old = [
        one for _ in range(OLD) for one in stored(core, 1, type=RARE)
    ]  # those of one list are as old as each other
    for _ in range(NEWER):
        stored(core, 1)
    return old


def test_the_api_says_how_far_it_searched_and_its_next_page_goes_on(
    rare: list[UUID], core: PrivateConnection
) -> None:
    client, items, cursor, searched = bearer(), list[str](), "", []
    while cursor is not None:
        body = get(client, f"/jobs?type={RARE}&cursor={cursor}").json()
        items += [item["id"] for item in body["items"]]
        searched += [body["searched_to"]] if body["searched_to"] else []
        cursor = body["next"]

    assert set(items) == {str(one) for one in rare}
    assert searched == sorted(searched, reverse=True)
    assert len(searched) == NEWER // BOUND
    assert get(client, "/jobs?limit=5").json()["searched_to"] is None


def test_a_list_of_the_api_can_begin_before_a_moment(rare: list[UUID], core: PrivateConnection) -> None:
    (at,) = core.fetch("SELECT max(created_at) FROM esteira_job WHERE type = %s", [RARE])[0]
    before = at.isoformat().replace("+", "%2B")

    items = get(bearer(), f"/jobs?created_before={before}").json()["items"]

    assert {item["id"] for item in items} < {str(one) for one in rare}
    assert len(items) == OLD - 1


def test_a_page_says_where_the_search_ended_and_leads_on_without_javascript(rare: list[UUID]) -> None:
    client, address, sentences = browser(), f"/?type={RARE}", []
    while True:
        page = client.get(address).content.decode()
        if "Search older jobs" not in page:
            break
        sentences.append(re.search(r'role="status">([^<]+)<a href="([^"]+)">Search older jobs →', page))
        assert sentences[-1] is not None, page
        address = html.unescape(sentences[-1].group(2))

    said = [one.group(1) for one in sentences if one]
    assert said[0].startswith(f"Nothing matches among the {BOUND} newest jobs, back to 20")
    assert said[1].startswith(f"Nothing matches among the next {BOUND} jobs, back to 20")
    assert all(f"/jobs/{one}/" in page for one in rare)
    assert "Nothing matches" not in page
    assert 'rel="next"' not in page


def listed(*words: str) -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    call_command("jobs", "list", *words, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command_line_gives_the_line_that_searches_on(
    rare: list[UUID], monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    monkeypatch.setattr(settings, "ESTEIRA_MANAGE_COMMAND", "docker compose exec web manage")
    words, out, said = ["--type", RARE, *(["--json"] if as_json else [])], "", []
    while True:
        more, err = listed(*words)
        out += more
        if not err:
            break
        said.append(err)
        line = err.partition("To search older jobs: docker compose exec web manage jobs list ")[2]
        words = [*shlex.split(line), *(["--json"] if as_json else [])]

    assert said[0].startswith(f"Nothing matches among the {BOUND} newest jobs, back to 20")
    assert len(said) == NEWER // BOUND
    assert all(str(one)[-12:] in out for one in rare)


def test_the_command_line_lists_more_jobs_than_one_search_looks_at(rare: list[UUID]) -> None:
    out, err = listed("--limit", "1000", "--json")

    assert len({json.loads(line)["id"] for line in out.splitlines()}) == NEWER + OLD
    assert err == ""


def test_the_admin_says_where_the_search_ended_and_leads_on(rare: list[UUID]) -> None:
    client = Client()
    client.force_login(account("boss", superuser=True, staff=True))
    address, said = f"/admin/esteira/job/?q={RARE}", []
    while True:
        page = client.get(address).content.decode()
        note = re.search(r'<li class="info">([^<]+)<a href="([^"]+)">Search older jobs', page)
        if note is None:
            break
        said.append(note.group(1))
        address = f"/admin/esteira/job/{html.unescape(note.group(2))}"

    assert said[0].startswith(f"Nothing matches among the {BOUND} newest jobs, back to 20")
    assert said[1].startswith(f"Nothing matches among the next {BOUND} jobs, back to 20")
    assert len(said) == NEWER // BOUND
    assert all(str(one)[-12:] in page for one in rare)


def test_the_admin_lists_the_newest_that_match_and_leads_to_the_rest(
    rare: list[UUID], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin_list, "MOST_LISTED", 10)
    client = Client()
    client.force_login(account("boss", superuser=True, staff=True))
    address, seen = "/admin/esteira/job/", set[str]()
    while True:
        page = client.get(address).content.decode()
        seen |= set(re.findall(r'name="_selected_action" value="([^"]+)"', page))
        note = re.search(r'The (?:newest|next) 10 [^<]+<a href="([^"]+)">Search older jobs', page)
        if note is None:
            break
        address = f"/admin/esteira/job/{html.unescape(note.group(1))}"

    assert len(seen) == NEWER + OLD


@pytest.fixture
def locked(rare: list[UUID]) -> Iterator[None]:
    """Nobody can read jobs, as while somebody rewrites the table."""
    with psycopg.connect(settings.DATABASE_URL) as holder:
        holder.execute("LOCK TABLE esteira_job IN ACCESS EXCLUSIVE MODE")
        yield
        holder.rollback()


def test_a_search_that_can_say_nothing_in_time_names_what_would_narrow_it(locked: None) -> None:
    response = get(bearer(), f"/jobs?type={RARE}&state=dead")

    told: dict[str, Any] = problem(response)
    assert (response.status_code, told["type"]) == (503, "/problems/search-too-slow")
    assert "Narrow the list by queue, created_after, created_before" in told["detail"]
    assert response.headers["Retry-After"] == "1"
