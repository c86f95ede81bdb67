"""Signing in: who guesses is slowed down, by name and by address, and nobody can lock an owner out."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth.hashers import check_password
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.test import Client, RequestFactory

from esteira.db import PrivateConnection
from esteira.errors import TooManyRequests
from esteira_web.accounts import hashing, login
from esteira_web.accounts.addresses import address_of
from esteira_web.accounts.login import LoginFailure
from esteira_web.server import problems
from esteira_web.server.rarely import Rarely
from tests.support.clients import PASSWORD, account, hashed, problem

pytestmark = pytest.mark.django_db
DOORS = ["/login/", "/admin/login/"]


@pytest.fixture(autouse=True)
def ana(database: None) -> Any:
    return account("ana", "viewer", staff=True)


def sign_in(
    password: str, *, name: str = "ana", client: Client | None = None, door: str = DOORS[0], **meta: Any
) -> Any:
    return (client or Client()).post(door, {"username": name, "password": password, "next": "/"}, **meta)


def failed(
    core: PrivateConnection, n: int, *, name: str = "ana", address: str = "127.0.0.1", ago_s: float = 60
) -> None:
    """Store failures, as if somebody had tried; each real one would take a third of a second."""
    core.fetch(
        """INSERT INTO esteira_web_loginfailure (at, username, address)
           SELECT clock_timestamp() - %s * interval '1 second', %s, %s FROM generate_series(1, %s)""",
        [ago_s, name, address, n],
    )


def refused(response: Any) -> bool:
    if response.status_code == 429:
        assert int(response.headers["Retry-After"]) > 0
        assert "Try again in" in response.content.decode()
    return bool(response.status_code == 429)


@pytest.mark.parametrize("door", DOORS)
def test_a_wrong_password_counts_and_the_right_one_does_not(door: str) -> None:
    assert sign_in("wrong", door=door).status_code == 200
    assert sign_in(PASSWORD, door=door).status_code == 302

    assert LoginFailure.objects.count() == 1


@pytest.mark.parametrize("door", DOORS)
def test_who_guesses_one_name_is_slowed_down_and_nobody_else(core: PrivateConnection, door: str) -> None:
    account("bia", staff=True)
    failed(core, login.MAX_FAILURES)

    assert refused(sign_in(PASSWORD, door=door))
    assert sign_in(PASSWORD, door=door, REMOTE_ADDR="10.9.8.7").status_code == 302
    assert sign_in(PASSWORD, name="bia", door=door).status_code == 302


@pytest.mark.parametrize("door", DOORS)
def test_who_guesses_many_names_is_slowed_down(core: PrivateConnection, door: str) -> None:
    for n in range(login.MAX_OF_ADDRESS):
        failed(core, 1, name=f"name{n}")

    assert refused(sign_in("wrong", name="yet-another", door=door))
    assert refused(sign_in(PASSWORD, door=door))
    assert sign_in(PASSWORD, door=door, REMOTE_ADDR="10.9.8.7").status_code == 302


def test_refused_tries_make_it_no_longer(core: PrivateConnection) -> None:
    failed(core, login.MAX_FAILURES, ago_s=250)
    before = LoginFailure.objects.count()

    waits = [int(sign_in("wrong").headers["Retry-After"]) for _ in range(5)]

    assert LoginFailure.objects.count() == before
    assert max(waits) <= 50
    core.fetch("UPDATE esteira_web_loginfailure SET at = at - interval '51 s'")
    assert sign_in(PASSWORD).status_code == 302


def test_an_owner_gets_in_while_the_whole_world_guesses(core: PrivateConnection) -> None:
    for n in range(200):
        failed(core, 1, address=f"10.0.{n // 250}.{n % 250}", ago_s=5)

    assert sign_in(PASSWORD, REMOTE_ADDR="192.0.2.7").status_code == 302


def test_under_attack_each_address_has_few_tries(core: PrivateConnection) -> None:
    failed(core, login.ATTACK, address="10.0.0.1", ago_s=1000)
    failed(core, login.MAX_UNDER_ATTACK, address="192.0.2.7")

    assert refused(sign_in(PASSWORD, REMOTE_ADDR="192.0.2.7"))
    assert sign_in(PASSWORD, REMOTE_ADDR="192.0.2.8").status_code == 302


def test_a_browser_that_is_known_gets_in_from_an_address_that_is_closed(core: PrivateConnection) -> None:
    known = Client()
    assert sign_in(PASSWORD, client=known).status_code == 302
    known.post("/logout/")
    failed(core, login.MAX_OF_ADDRESS)
    failed(core, login.ATTACK)

    assert refused(sign_in(PASSWORD))
    assert sign_in(PASSWORD, client=known).status_code == 302


def test_a_known_browser_is_known_for_its_own_account_and_has_a_limit_too(core: PrivateConnection) -> None:
    account("bia")
    known = Client()
    sign_in(PASSWORD, client=known)
    cookie = known.cookies["esteira_known"]
    failed(core, login.MAX_OF_ADDRESS)

    assert refused(sign_in(PASSWORD, name="bia", client=known))
    assert (cookie["httponly"], cookie["samesite"]) == (True, "Lax")
    forged = Client()
    forged.cookies["esteira_known"] = cookie.value[:-2] + "xx"
    assert refused(sign_in(PASSWORD, client=forged))
    for _ in range(login.MAX_FAILURES):
        source = login._source(_request(known), "ana")
        failed(core, 1, address=source)
    assert refused(sign_in(PASSWORD, client=known))


def _request(client: Client) -> Any:
    request = RequestFactory().get("/")
    request.COOKIES = {name: morsel.value for name, morsel in client.cookies.items()}
    return request


def test_many_tries_at_the_same_moment_count_each_other() -> None:
    """Each is noted before it is checked, so a burst has no more guesses than a row of tries."""
    answers: list[int] = []

    def guess() -> None:
        answers.append(sign_in("wrong").status_code)

    threads = [threading.Thread(target=guess) for _ in range(2 * login.MAX_FAILURES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers.count(200) <= login.MAX_FAILURES
    assert set(answers) <= {200, 429}
    assert LoginFailure.objects.count() == answers.count(200)


@pytest.mark.parametrize("door", DOORS)
def test_when_many_passwords_are_checked_the_next_is_told_to_come_again(door: str) -> None:
    places = hashing._places()
    taken = [places.acquire(blocking=False) for _ in range(hashing.MOST)]
    try:
        response = sign_in(PASSWORD, door=door)
    finally:
        places.release(taken.count(True))

    assert refused(response)
    assert "Too many passwords are being checked" in response.content.decode()
    assert not LoginFailure.objects.exists()
    assert sign_in(PASSWORD, door=door).status_code == 302


def test_a_password_is_hashed_on_no_thread_of_a_request() -> None:
    before = {thread.name for thread in threading.enumerate()}

    sign_in(PASSWORD)

    after = {thread.name for thread in threading.enumerate()}
    assert any(name.startswith("password") for name in after | before)
    assert check_password(PASSWORD, hashed())


def test_the_old_password_is_guessed_no_more_often_where_it_is_changed(core: PrivateConnection) -> None:
    client = Client()
    client.force_login(User.objects.get(username="ana"))
    new = {"new_password1": "another long one 7", "new_password2": "another long one 7"}

    wrong = client.post("/admin/password_change/", {"old_password": "wrong", **new})
    failed(core, login.MAX_FAILURES - 1)
    closed = client.post("/admin/password_change/", {"old_password": PASSWORD, **new})
    core.fetch("DELETE FROM esteira_web_loginfailure")
    right = client.post("/admin/password_change/", {"old_password": PASSWORD, **new})

    assert (wrong.status_code, closed.status_code, right.status_code) == (200, 429, 302)
    assert int(closed.headers["Retry-After"]) > 0
    assert not LoginFailure.objects.exists()
    assert sign_in("another long one 7").status_code == 302


def test_a_limit_is_a_problem_of_its_own_with_the_time_to_come_again(rf: RequestFactory) -> None:
    refused = problems.of(TooManyRequests(retry_after_s=7))
    assert refused is not None

    answer = problem(_answered(refused.response(rf.get("/api/v1/files"))))

    assert (answer["type"], answer["status"]) == ("/problems/too-many-requests", 429)
    assert refused.headers["Retry-After"] == "7"
    client = Client()
    client.force_login(User.objects.get(username="ana"))
    assert "Retry-After" in client.get(answer["type"]).content.decode()


def _answered(response: Any) -> Any:
    """Give an answer what the outermost middleware adds."""
    told = json.loads(response.content)
    response["X-Request-ID"] = "r"
    response.content = json.dumps({**told, "request_id": "r"})
    return response


def test_a_try_that_the_database_breaks_off_is_nobodys_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("broken off")

    monkeypatch.setattr("django.contrib.auth.backends.ModelBackend.authenticate", away)
    with pytest.raises(RuntimeError):
        sign_in(PASSWORD)

    assert not LoginFailure.objects.exists()


def test_failures_are_logged_without_names_and_not_without_end(
    core: PrivateConnection, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        login, "log", Rarely(logging.getLogger("esteira_web.accounts"))
    )  # this minute may have had its lines
    failed(core, login.MAX_FAILURES, name="gw-secret-typed-as-name")

    for _ in range(50):
        sign_in("pw-secret", name="gw-secret-typed-as-name")

    lines = [record.getMessage() for record in caplog.records if record.name == "esteira_web.accounts"]
    assert 0 < len(lines) <= 31
    assert not [line for line in lines if "secret" in line]


# --- Addresses --------------------------------------------------------------------------------------------------------


@pytest.fixture
def behind_proxy(settings: Any) -> Iterator[None]:
    settings.BEHIND_TLS = True
    yield


@pytest.mark.parametrize(
    ("told", "address"),
    [
        ("198.51.100.7", "198.51.100.7"),
        ("10.0.0.1, 198.51.100.7", "198.51.100.7"),
        ("198.51.100.7:4711", "198.51.100.7"),
        ("[2001:db8:1:2:3::4]:4711", "2001:db8:1:2::/64"),
        ('"[2001:db8:1:2::9]"', "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:198.51.100.7", "198.51.100.7"),
        ("", "192.0.2.1"),
        ("unknown", "192.0.2.1"),
        ("_hidden, ", "192.0.2.1"),
        ("1.2.3.4.5", "192.0.2.1"),
        ("[", "192.0.2.1"),
        ("[]:1", "192.0.2.1"),
        ("\x00\x1b[31m", "192.0.2.1"),
        ("9" * 100_000, "192.0.2.1"),
        (", " * 50_000 + "198.51.100.7", "198.51.100.7"),
    ],
)
def test_a_proxy_says_where_a_request_came_from(behind_proxy: None, told: str, address: str) -> None:
    request = RequestFactory().get("/", REMOTE_ADDR="192.0.2.1", HTTP_X_FORWARDED_FOR=told)

    assert address_of(request) == address


def test_nobody_else_is_believed() -> None:
    request = RequestFactory().get("/", REMOTE_ADDR="192.0.2.1", HTTP_X_FORWARDED_FOR="198.51.100.7")

    assert address_of(request) == "192.0.2.1"
    assert address_of(RequestFactory().get("/", REMOTE_ADDR="")) == "unknown"


# --- Sessions ---------------------------------------------------------------------------------------------------------


def test_a_session_in_use_goes_on_and_one_that_is_not_ends(core: PrivateConnection) -> None:
    client = Client()
    sign_in(PASSWORD, client=client)
    client.get("/")
    (session,) = Session.objects.all()
    first = session.expire_date
    data = session.get_decoded()
    data["used"] -= settings.SESSION_COOKIE_AGE // 2
    session.session_data = Session.objects.encode(data)
    session.save()

    assert client.get("/").status_code == 200
    assert Session.objects.get().expire_date > first
    stored = Session.objects.get().expire_date
    assert client.get("/").status_code == 200
    assert Session.objects.get().expire_date == stored
    core.fetch("UPDATE django_session SET expire_date = clock_timestamp()")
    assert client.get("/").headers["Location"].startswith("/login/")
