"""The pages as somebody with a browser and no JavaScript meets them."""

from __future__ import annotations

import json
import re
from uuid import UUID

import pytest
from django.test import Client

from esteira.db import PrivateConnection
from esteira.files import open_result
from esteira.models import Job, JobLog
from esteira.record.finish import finish
from esteira_web.pages import jobs
from tests.support.clients import PASSWORD, account, browser
from tests.support.jobs import UNKNOWN_ID, ended, outcome, running, stored

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("types")]


@pytest.fixture
def operator(database: None) -> Client:
    return browser("operator")


def text_of(response: object) -> str:
    return response.content.decode()  # type: ignore[attr-defined, no-any-return]


# --- signing in


@pytest.mark.parametrize(
    "path", ["/", f"/jobs/{UNKNOWN_ID}/", f"/jobs/{UNKNOWN_ID}/cancel/", "/problems/forbidden"]
)
def test_nothing_is_shown_without_an_account(path: str) -> None:
    response = Client().get(path)

    assert response.status_code == 302
    assert response.headers["Location"].startswith("/login/?next=")


def test_who_signs_in_comes_to_the_page_they_asked_for() -> None:
    account("ana", "viewer")
    client = Client(enforce_csrf_checks=True)
    page = client.get("/login/?next=/%3Fstate%3Dfailed")
    token = client.cookies["csrftoken"].value

    sent = {"username": "ana", "password": PASSWORD, "next": "/?state=failed", "csrfmiddlewaretoken": token}
    response = client.post("/login/", sent)

    assert 'autocomplete="current-password"' in text_of(page)
    assert (response.status_code, response.headers["Location"]) == (302, "/?state=failed")
    assert client.get("/").status_code == 200
    token = client.cookies["csrftoken"].value
    assert client.post("/logout/", {"csrfmiddlewaretoken": token}).headers["Location"] == "/login/"
    assert client.get("/").status_code == 302


def test_a_sign_in_leads_to_no_other_site() -> None:
    account("ana", "viewer")

    response = Client().post(
        "/login/", {"username": "ana", "password": PASSWORD, "next": "https://evil.example/"}
    )

    assert response.headers["Location"] == "/"


def test_an_account_without_a_role_is_told_whom_to_ask() -> None:
    response = browser("").get("/")

    assert response.status_code == 403
    assert "esteira-viewer" in text_of(response)


# --- the list


def test_a_page_that_is_not_there_offers_no_other_account(operator: Client) -> None:
    missing = operator.get("/nothing-here")

    assert missing.status_code == 404
    assert b"another account" not in missing.content
    assert b"another account" in browser("").get("/").content


def test_an_empty_list_says_how_to_begin(operator: Client) -> None:
    assert "manage.py jobs demo" in text_of(operator.get("/"))
    assert "No job matches" in text_of(operator.get("/?state=failed"))


def test_jobs_are_listed_with_state_and_try(operator: Client, core: PrivateConnection) -> None:
    (one,) = stored(core)
    (failed,) = stored(core)
    ended(core, failed, "failed")

    everything, only_failed = text_of(operator.get("/")), text_of(operator.get("/?state=failed"))

    assert f"/jobs/{one}/" in everything
    assert f"/jobs/{failed}/" in everything
    assert f"/jobs/{one}/" not in only_failed
    assert f"/jobs/{failed}/" in only_failed
    assert "0 of 4" in everything


def test_older_and_newer_pages_keep_the_filter(operator: Client, core: PrivateConnection) -> None:
    stored(core, 120, queue="mail")
    stored(core, 3)
    seen: list[str] = []
    address: str | None = "/?queue=mail"
    while address:
        page = text_of(operator.get(address))
        seen += re.findall(r'class="job" href="/jobs/([0-9a-f-]+)/"', page)
        found = re.search(r'<a href="([^"]+)" rel="next"', page)
        address = found.group(1).replace("&amp;", "&") if found else None

    assert len(seen) == len(set(seen)) == 120
    assert 'rel="prev"' in page


def test_a_filter_that_makes_no_sense_is_said(operator: Client) -> None:
    response = operator.get("/?state=sleeping")

    assert response.status_code == 422
    assert "sleeping" in text_of(response)


def test_the_list_says_why_a_job_failed_to_those_who_may_know(
    operator: Client, core: PrivateConnection
) -> None:
    job_id = failed_job(core, message="no rows in " + "x" * 300 + "\nsecond line")

    page, to_a_viewer = text_of(operator.get("/")), text_of(browser("viewer").get("/"))

    assert f"/jobs/{job_id}/" in to_a_viewer
    assert "ValueError: no rows in xxx" in page
    assert "x" * 200 not in page
    assert "second line" not in page
    assert "ValueError" in to_a_viewer
    assert "no rows" not in to_a_viewer


# --- one job


def failed_job(core: PrivateConnection, message: str = "no <b>rows</b>") -> UUID:
    (claimed,) = running(core, max_failures=1, params='{"text": "<script>alert(1)</script>"}')
    JobLog.objects.create(job_id=claimed.id, attempt=1, text="reading <rows>\n")
    error = {"kind": "exception", "type": "ValueError", "message": message, "traceback": "File x"}
    finish(core, [outcome(claimed, "failed", error=json.dumps(error))])
    return claimed.id


def test_a_failed_job_shows_why_and_what_it_was_given(operator: Client, core: PrivateConnection) -> None:
    page = text_of(operator.get(f"/jobs/{failed_job(core)}/"))

    for part in (
        "ValueError",
        "no &lt;b&gt;rows&lt;/b&gt;",
        "File x",
        "reading &lt;rows&gt;",
        "Retry",
        "1 of 1",
    ):
        assert part in page
    assert "<script" not in page
    assert "<b>rows" not in page


