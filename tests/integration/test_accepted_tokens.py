"""Accepted tokens are kept for two seconds: what counts at once, what counts then, and what is never kept."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.contrib.auth.models import Group
from django.db import transaction

from esteira.db import PrivateConnection
from esteira_web.accounts import accepted as kept
from esteira_web.accounts.accepted import KEPT_S, Accepted, accepted
from esteira_web.accounts.roles import Access, Scope
from esteira_web.accounts.tokens import ApiToken, create_token
from tests.support.clients import account
from tests.support.process_stack import manage
from tests.support.waiting import until
from tests.support.web_with_servers import WebWithServers, run_web_with_servers


def access_by(secret: str, tokens: Accepted = accepted) -> Access | None:
    return tokens.access_by(secret, lambda: "a test")


@pytest.fixture
def secret(core: PrivateConnection) -> str:
    return create_token(account("ana", "operator"), "ci", role="operator")[1]


#: Done over a connection of its own, as by another process.
REVOKE = "DELETE FROM esteira_web_apitoken"


def test_a_token_is_looked_up_once_for_many_requests(secret: str, core: PrivateConnection) -> None:
    first = access_by(secret)
    core.fetch(REVOKE)

    assert first is not None
    assert access_by(secret) is first


def test_an_answer_counts_for_its_time_only(
    secret: str, core: PrivateConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "KEPT_S", 0.2)
    began = time.monotonic()
    assert access_by(secret)
    core.fetch(REVOKE)

    until(lambda: access_by(secret) is None, "the token is refused", timeout=5)

    assert time.monotonic() - began >= 0.2


def test_the_end_of_a_token_counts_to_the_moment(
    core: PrivateConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "KEPT_S", 3600.0)
    _, secret = create_token(account("ana", "operator"), "ci", expires_in=timedelta(seconds=0.5))
    assert access_by(secret)

    until(lambda: access_by(secret) is None, "the token has expired")

    assert core.fetch("SELECT expires_at <= clock_timestamp() FROM esteira_web_apitoken") == [(True,)]


def _rename(group: Group) -> None:
    group.name = "other"
    group.save()


CHANGES: dict[str, Callable[[Any, ApiToken], object]] = {
    "the token is deleted": lambda user, token: token.delete(),
    "the token is changed": lambda user, token: (setattr(token, "role", "viewer"), token.save()),
    "the account is closed": lambda user, token: (setattr(user, "is_active", False), user.save()),
    "the account is deleted": lambda user, token: user.delete(),
    "the account leaves its groups": lambda user, token: user.groups.clear(),
    "the account leaves a group": lambda user, token: user.groups.remove(*user.groups.all()),
    "the groups of the account are others": lambda user, token: user.groups.set([]),
    "the group loses its members": lambda user, token: user.groups.get().user_set.clear(),
    "the group is deleted": lambda user, token: user.groups.get().delete(),
    "the group is renamed": lambda user, token: _rename(user.groups.get()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("atomic", [False, True], ids=["at once", "in a transaction"])
def test_a_change_of_this_process_counts_at_once(
    database: None, change: Callable[[Any, ApiToken], object], atomic: bool
) -> None:
    user = account("ana", "operator")
    token, secret = create_token(user, "ci", role="operator")
    before = access_by(secret)
    assert before is not None
    assert before.may(Scope.OPERATE)

    if atomic:
        with transaction.atomic():
            change(user, token)
    else:
        change(user, token)

    after = access_by(secret)
    assert after is None or not after.may(Scope.OPERATE)


def test_a_change_during_a_look_up_is_not_missed(secret: str, core: PrivateConnection) -> None:
    """The answer of the look-up is older than the change."""
    tokens = Accepted()

    def source() -> str:
        tokens.forget()
        return "a test"

    assert tokens.access_by(secret, source) is not None
    core.fetch(REVOKE)

    assert access_by(secret, tokens) is None


@pytest.mark.parametrize("wrong", ["esteira_" + "x" * 43, "", "nonsense"])
def test_a_refusal_is_not_kept(database: None, wrong: str) -> None:
    tokens = Accepted()

    assert access_by(wrong, tokens) is None
    assert not tokens._of


def test_an_account_that_is_opened_again_counts_at_once(secret: str, core: PrivateConnection) -> None:
    core.fetch("UPDATE auth_user SET is_active = false")
    tokens = Accepted()
    assert access_by(secret, tokens) is None

    core.fetch("UPDATE auth_user SET is_active = true")

    assert access_by(secret, tokens) is not None


def test_only_checksums_are_kept_and_not_too_many(database: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "MOST", 3)
    user, tokens = account("ana", "operator"), Accepted()
    secrets = [create_token(user, f"token {n}")[1] for n in range(5)]

    for secret in secrets:
        assert access_by(secret, tokens)

    assert len(tokens._of) == 3
    assert not [secret for secret in secrets if secret in repr(tokens._of)]


# --- Two web processes ------------------------------------------------------------------------------------------------

CONNECTIONS = 12


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebWithServers]:
    home = Path(tmp_path_factory.mktemp("tokens"))
    yield from run_web_with_servers(home, "--workers", "2", JOB_PACKAGES="jobs")


def _token_of(site: WebWithServers, name: str) -> str:
    """Make an account in the group of submitters, and a token."""
    code = (
        "from django.contrib.auth import get_user_model; from django.contrib.auth.models import Group; "
        "from esteira_web.accounts.tokens import create_token; "
        f"user = get_user_model().objects.create(username='{name}'); "
        "user.groups.add(Group.objects.get_or_create(name='esteira-submitter')[0]); "
        "print('TOKEN', create_token(user, 'test', role='submitter')[1])"
    )
    env = {**site.web.env, "DATABASE_URL": site.postgres.url}
    return manage("shell", "-c", code, env=env).split("TOKEN ", 1)[1].split()[0]


OTHERS_CHANGES = {
    "revoked": (
        401,
        "DELETE FROM esteira_web_apitoken t USING auth_user u WHERE u.id = t.user_id AND u.username = %s",
    ),
    "account-closed": (401, "UPDATE auth_user SET is_active = false WHERE username = %s"),
    "right-removed": (
        403,
        "DELETE FROM auth_user_groups g USING auth_user u WHERE u.id = g.user_id AND u.username = %s",
    ),
    "limited": (
        403,
        """UPDATE esteira_web_apitoken t SET types = '["other.*"]' FROM auth_user u
           WHERE u.id = t.user_id AND u.username = %s""",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("status", "sql"), OTHERS_CHANGES.values(), ids=OTHERS_CHANGES)
def test_each_process_refuses_a_changed_token_within_the_bound(
    site: WebWithServers, request: pytest.FixtureRequest, status: int, sql: str
) -> None:
    name = str(request.node.callspec.id)
    token = _token_of(site, name)
    with ExitStack() as open_ones:
        ones = [
            open_ones.enter_context(closing(http.client.HTTPConnection("127.0.0.1", site.port, timeout=20)))
            for _ in range(CONNECTIONS)
        ]
        assert {_submit(one, token) for one in ones} == {202}
        with psycopg.connect(site.postgres.url) as db:
            assert db.execute(sql, [name]).rowcount == 1
        changed_at = time.monotonic()
        answers: list[tuple[float, int]] = []

        def all_were_asked_after_the_bound() -> bool:
            for one in ones:
                asked_at = time.monotonic()
                answers.append((asked_at - changed_at, _submit(one, token)))
            return answers[-CONNECTIONS][0] > KEPT_S

        until(all_were_asked_after_the_bound, "the bound has passed", timeout=KEPT_S + 10)

    assert {said for after_s, said in answers if after_s > KEPT_S} == {status}
    assert {said for _, said in answers} <= {202, status}


def _submit(connection: http.client.HTTPConnection, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection.request("POST", "/api/v1/jobs", b'{"type": "demo.greet"}', headers)
    with connection.getresponse() as answer:
        answer.read()
        return answer.status
