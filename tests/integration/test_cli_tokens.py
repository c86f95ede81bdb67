"""Tokens on the command line: made for an account and for a time, listed, revoked."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from django.contrib.auth.models import Group, User

from esteira import Context, job
from esteira_web.accounts.tokens import ApiToken, access_by
from tests.support.jobs_command import jobs

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(autouse=True)
def _types(job_types: None) -> None:
    @job(name="cli.greet")
    def greet(ctx: Context) -> None:
        """Greet somebody."""


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables fold at the terminal's width, and not every process has one."""
    monkeypatch.setenv("COLUMNS", "160")


def test_a_token_belongs_to_the_only_superuser() -> None:
    User.objects.create_superuser("boss")

    said = jobs("token", "backups", "--role=viewer", "--expires=30d")

    access = access_by(said.out.strip())
    assert access is not None
    assert access.by == "boss / backups"
    assert {str(scope) for scope in access.scopes} == {"jobs:read", "jobs:read:own"}
    assert "not shown again" in said.err
    assert ApiToken.objects.get().expires_at


def test_a_token_ends_by_itself_unless_it_is_told_not_to() -> None:
    User.objects.create_superuser("boss")

    plain, forever = jobs("token", "plain"), jobs("token", "forever", "--expires=never")

    life = ApiToken.objects.get(name="plain").expires_at - datetime.now(UTC)
    assert timedelta(days=89) < life <= timedelta(days=90, minutes=1)
    assert ApiToken.objects.get(name="forever").expires_at is None
    assert "UTC. The token is not shown again" in plain.err
    assert "without end" in forever.err


def test_a_token_is_limited_by_what_is_typed() -> None:
    User.objects.create_superuser("boss")

    said = jobs("token", "ci", "--types=cli.*", "--types=nothing.like-it", "--sees-all", "--sees-payloads")

    token = ApiToken.objects.get()
    assert (token.types, token.sees_all, token.sees_payloads) == (["cli.*", "nothing.like-it"], True, True)
    assert "No job type matches nothing.like-it" in said.err
    assert "cli.*" not in said.err
    assert "only a submitter's token" in jobs("token", "x", "--types=a", "--role=operator").err


def test_tokens_are_listed_and_revoked() -> None:
    User.objects.create_superuser("boss")
    secrets = [jobs("token", name).out.strip() for name in ("one", "two", "three")]
    first, second, _ = ApiToken.objects.order_by("pk")

    listed = jobs("tokens")
    data = jobs("tokens", "--json").data
    by_number = jobs("tokens", "revoke", str(first.pk))
    by_beginning = jobs("tokens", "revoke", second.prefix, "--json")

    assert all(word in listed.out for word in ("one", "two", first.prefix, "boss", "in "))
    assert [one["name"] for one in data] == ["one", "two", "three"]
    assert not any(secret in listed.out + json.dumps(data) for secret in secrets)
    assert "Revoked one" in by_number.err
    assert by_beginning.data[0]["name"] == "two"
    assert [access_by(secret) is None for secret in secrets] == [True, True, False]
    assert jobs("tokens", "revoke").code == 2
    assert jobs("tokens", "revoke", "99").code == 1
    assert "no token" in jobs("tokens", "revoke", "nothing").err
    assert "Several tokens" not in jobs("tokens", "revoke", secrets[2][:14]).err
    assert "There are no tokens" in jobs("tokens").err


def test_a_beginning_that_several_tokens_have_revokes_none() -> None:
    User.objects.create_superuser("boss")
    jobs("token", "one")
    jobs("token", "two")

    assert "Several tokens begin with esteira_" in jobs("tokens", "revoke", "esteira_").err
    assert ApiToken.objects.count() == 2


def test_a_token_of_a_named_user_who_lacks_rights_says_so() -> None:
    User.objects.create_user("eva").groups.add(Group.objects.get_or_create(name="esteira-viewer")[0])

    said = jobs("token", "ci", "--user=eva", "--json")

    assert said.data[0]["user"] == "eva"
    assert access_by(said.data[0]["token"])
    assert "eva lacks jobs:submit, so this token lacks it too: see the group esteira-submitter." in said.err


def test_who_a_token_belongs_to_must_be_clear() -> None:
    assert "createsuperuser" in jobs("token", "x").err
    User.objects.create_superuser("a")
    User.objects.create_superuser("b")

    assert "--user NAME" in jobs("token", "x").err
    assert "there is no active user nobody" in jobs("token", "x", "--user=nobody").err
    assert not ApiToken.objects.exists()
