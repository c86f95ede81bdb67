"""Looking at jobs through the API, in lists and one by one, and operating them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from django.test import Client

from esteira.db import DjangoConnection, PrivateConnection
from esteira.ids import of_job
from esteira.models import IdempotencyKey, Job
from esteira.record.finish import finish
from esteira.states import SHOWN_STATES
from tests.support.clients import KNOWN, bearer, get, post, problem
from tests.support.jobs import UNKNOWN_ID, accepted_earlier, ended, outcome, running, stored

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("types")]


def test_a_secret_parameter_is_never_shown(operator: Client) -> None:
    sent = post(operator, "/jobs", {"type": "t.send", "params": {"to": "ana", "password": "hunter2"}})

    job_id = sent.json()["id"]
    shown = [sent, get(operator, f"/jobs/{job_id}"), get(operator, "/jobs")]
    assert not [response for response in shown if b"hunter2" in response.content]
    assert sent.json()["params"] == {"to": "ana", "password": "**********"}
    assert Job.objects.get().params["password"] == "hunter2"


def test_a_secret_is_not_in_the_answer_kept_under_a_key(operator: Client) -> None:
    asked = {"type": "t.send", "params": {"to": "ana", "password": "hunter2"}}

    post(operator, "/jobs", asked, Idempotency_Key="k1")

    assert "hunter2" not in json.dumps(IdempotencyKey.objects.get().answer)


def test_a_viewer_sees_no_payloads(core: PrivateConnection) -> None:
    (claimed,) = running(core, params='{"text": "private"}')
    core.fetch(
        "UPDATE esteira_job SET progress_done = 1, progress_text = 'private' WHERE id = %s", [claimed.id]
    )
    DjangoConnection().fetch(
        "UPDATE esteira_job SET unique_key = 'tests.work:private' WHERE id = %s", [claimed.id]
    )

    body = get(bearer("viewer"), f"/jobs/{claimed.id}")

    assert b"private" not in body.content
    assert (body.json()["params"], body.json()["result"], body.json()["unique"]) == (None, None, None)


def test_an_error_is_shown_with_its_traceback(operator: Client, core: PrivateConnection) -> None:
    (claimed,) = running(core, max_failures=1)
    error = {"kind": "exception", "type": "ValueError", "message": "no", "traceback": "File …"}
    finish(core, [outcome(claimed, "failed", error=json.dumps(error))])

    body = get(operator, f"/jobs/{claimed.id}").json()

    assert (body["state"], body["error"]) == ("failed", error)
    assert "traceback" not in get(operator, "/jobs").json()["items"][0]["error"]
    assert "message" in get(bearer("viewer"), f"/jobs/{claimed.id}").json()["error"]


def test_a_job_that_did_not_change_is_not_sent_again(operator: Client, core: PrivateConnection) -> None:
    (one,) = stored(core)
    first = get(operator, f"/jobs/{one}")

    again = get(operator, f"/jobs/{one}", If_None_Match=first.headers["ETag"])
    post(operator, f"/jobs/{one}/cancel")
    changed = get(operator, f"/jobs/{one}", If_None_Match=first.headers["ETag"])

    assert (again.status_code, again.content) == (304, b"")
    assert changed.status_code == 200
    assert (first.headers["Retry-After"], "Retry-After" in changed.headers) == ("1", False)


@pytest.mark.parametrize(
    "path", [f"/jobs/{UNKNOWN_ID}", "/jobs/nonsense", "/nothing", "", "/job-types/t.nothing"]
)
def test_what_does_not_exist_is_a_problem_document(operator: Client, path: str) -> None:
    response = get(operator, path)

    assert (response.status_code, problem(response)["type"]) == (404, "/problems/not-found")


def test_a_wrong_method_is_a_problem_document(operator: Client) -> None:
    response = operator.delete("/api/v1/jobs")

    assert (response.status_code, problem(response)["type"]) == (405, "/problems/method-not-allowed")
    assert {"GET", "POST"} <= set(response.headers["Allow"].replace(" ", "").split(","))


def test_what_breaks_on_our_side_is_a_problem_document(operator: Client, settings) -> None:
    operator.raise_request_exception = False
    settings.JOB_QUEUES = 5

    response = post(operator, "/jobs", KNOWN)

    assert (response.status_code, problem(response)["type"]) == (500, "/problems/internal")


def test_a_request_id_is_kept_if_it_is_safe(operator: Client) -> None:
    assert get(operator, "/jobs", X_Request_ID="abc-1").headers["X-Request-ID"] == "abc-1"
    assert get(operator, "/jobs", X_Request_ID="a b<c>").headers["X-Request-ID"] != "a b<c>"


@pytest.fixture
def one_of_each(core: PrivateConnection) -> Iterator[dict[str, str]]:
    """One job in each state that people see."""
    made = {
        "scheduled": stored(core, delay_s=3600)[0],
        "queued": stored(core)[0],
        "running": running(core)[0].id,
    }
    for state in ("succeeded", "failed", "dead", "cancelled", "expired"):
        (made[state],) = stored(core)
        ended(core, made[state], state)
    (claimed,) = running(core)
    finish(core, [outcome(claimed, "failed", delay_s=3600)])
    made["retrying"] = claimed.id
    yield {state: str(one) for state, one in made.items()}


@pytest.mark.parametrize("state", SHOWN_STATES)
def test_a_list_can_be_cut_to_a_state(operator: Client, one_of_each: dict[str, str], state: str) -> None:
    items = get(operator, f"/jobs?state={state}").json()["items"]

    assert [(item["id"], item["state"]) for item in items] == [(one_of_each[state], state)]


def test_several_states_mean_any_of_them(operator: Client, one_of_each: dict[str, str]) -> None:
    wanted = {one_of_each["failed"], one_of_each["dead"]}

    for query in ("state=failed&state=dead", "state=failed,dead"):
        assert {item["id"] for item in get(operator, f"/jobs?{query}").json()["items"]} == wanted


def test_a_list_can_be_cut_to_a_type_a_queue_and_a_time(operator: Client, core: PrivateConnection) -> None:
    (mail,) = stored(core, queue="mail")
    (other,) = stored(core, type="t.note")
    (old,) = stored(core)
    accepted_earlier(core, old, 7200)
    an_hour_ago = (datetime.now(UTC) - timedelta(hours=1)).isoformat().replace("+", "%2B")

    def ids(query: str) -> set[str]:
        return {item["id"] for item in get(operator, f"/jobs?{query}").json()["items"]}

    assert ids("queue=mail") == {str(mail)}
    assert ids("type=t.note") == {str(other)}
    assert ids(f"created_after={an_hour_ago}") == {str(mail), str(other)}


def test_pages_go_there_and_back_without_gap_or_repeat(operator: Client, core: PrivateConnection) -> None:
    stored(core, 25)
    # Jobs of one statement may share their time; then the random part of the id decides.
    same = core.fetch(
        f"""UPDATE esteira_job j SET created_at = v.at, id = {of_job("v.at", "j.id")}
            FROM (SELECT min(created_at) AS at FROM esteira_job) AS v RETURNING j.id"""
    )
    newest_first = sorted((str(row[0]) for row in same), reverse=True)
    seen, cursors, cursor = [], [], ""
    while cursor is not None:
        body = get(operator, f"/jobs?limit=10&cursor={cursor}").json()
        seen.append([item["id"] for item in body["items"]])
        cursors.append(body["prev"])
        cursor = body["next"]

    assert seen == [newest_first[:10], newest_first[10:20], newest_first[20:]]
    back = get(operator, f"/jobs?limit=10&cursor={cursors[2]}").json()
    assert [item["id"] for item in back["items"]] == newest_first[10:20]
    first = get(operator, f"/jobs?limit=10&cursor={back['prev']}").json()
    assert ([item["id"] for item in first["items"]], first["prev"]) == (newest_first[:10], None)


def test_the_next_page_is_in_the_link_header_too(operator: Client, core: PrivateConnection) -> None:
    stored(core, 3)

    first = get(operator, "/jobs?limit=2&queue=default")

    assert f'cursor={first.json()["next"]}>; rel="next"' in first.headers["Link"]
    assert "queue=default" in first.headers["Link"]


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("state=sleeping", "state"),
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=x", "limit"),
        ("cursor=nonsense", "cursor"),
        ("cursor=WyJvbGRlciIsMSwyXQ", "cursor"),
        ("created_after=yesterday", "created_after"),
        ("colour=red", "colour"),
    ],
)
def test_a_filter_that_makes_no_sense_is_named(operator: Client, query: str, parameter: str) -> None:
    response = get(operator, f"/jobs?{query}")

    assert response.status_code == 422
    assert problem(response)["errors"][0]["parameter"] == parameter


def test_a_waiting_job_is_cancelled(operator: Client, core: PrivateConnection) -> None:
    (one,) = stored(core)

    response = post(operator, f"/jobs/{one}/cancel")

    assert (response.status_code, response.json()["state"]) == (202, "cancelled")


def test_a_running_job_is_asked_to_stop(operator: Client, core: PrivateConnection) -> None:
    (claimed,) = running(core)

    response = post(operator, f"/jobs/{claimed.id}/cancel", {"force": True})

    assert (response.status_code, response.json()["state"]) == (202, "running")
    assert response.json()["cancel_requested"] is True
    assert Job.objects.get().cancel_force is True


def test_an_ended_job_cannot_be_cancelled(operator: Client, core: PrivateConnection) -> None:
    (one,) = stored(core)
    ended(core, one, "succeeded")

    response = post(operator, f"/jobs/{one}/cancel")

    assert (response.status_code, problem(response)["type"]) == (409, "/problems/state-conflict")


def test_a_failed_job_is_retried(operator: Client, core: PrivateConnection) -> None:
    (one,) = stored(core)
    ended(core, one, "failed")

    response = post(operator, f"/jobs/{one}/retry")

    assert (response.status_code, response.json()["state"], response.json()["error"]) == (202, "queued", None)
    assert problem(post(operator, f"/jobs/{one}/retry"))["type"] == "/problems/state-conflict"
