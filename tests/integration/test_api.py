"""The JSON API: rights, accepted requests, refused requests and their errors, repeats."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import Client

from esteira import Context, job
from esteira.db import PrivateConnection
from esteira.models import IdempotencyKey, Job, Schedule
from tests.support.clients import KNOWN, account, bearer, browser, get, post, problem
from tests.support.jobs import UNKNOWN_ID, ended, stored

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("types")]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("get", "/jobs"),
        ("post", "/jobs"),
        ("post", "/jobs/batch"),
        ("get", f"/jobs/{UNKNOWN_ID}"),
        ("post", f"/jobs/{UNKNOWN_ID}/cancel"),
        ("post", f"/jobs/{UNKNOWN_ID}/retry"),
        ("get", f"/jobs/{UNKNOWN_ID}/files"),
        ("get", f"/jobs/{UNKNOWN_ID}/files/a.txt"),
        ("post", "/files"),
        ("get", "/job-types"),
        ("get", "/job-types/t.note"),
        ("get", "/schedules"),
        ("get", "/openapi.json"),
    ],
)
@pytest.mark.parametrize("token", [None, "Bearer esteira_" + "x" * 43, "Bearer", "Basic YTpi"])
def test_nothing_answers_without_an_account(method: str, path: str, token: str | None) -> None:
    client = Client(headers={"Authorization": token} if token else {})

    response = getattr(client, method)(f"/api/v1{path}")

    assert problem(response)["type"] == "/problems/unauthenticated"
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    ("role", "allowed"),
    [
        ("viewer", {"list", "types", "schedules"}),
        ("submitter", {"list", "types", "schedules", "submit", "upload", "files"}),
        ("operator", {"list", "types", "schedules", "submit", "upload", "files", "retry", "force"}),
    ],
)
def test_each_role_may_what_it_says(role: str, allowed: set[str], core: PrivateConnection) -> None:
    user = account(role, role)
    client = bearer(role, user=user)
    (failed, one) = stored(core, 2, account=f"user:{user.pk}")
    ended(core, failed, "failed")
    answers = {
        "list": get(client, "/jobs"),
        "types": get(client, "/job-types"),
        "schedules": get(client, "/schedules"),
        "submit": post(client, "/jobs", KNOWN),
        "upload": client.post("/api/v1/files?name=a", b"x", content_type="text/plain"),
        "files": get(client, f"/jobs/{one}/files"),
        "retry": post(client, f"/jobs/{failed}/retry"),
        "force": post(client, f"/jobs/{one}/cancel", {"force": True}),
    }

    assert {name for name, answer in answers.items() if answer.status_code < 300} == allowed
    refused = [answer for name, answer in answers.items() if name not in allowed]
    assert {(problem(answer)["type"], answer.status_code) for answer in refused} <= {
        ("/problems/forbidden", 403)
    }


def test_an_account_without_a_role_may_nothing() -> None:
    response = get(browser(""), "/jobs")

    assert response.status_code == 403
    assert "esteira-viewer" in problem(response)["detail"]


def test_a_session_needs_its_csrf_token_to_change_something() -> None:
    client = browser("operator", enforce_csrf_checks=True)
    client.get("/login/")
    token = client.cookies["csrftoken"].value

    assert get(client, "/jobs").status_code == 200
    assert problem(post(client, "/jobs", KNOWN))["type"] == "/problems/csrf"
    assert post(client, "/jobs", KNOWN, X_CSRFToken=token).status_code == 202


def test_a_wrong_token_is_refused_beside_a_good_session() -> None:
    response = get(browser("operator"), "/jobs", Authorization="Bearer esteira_" + "x" * 43)

    assert response.status_code == 401


def test_an_accepted_job_is_stored_and_told_where(operator: Client) -> None:
    response = post(operator, "/jobs", KNOWN)

    body = response.json()
    row = Job.objects.get()
    assert response.status_code == 202
    assert response.headers["Location"] == f"/api/v1/jobs/{row.pk}"
    assert response.headers["Retry-After"] == "1"
    assert (body["id"], body["type"], body["state"]) == (str(row.pk), "t.note", "queued")
    assert body["params"] == {"text": "hello", "times": 1}
    assert (body["deduplicated"], body["submitted_by"]) == (False, "operator-of-token / test")
    assert row.submitted_by == "operator-of-token / test"
    assert get(operator, f"/jobs/{row.pk}").json() == {k: v for k, v in body.items() if k != "deduplicated"}


def test_options_reach_the_job(operator: Client) -> None:
    options = {"queue": "mail", "priority": "high", "delay": 3600, "expires_in": 7200, "unique": "july"}

    body = post(operator, "/jobs", {**KNOWN, "options": options}).json()

    assert (body["state"], body["queue"], body["priority"], body["unique"]) == (
        "scheduled",
        "mail",
        "high",
        "july",
    )
    created, run_at, expires_at = (
        datetime.fromisoformat(body[n]) for n in ("created_at", "run_at", "expires_at")
    )
    assert timedelta(seconds=3595) < run_at - created < timedelta(seconds=3605)
    assert timedelta(seconds=7195) < expires_at - created < timedelta(seconds=7205)


def test_a_date_to_run_at_is_kept(operator: Client) -> None:
    year = datetime.now(UTC).year + 2
    options = {"run_at": f"{year}-01-31T09:00:00-03:00"}

    body = post(operator, "/jobs", {**KNOWN, "options": options}).json()

    assert (body["run_at"], body["state"]) == (f"{year}-01-31T12:00:00.000Z", "scheduled")


def test_a_held_unique_key_answers_with_the_job_that_holds_it(operator: Client) -> None:
    asked = {**KNOWN, "options": {"unique": "july"}}
    first = post(operator, "/jobs", asked)

    second = post(operator, "/jobs", asked)

    assert second.status_code == 202
    assert second.json()["deduplicated"] is True
    assert second.headers["Location"] == first.headers["Location"]
    assert Job.objects.count() == 1


def test_a_held_unique_key_can_be_an_error(operator: Client) -> None:
    post(operator, "/jobs", {**KNOWN, "options": {"unique": "july"}})

    response = post(operator, "/jobs", {**KNOWN, "options": {"unique": "july", "on_conflict": "error"}})

    assert response.status_code == 409
    assert problem(response)["type"] == "/problems/unique-conflict"


@pytest.mark.parametrize(
    ("body", "code", "pointers"),
    [
        ({"type": "t.nothing"}, "unknown-job-type", ["#/type"]),
        ({"type": "t.note"}, "invalid-parameters", ["#/params/text"]),
        (
            {"type": "t.note", "params": {"text": "", "times": "x", "more": 1}},
            "invalid-parameters",
            ["#/params/text", "#/params/times", "#/params/more"],
        ),
        ({**KNOWN, "options": {"queue": "nowhere"}}, "unknown-queue", ["#/options/queue"]),
        ({**KNOWN, "options": {"priority": "urgent"}}, "invalid-option", ["#/options/priority"]),
        ({**KNOWN, "options": {"delay": -1}}, "invalid-option", ["#/options/delay"]),
        ({**KNOWN, "options": {"expires_in": 0}}, "invalid-option", ["#/options/expires_in"]),
        ({**KNOWN, "options": {"unique": ""}}, "invalid-option", ["#/options/unique"]),
        ({**KNOWN, "options": {"on_conflict": "x"}}, "invalid-option", ["#/options/on_conflict"]),
        (
            {**KNOWN, "options": {"delay": 1, "run_at": "2030-01-01T00:00:00Z"}},
            "invalid-option",
            ["#/options/run_at"],
        ),
        ({**KNOWN, "options": {"run_at": "2099-01-01T00:00:00"}}, "invalid-request", ["#/options/run_at"]),
        (
            {**KNOWN, "options": {"delay": "soon", "x": 1}},
            "invalid-request",
            ["#/options/delay", "#/options/x"],
        ),
        ({**KNOWN, "option": {}}, "invalid-request", ["#/option"]),
        ({}, "invalid-request", ["#/type"]),
        ({"type": 1, "params": []}, "invalid-request", ["#/type", "#/params"]),
        ([], "invalid-request", ["#"]),
        (None, "invalid-request", ["#"]),
    ],
)
def test_a_wrong_submit_names_each_mistake(
    operator: Client, body: Any, code: str, pointers: list[str]
) -> None:
    response = post(operator, "/jobs", body)

    told = problem(response)
    assert (response.status_code, told["type"]) == (422, f"/problems/{code}")
    assert [error["pointer"] for error in told["errors"]] == pointers
    assert all(error["detail"] for error in told["errors"])
    assert not Job.objects.exists()


@pytest.mark.parametrize(
    ("body", "said"),
    [
        *[(body, "is not JSON") for body in ("{", "nonsense", '{"a": ', "\x00")],
        ("[" * 100_000, "is nested too deeply"),
    ],
)
def test_a_body_that_is_not_json_is_said_so(operator: Client, body: str, said: str) -> None:
    response = post(operator, "/jobs", body)

    assert response.status_code == 400
    assert f"The body {said}" in problem(response)["detail"]


def test_parameters_over_their_limit_are_refused(operator: Client) -> None:
    @job(name="t.big")
    def big(ctx: Context, text: str) -> None: ...

    response = post(operator, "/jobs", {"type": "t.big", "params": {"text": "x" * 70_000}})

    assert response.status_code == 413
    assert problem(response)["errors"][0]["pointer"] == "#/params"


def test_a_request_over_its_limit_is_refused(operator: Client, settings) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = 1000

    response = post(operator, "/jobs", {"type": "t.note", "params": {"text": "x" * 2000}})

    assert response.status_code == 413
    assert problem(response)["type"] == "/problems/too-large"


def test_a_batch_is_accepted_in_its_order(operator: Client) -> None:
    asked = [{"type": "t.note", "params": {"text": f"n{i}"}} for i in range(50)]

    response = post(operator, "/jobs/batch", {"jobs": asked})

    ids = [one["id"] for one in response.json()["jobs"]]
    texts = {str(row.pk): row.params["text"] for row in Job.objects.all()}
    assert response.status_code == 202
    assert [texts[one] for one in ids] == [f"n{i}" for i in range(50)]


def test_a_batch_with_a_mistake_is_refused_whole_and_names_all(operator: Client) -> None:
    jobs = [
        KNOWN,
        {"type": "t.note", "params": {}},
        KNOWN,
        {"type": "t.no"},
        {**KNOWN, "params": {"text": 1}},
    ]

    response = post(operator, "/jobs/batch", {"jobs": jobs})

    pointers = [error["pointer"] for error in problem(response)["errors"]]
    assert response.status_code == 422
    assert pointers == ["#/jobs/1/params/text", "#/jobs/3/type", "#/jobs/4/params/text"]
    assert not Job.objects.exists()


def test_a_batch_names_the_job_whose_option_is_wrong(operator: Client) -> None:
    jobs = [KNOWN, KNOWN, {**KNOWN, "options": {"queue": "nowhere"}}]

    response = post(operator, "/jobs/batch", {"jobs": jobs})

    assert problem(response)["errors"][0]["pointer"] == "#/jobs/2/options/queue"


def test_a_conflict_in_a_batch_undoes_all_of_it(operator: Client) -> None:
    once = {**KNOWN, "options": {"unique": "july", "on_conflict": "error"}}

    response = post(operator, "/jobs/batch", {"jobs": [KNOWN, once, once]})

    assert response.status_code == 409
    assert not Job.objects.exists()


def test_a_batch_has_one_to_a_thousand_jobs(operator: Client) -> None:
    assert post(operator, "/jobs/batch", {"jobs": []}).status_code == 422

    too_many = post(operator, "/jobs/batch", {"jobs": [KNOWN] * 1001})
    assert too_many.status_code == 413
    assert "1,000" in problem(too_many)["detail"]

    assert post(operator, "/jobs/batch", {"jobs": [KNOWN] * 1000}).status_code == 202
    assert Job.objects.count() == 1000


@pytest.mark.parametrize("path", ["/jobs", "/jobs/batch"])
def test_a_repeat_under_a_key_gets_the_first_answer(operator: Client, path: str) -> None:
    body = KNOWN if path == "/jobs" else {"jobs": [KNOWN, KNOWN]}

    first = post(operator, path, body, Idempotency_Key="k1")
    second = post(operator, path, body, Idempotency_Key='"k1"')

    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json() == second.json()
    assert second.headers.get("Location") == first.headers.get("Location")
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Idempotency-Replayed"] == "true"
    assert Job.objects.count() == (1 if path == "/jobs" else 2)


@pytest.mark.parametrize("path", ["/jobs", "/jobs/batch", "/jobs/{}/retry"])
def test_a_repeat_whose_jobs_retention_has_removed_is_told_so(
    operator: Client, core: PrivateConnection, path: str
) -> None:
    (one,) = stored(core)
    ended(core, one, "failed")
    body = {"/jobs": KNOWN, "/jobs/batch": {"jobs": [KNOWN, KNOWN]}}.get(path)
    first = post(operator, path.format(one), body, Idempotency_Key="k1")
    Job.objects.all().delete()

    again = post(operator, path.format(one), body, Idempotency_Key="k1")

    assert first.status_code == 202
    assert (again.status_code, problem(again)["type"]) == (410, "/problems/removed")
    assert not Job.objects.exists()


def test_a_repeat_of_a_batch_of_which_some_is_left_gets_the_first_answer(operator: Client) -> None:
    first = post(operator, "/jobs/batch", {"jobs": [KNOWN, KNOWN]}, Idempotency_Key="k1")
    Job.objects.filter(pk=first.json()["jobs"][0]["id"]).delete()

    again = post(operator, "/jobs/batch", {"jobs": [KNOWN, KNOWN]}, Idempotency_Key="k1")

    assert (again.status_code, again.json()) == (202, first.json())
    assert Job.objects.count() == 1


def test_a_key_for_another_request_is_refused(operator: Client) -> None:
    post(operator, "/jobs", KNOWN, Idempotency_Key="k1")

    response = post(operator, "/jobs", {"type": "t.note", "params": {"text": "other"}}, Idempotency_Key="k1")

    assert (response.status_code, problem(response)["type"]) == (422, "/problems/idempotency-mismatch")
    assert Job.objects.count() == 1


def test_a_refused_submit_keeps_no_key(operator: Client) -> None:
    assert post(operator, "/jobs", {"type": "t.note"}, Idempotency_Key="k1").status_code == 422
    assert not IdempotencyKey.objects.exists()

    assert post(operator, "/jobs", KNOWN, Idempotency_Key="k1").status_code == 202


def test_keys_of_two_tokens_do_not_meet() -> None:
    user = account("ana", "operator")
    for client in (bearer(user=user), bearer(user=user)):
        assert post(client, "/jobs", KNOWN, Idempotency_Key="k1").status_code == 202

    assert Job.objects.count() == 2


@pytest.mark.parametrize("key", ["", "é", "x" * 256, 'a"b c', '"'])
def test_a_malformed_key_is_refused(operator: Client, key: str) -> None:
    response = post(operator, "/jobs", KNOWN, Idempotency_Key=key)

    assert response.status_code == 400
    assert not Job.objects.exists()


def test_a_retry_under_a_key_happens_once(operator: Client, core: PrivateConnection) -> None:
    (one,) = stored(core)
    ended(core, one, "failed")

    answers = [post(operator, f"/jobs/{one}/retry", Idempotency_Key="k1") for _ in range(2)]

    assert [answer.status_code for answer in answers] == [202, 202]


def test_schedules_are_listed_with_what_is_wrong_with_them(operator: Client) -> None:
    mine = {"type": "t.note", "cron": "0 6 * * *", "params": {"text": "hello"}}
    Schedule.objects.create(name="bad", error="KeyError: 'day'", failures=2, **mine)
    Schedule.objects.create(name="good", **mine)
    Schedule.objects.create(name="newer", **{**mine, "type": "t.newer"})
    Schedule.objects.create(name="off", enabled=False, error="KeyError: 'day'", **mine)
    Schedule.objects.create(name="old", origin="gone", **mine)

    items = get(operator, "/schedules").json()["items"]
    seen = get(bearer("viewer"), "/schedules").json()["items"]

    assert [one["name"] for one in items] == ["bad", "good", "newer", "off", "old"]
    assert [one["failing"] for one in items] == [True, False, True, False, True]
    assert items[0]["error"] == "KeyError: 'day' Tried 2 times."
    assert (items[0]["failures"], items[0]["when"]) == (2, "At 06:00 every day (UTC)")
    assert items[0]["params"] == {"text": "hello"}
    assert "knows no job type t.newer" in items[2]["error"]
    assert [one["failing"] for one in seen] == [one["failing"] for one in items]
    assert [(one["error"], one["params"]) for one in seen] == [(None, None)] * 5