def test_a_viewer_sees_neither_payloads_nor_buttons(core: PrivateConnection) -> None:
    client, job_id = browser("viewer"), failed_job(core)

    page = text_of(client.get(f"/jobs/{job_id}/"))

    for part in ("no &lt;b", "alert", "File x", "Retry</button>", "Cancel</button>"):
        assert part not in page
    assert "payloads:read" in page
    assert client.post(f"/jobs/{job_id}/retry/").status_code == 403
    assert Job.objects.get(pk=job_id).state == "failed"


def test_a_result_file_can_be_reached_from_its_job(operator: Client, core: PrivateConnection) -> None:
    (claimed,) = running(core)
    with open_result(claimed.id, claimed.attempt, 'a "b" & c.txt', db=core) as out:
        out.write(b"content")
    finish(core, [outcome(claimed, files=True)])

    page = text_of(operator.get(f"/jobs/{claimed.id}/"))

    address = re.search(r'<a href="([^"]+)" download>', page)
    assert address is not None
    assert operator.get(address.group(1)).getvalue() == b"content"
    assert "&quot;ok&quot;: true" in page


def test_sizes_and_spans_are_said_as_on_the_command_line(operator: Client, core: PrivateConnection) -> None:
    (claimed,) = running(core)
    with open_result(claimed.id, claimed.attempt, "report.txt", db=core) as out:
        out.write(b"x" * 2048)
    finish(core, [outcome(claimed, files=True)])
    core.fetch("UPDATE esteira_job SET finished_at = started_at")

    page = text_of(operator.get(f"/jobs/{claimed.id}/"))

    assert "2.0 KiB" in page
    assert "<dt>Took</dt><dd>under 1 ms</dd>" in page


def test_a_page_says_what_it_leaves_out_of_a_long_log_and_of_many_events(
    operator: Client, core: PrivateConnection
) -> None:
    (one,) = stored(core)
    JobLog.objects.create(job_id=one, attempt=1, text="first words\n" + "x" * jobs.LOG_SHOWN)
    core.fetch(
        """INSERT INTO esteira_jobevent (job_id, at, kind, attempt, worker, by, detail)
           SELECT %s, clock_timestamp(), 'kind' || n, 1, '', '', '{}' FROM generate_series(1, %s) AS n""",
        [one, jobs.EVENTS_SHOWN + 1],
    )

    page = text_of(operator.get(f"/jobs/{one}/"))

    assert "first words" not in page
    assert f"The last {jobs.LOG_SHOWN:,} characters are shown" in page
    assert ">kind1<" not in page
    assert f"The newest {jobs.EVENTS_SHOWN} events are shown" in page
    assert f"manage.py jobs show {one} --logs" in page


def test_buttons_do_what_they_say_and_tell_it(operator: Client, core: PrivateConnection) -> None:
    (one,) = stored(core)

    after_cancel = operator.post(f"/jobs/{one}/cancel/", follow=True)
    assert Job.objects.get(pk=one).state == "cancelled"
    after_retry = operator.post(f"/jobs/{one}/retry/", follow=True)

    assert Job.objects.get(pk=one).state == "queued"
    assert "Cancelled." in text_of(after_cancel)
    assert "Sent back to its queue." in text_of(after_retry)


def test_a_running_job_is_asked_first_and_ended_then(operator: Client, core: PrivateConnection) -> None:
    (claimed,) = running(core)
    page = f"/jobs/{claimed.id}/"
    assert "End its process" not in text_of(operator.get(page))

    asked = text_of(operator.post(f"{page}cancel/", follow=True))
    forced = text_of(operator.post(f"{page}cancel/", {"force": "1"}, follow=True))

    assert "Stop requested" in asked
    assert "End its process" in asked
    assert "is being ended" in forced
    assert Job.objects.get().cancel_force is True


def test_a_job_that_ended_meanwhile_is_told_not_an_error(operator: Client, core: PrivateConnection) -> None:
    (one,) = stored(core)
    ended(core, one, "succeeded")

    response = operator.post(f"/jobs/{one}/cancel/", follow=True)

    assert response.status_code == 200
    assert "Nothing was changed" in text_of(response)


def test_a_secret_is_not_on_the_page(operator: Client, core: PrivateConnection) -> None:
    (one,) = stored(core, type="t.send", params='{"to": "ana", "password": "hunter2"}')

    page = text_of(operator.get(f"/jobs/{one}/"))

    assert "hunter2" not in page
    assert "**********" in page


def test_buttons_answer_to_post_from_this_site_only(core: PrivateConnection) -> None:
    (one,) = stored(core)
    client = browser("operator", enforce_csrf_checks=True)

    assert client.get(f"/jobs/{one}/cancel/").status_code == 405
    response = client.post(f"/jobs/{one}/cancel/")

    assert response.status_code == 403
    assert "too old" in text_of(response)
    assert Job.objects.get().state == "queued"


# --- every page


@pytest.mark.parametrize(
    "path", ["/", "/login/", "/nothing", f"/jobs/{UNKNOWN_ID}/", "/problems/forbidden", "/api/v1/jobs"]
)
def test_every_answer_is_strict_about_scripts_and_caches(operator: Client, path: str) -> None:
    response = operator.get(path)

    policy = response.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert "no-store" in response.headers["Cache-Control"]
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    page = text_of(response)
    assert not re.search(r"<script|<style|\sstyle=|\son\w+=", page)


def test_flower_is_linked_only_where_there_is_one(operator: Client, settings) -> None:
    assert "Flower" not in text_of(operator.get("/"))

    settings.ESTEIRA_FLOWER_URL = "http://localhost:5555/"

    assert 'href="http://localhost:5555/"' in text_of(operator.get("/"))
