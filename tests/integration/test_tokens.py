"""Tokens: shown once, kept as a checksum, never mightier than their account, gone when they should be."""

from __future__ import annotations

import hashlib
import logging
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client

from esteira.errors import InvalidOption
from esteira_web.accounts import roles, tokens
from esteira_web.accounts.roles import Scope
from esteira_web.accounts.tokens import ApiToken, access_by, create_token
from esteira_web.server.rarely import Rarely
from tests.support.clients import account

pytestmark = pytest.mark.django_db


def test_only_the_checksum_of_a_token_is_kept() -> None:
    token, secret = create_token(account("ana", "operator"), "ci", role="operator")

    with connection.cursor() as cursor:
        cursor.execute("SELECT t::text FROM esteira_web_apitoken t")
        (row,) = cursor.fetchone()
    assert secret not in row
    assert token.sha256 == hashlib.sha256(secret.encode()).hexdigest()
    assert secret.startswith(token.prefix)


def test_a_token_says_who_acts_and_what_they_may() -> None:
    _, secret = create_token(account("ana", "operator"), "ci", role="submitter")

    found = access_by(secret)

    assert found is not None
    assert found.by == "ana / ci"
    assert found.scopes == {Scope.OWN, Scope.SUBMIT}


@pytest.mark.parametrize(
    ("groups", "role", "scopes"),
    [
        (["viewer"], "operator", {Scope.OWN, Scope.READ}),
        (["operator"], "viewer", {Scope.OWN, Scope.READ}),
        (["submitter"], "viewer", {Scope.OWN}),
        (["viewer", "payloads"], "operator", {Scope.OWN, Scope.READ, Scope.PAYLOADS}),
        ([], "operator", set()),
    ],
)
def test_a_token_is_never_mightier_than_its_account(groups: list[str], role: str, scopes: set[Scope]) -> None:
    _, secret = create_token(account("ana", *groups), "ci", role=role)

    found = access_by(secret)

    assert found is not None
    assert found.scopes == scopes


def test_a_viewers_token_may_be_let_see_payloads() -> None:
    _, secret = create_token(account("ana", "operator"), "ci", role="viewer", sees_payloads=True)

    found = access_by(secret)

    assert found is not None
    assert found.scopes == {Scope.OWN, Scope.READ, Scope.PAYLOADS}


@pytest.mark.parametrize(
    "wrong", ["", "esteira_", "esteira_" + "x" * 43, "x" * 10_000, "esteira_" + "\0" * 43]
)
def test_a_wrong_token_opens_nothing(wrong: str) -> None:
    create_token(account("ana", "operator"), "ci")

    assert access_by(wrong) is None


def test_an_expired_token_opens_nothing() -> None:
    token, secret = create_token(account("ana", "operator"), "ci", expires_in=timedelta(days=1))
    assert access_by(secret) is not None

    ApiToken.objects.update(expires_at=token.created_at)

    assert access_by(secret) is None


def test_a_closed_account_closes_its_tokens() -> None:
    user = account("ana", "operator")
    _, secret = create_token(user, "ci")
    user.is_active = False
    user.save()

    assert access_by(secret) is None


def test_a_deleted_token_opens_nothing() -> None:
    token, secret = create_token(account("ana", "operator"), "ci")
    token.delete()

    assert access_by(secret) is None


def test_the_last_use_is_kept_to_the_minute() -> None:
    token, secret = create_token(account("ana", "operator"), "ci")
    assert token.last_used_at is None

    access_by(secret)
    first = ApiToken.objects.get().last_used_at
    access_by(secret)

    assert first is not None
    assert ApiToken.objects.get().last_used_at == first


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 81}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"role": "root"}, "role"),
        ({"expires_in": timedelta(0)}, "expires_in"),
    ],
)
def test_a_token_that_makes_no_sense_is_refused(options: dict, field: str) -> None:
    with pytest.raises(InvalidOption) as refused:
        create_token(account("ana"), **{"name": "ci", **options})

    assert refused.value.field == field
    assert not ApiToken.objects.exists()


def test_the_admin_lists_tokens_without_their_checksum_and_can_delete_them() -> None:
    token, secret = create_token(account("ana", "operator"), "ci")
    client = Client()
    client.force_login(account("root", superuser=True, staff=True))

    pages = [
        client.get("/admin/esteira_web/apitoken/"),
        client.get(f"/admin/esteira_web/apitoken/{token.pk}/change/"),
    ]
    refused = client.get("/admin/esteira_web/apitoken/add/")
    client.post(f"/admin/esteira_web/apitoken/{token.pk}/delete/", {"post": "yes"})

    assert [page.status_code for page in pages] == [200, 200]
    assert token.prefix in pages[0].content.decode()
    assert not [page for page in pages if token.sha256 in page.content.decode()]
    assert refused.status_code == 403
    assert access_by(secret) is None


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name in ("esteira_web.accounts", "esteira_web.accounts")
    ]


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """The log, whatever this minute has had of it."""
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(tokens, "rarely", Rarely(tokens.log))
    monkeypatch.setattr(roles, "log", Rarely(logging.getLogger("esteira_web.accounts")))
    return caplog


def test_what_becomes_of_a_token_is_logged_without_its_secret(told: pytest.LogCaptureFixture) -> None:
    user = account("ana", "viewer")
    token, secret = create_token(user, "ci", role="viewer", by="cli:root")
    client = Client(headers={"Authorization": f"Bearer {secret}"})
    post = {"data": "{}", "content_type": "application/json"}
    assert client.post("/api/v1/jobs", **post).status_code == 403
    token.expires_at = token.created_at
    token.save()
    assert client.get("/api/v1/jobs").status_code == 401
    token.expires_at = None
    token.save()
    user.is_active = False
    user.save()
    assert client.get("/api/v1/jobs").status_code == 401
    token.delete()
    assert client.get("/api/v1/jobs").status_code == 401
    assert Client(headers={"Authorization": "Bearer pass\x1bword"}).get("/api/v1/jobs").status_code == 401

    told_of = lines(told)
    for line, words in zip(
        told_of,
        (
            "was made by cli:root",
            "lacks the right jobs:submit",
            "has expired",
            "is closed",
            "was revoked",
            "unknown",
            "it does not have the form of a token",
        ),
        strict=True,
    ):
        assert words in line
    assert all("127.0.0.1" in line for line in told_of[2:4])
    assert not [line for line in told_of if secret[len(token.prefix) :] in line or "word" in line]


def test_refusals_do_not_fill_the_disk(told: pytest.LogCaptureFixture) -> None:
    for _ in range(100):
        access_by("esteira_" + "x" * 43)

    assert len(lines(told)) == 30


def test_what_was_left_out_is_counted(told: pytest.LogCaptureFixture) -> None:
    rarely = Rarely(logging.getLogger("esteira_web.accounts"), most=2, span_s=0)
    slow = Rarely(logging.getLogger("esteira_web.accounts"), most=2)

    for _ in range(5):
        slow.warning("once more")
    slow._allowance._span_s = 0.0
    slow.warning("a new minute")
    rarely.warning("%s", "plain")

    assert lines(told) == ["once more"] * 2 + ["3 more such lines were left out", "a new minute", "plain"]


@pytest.mark.parametrize(
    "name", ["", "   ", "a\nb", "a\x1b[31mb", "a\u202eb", "a\u2028b", "a\u200bb", "x" * 81]
)
def test_a_token_has_a_name_that_is_seen_as_it_is(name: str) -> None:
    with pytest.raises(
        InvalidOption, match=r"name: (must be 1 to 80 characters|holds an invisible character)"
    ):
        create_token(account("ana"), name)
