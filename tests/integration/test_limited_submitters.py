"""Submitters of some job types only: by a group, by a token, by both."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from esteira.errors import InvalidOption
from esteira.models import Job
from esteira_web.accounts.roles import matches
from esteira_web.accounts.tokens import create_token
from tests.support.clients import KNOWN, account, bearer, get, post, problem

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("types")]
SEND = {"type": "t.send", "params": {"to": "ana", "password": "x"}}


def session(*groups: str) -> Client:
    client = Client()
    client.force_login(account("ana", *groups))
    return client


def accepted(client: Client) -> set[str]:
    bodies: dict[str, Any] = {"t.note": KNOWN, "t.send": SEND}
    return {name for name, body in bodies.items() if post(client, "/jobs", body).status_code == 202}


@pytest.mark.parametrize(
    ("groups", "names"),
    [
        (["submitter:t.note"], {"t.note"}),
        (["submitter:t.*"], {"t.note", "t.send"}),
        (["submitter:email.*"], set()),
        (["submitter:email.*", "submitter:t.send"], {"t.send"}),
        (["submitter:t.note", "submitter"], {"t.note", "t.send"}),
        (["submitter:t.note", "operator"], {"t.note", "t.send"}),
        (["submitter:t.note", "viewer"], {"t.note"}),
        (["submitter:"], set()),
    ],
)
def test_a_group_limits_what_its_accounts_submit(groups: list[str], names: set[str]) -> None:
    assert accepted(session(*groups)) == names


def test_a_token_is_limited_by_itself_and_by_its_account() -> None:
    free, limited = account("ana", "operator"), account("bia", "submitter:t.note")

    assert accepted(bearer("submitter", user=free, types=["t.send"])) == {"t.send"}
    assert accepted(bearer("submitter", user=free, types=["*"])) == {"t.note", "t.send"}
    assert accepted(bearer("submitter", user=limited, types=["t.send"])) == set()
    assert accepted(bearer("submitter", user=limited)) == {"t.note"}


def test_a_refused_type_is_named_with_those_that_are_allowed() -> None:
    client = session("submitter:t.note")

    alone, batch = post(client, "/jobs", SEND), post(client, "/jobs/batch", {"jobs": [KNOWN, SEND]})

    for refused in (alone, batch):
        assert refused.status_code == 403
        assert problem(refused)["type"] == "/problems/forbidden"
        assert "t.note" in problem(refused)["detail"]
        assert "t.send" in problem(refused)["detail"]
    assert not Job.objects.exists()


def test_a_limited_submitter_sees_its_own_jobs() -> None:
    client = session("submitter:t.note")
    job = post(client, "/jobs", KNOWN).json()["id"]

    assert get(client, f"/jobs/{job}").json()["params"] is not None


@pytest.mark.parametrize("pattern", ["t.note", "t.*", "*", "*.note", "t.n*e"])
def test_stars_stand_for_anything(pattern: str) -> None:
    assert matches("t.note", [pattern])


@pytest.mark.parametrize("pattern", ["t.not", "T.NOTE", "t.not?", "t.[n]ote", "t", "", "note"])
def test_nothing_else_does(pattern: str) -> None:
    assert not matches("t.note", [pattern])


@pytest.mark.parametrize(
    ("role", "types"),
    [
        ("operator", ["t.note"]),
        ("viewer", ["t.note"]),
        ("submitter", [""]),
        ("submitter", ["t note"]),
        ("submitter", ["t.[a]"]),
        ("submitter", ["x" * 121]),
        ("submitter", ["t.note"] * 51),
    ],
)
def test_a_limit_that_makes_no_sense_is_refused(role: str, types: list[str]) -> None:
    with pytest.raises(InvalidOption) as refused:
        create_token(account("ana"), "ci", role=role, types=types)

    assert refused.value.field == "types"
