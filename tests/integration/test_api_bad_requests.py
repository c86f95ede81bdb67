"""Two hundred and more requests that are wrong: each is refused in its own words, names its fields, and stores nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jsonschema
import pytest
from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.middleware.csrf import get_token
from django.test import Client, RequestFactory

from esteira.job_types.registry import registry
from esteira.models import Job, Queue, Schedule
from esteira_web.accounts.tokens import create_token
from esteira_web.api.openapi import described
from esteira_web.api.routes import api
from tests.support import bad_addresses, bad_pages, bad_requests
from tests.support.bad_requests import JOBS, Bad
from tests.support.web_server import Said, WebServer

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

#: What a refusal takes at most; a hundredth of it is usual, and the largest bodies take a tenth.
WITHIN_S = 10
BAD = [
    *bad_requests.WHO,
    *bad_requests.BODIES,
    *bad_requests.CONTENT,
    *bad_requests.FIELDS,
    *bad_requests.PARAMS,
    *bad_requests.OPTIONS,
    *bad_addresses.BATCHES,
    *bad_addresses.HEADERS,
    *bad_addresses.QUERIES,
    *bad_addresses.METHODS,
    *bad_addresses.ADDRESSES,
]


@dataclass(frozen=True, kw_only=True)
class Callers:
    """One account of each role with a token, and a signed-in browser."""

    tokens: dict[str, str]
    cookie: str
    csrf: str

    def headers(self, who: str) -> dict[str, str]:
        if who == "page":
            return {"Cookie": self.cookie, "X-CSRFToken": self.csrf, "Referer": "http://127.0.0.1/"}
        return {"Authorization": f"Bearer {self.tokens[who]}"} if who else {}


def _account(name: str, *groups: str, **flags: bool) -> Any:
    """Make an account that has no password: to make one takes long on purpose."""
    user = get_user_model().objects.create(username=name, password="!", **flags)
    for group in groups:
        user.groups.add(Group.objects.get_or_create(name=f"esteira-{group}")[0])
    return user


@pytest.fixture
def callers(database: None) -> Callers:
    tokens = {
        role: create_token(_account(role, role), "test", role=role)[1]
        for role in ("viewer", "submitter", "operator")
    }
    browser = Client()
    browser.force_login(_account("root", is_superuser=True, is_staff=True))
    request = RequestFactory().get("/")
    csrf = get_token(request)
    secret = request.META["CSRF_COOKIE"]
    session = browser.cookies[settings.SESSION_COOKIE_NAME].value
    return Callers(
        tokens=tokens,
        csrf=csrf,
        cookie=f"{settings.SESSION_COOKIE_NAME}={session}; {settings.CSRF_COOKIE_NAME}={secret}",
    )


_PARTS = described(api, registry.all())["components"]["schemas"]
_PROBLEM = jsonschema.Draft202012Validator(
    {**_PARTS["ProblemBody"], "additionalProperties": False, "components": {"schemas": _PARTS}}
)


def _wrong(bad: Bad, said: Said) -> Iterator[str]:
    """Say what is wrong with an answer."""
    if said.status != bad.status:
        yield f"status {said.status} instead of {bad.status}: {said.body[:200]!r}"
    if said.headers.get("Allow", "") != bad.allow:
        yield f"Allow {said.headers.get('Allow')!r} instead of {bad.allow!r}"
    if bad.method == "HEAD" or bad.who == "page" or not bad.code:
        return
    if said.headers["Content-Type"] != "application/problem+json":
        yield f"no problem document: {said.headers['Content-Type']} {said.body[:200]!r}"
        return
    told = said.json()
    yield from (f"is no problem as described: {error.message}" for error in _PROBLEM.iter_errors(told))
    if told["type"] != f"/problems/{bad.code}":
        yield f"{told['type']} instead of {bad.code}: {told['detail']}"
    named = sorted(str(e.get("pointer", e.get("parameter"))) for e in told.get("errors", []))
    if named != sorted(bad.fields):
        yield f"names {named} instead of {sorted(bad.fields)}"


def _asked(served: WebServer, callers: Callers, requests: Sequence[Bad]) -> Iterator[tuple[Bad, Said]]:
    """Send one request after the other; one that drops its connection or takes long is an answer of its own."""
    for bad in requests:
        started = time.monotonic()
        try:
            said = served.ask(bad.method, bad.path, bad.body, {**callers.headers(bad.who), **bad.headers})
        except OSError as error:
            said = Said(status=0, headers={}, body=repr(error).encode())
        if time.monotonic() - started > WITHIN_S:
            said = Said(status=0, headers={}, body=f"took {time.monotonic() - started:.1f} s".encode())
        yield bad, said


def test_the_table_has_more_than_150_requests_each_with_a_name_of_its_own() -> None:
    assert len(BAD) > 150
    assert len({bad.name for bad in BAD}) == len(BAD)


def test_a_wrong_request_is_told_so_and_stores_nothing(served: WebServer, callers: Callers) -> None:
    failures = []
    for bad, said in _asked(served, callers, BAD):
        failures += [f"{bad.name}: {one}" for one in _wrong(bad, said)]
        if Job.objects.exists():
            failures.append(f"{bad.name}: stored {Job.objects.values_list('type', 'params')}")
            Job.objects.all().delete()

    assert not failures, "\n".join([f"{len(failures)} of {len(BAD)}", *failures])


def test_an_odd_request_that_is_right_is_answered(served: WebServer, callers: Callers) -> None:
    asked = list(_asked(served, callers, bad_addresses.ODD_BUT_RIGHT))

    assert not [(bad.name, said.status, said.body) for bad, said in asked if said.status != bad.status]
    assert not [bad.name for bad, said in asked if "json" not in said.headers["Content-Type"]]
    assert not [bad.name for bad, said in asked if bad.method == "HEAD" and said.body]
    assert Job.objects.count() == sum(bad.status == 202 for bad in bad_addresses.ODD_BUT_RIGHT)


def test_an_id_in_capitals_is_the_same_job(served: WebServer, callers: Callers) -> None:
    (made,) = _asked(served, callers, [bad_addresses.ODD_BUT_RIGHT[0]])
    path = f"{JOBS}/{made[1].json()['id'].upper()}"

    said = served.ask("GET", path, headers=callers.headers("operator"))

    assert (said.status, said.json()["id"]) == (200, made[1].json()["id"])


def test_a_wrong_page_is_a_page_that_says_so(served: WebServer, callers: Callers) -> None:
    pages = [
        Bad(name=path, status=0, code="", method="GET", path=path, who="page") for path, _ in bad_pages.PAGES
    ]

    answers = [(bad.path, said) for bad, said in _asked(served, callers, pages)]

    allowed = dict(bad_pages.PAGES)
    assert not [
        (path, said.status, said.body[:300]) for path, said in answers if said.status not in allowed[path]
    ]
    assert not [path for path, said in answers if "text/html" not in said.headers["Content-Type"]]


def test_a_wrong_form_does_nothing(served: WebServer, callers: Callers) -> None:
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    forms = [
        Bad(name=str(n), status=0, code="", path=path, body=body, who="page", headers=kind)
        for n, (path, body, _) in enumerate(bad_pages.FORMS)
    ]

    answers = [(int(bad.name), said) for bad, said in _asked(served, callers, forms)]

    assert not [
        (bad_pages.FORMS[n][:2], said.status, said.body[:300])
        for n, said in answers
        if said.status not in bad_pages.FORMS[n][2]
    ]
    assert not Job.objects.exists()
    assert not Queue.objects.exists()
    assert not Schedule.objects.exists()


def test_a_form_with_a_session_at_an_address_for_json_is_refused(served: WebServer, callers: Callers) -> None:
    """Whoever looks for the CSRF token of a session reads a form with files, so that no body is left to be read."""
    (form,) = (bad for bad in bad_requests.CONTENT if "multipart" in bad.name)

    said = served.ask("POST", JOBS, form.body, {**callers.headers("page"), **form.headers})

    assert (said.status, said.json()["type"]) == (415, "/problems/unsupported-media-type")
