"""The admin as an operator uses it: through the browser's requests, on real rows."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission, User
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import path

from esteira import Context, Secret, job, operate
from esteira.db import DjangoConnection
from esteira.errors import InvalidOption
from esteira.files import open_result
from esteira.job_types.registry import registry
from esteira.models import Job, JobEvent, JobLog, Queue, Schedule, Worker
from esteira.models.shown import in_state
from esteira.record import claim, finish
from esteira.search import Wanted, search
from esteira.states import SHOWN_STATE_SQL, SHOWN_STATES

JOBS = "/admin/esteira/job/"
SCHEDULES = "/admin/esteira/schedule/"
QUEUES = "/admin/esteira/queue/"

#: The admin stands on the core alone, so it is tested without `web`.
urlpatterns = [path("admin/", admin.site.urls)]
pytestmark = [pytest.mark.usefixtures("database"), pytest.mark.urls(__name__)]
PASSWORD = Secret("hunter2")


@pytest.fixture(autouse=True)
def own_types(job_types: None) -> None:
    @job(name="admin.letter", queue="default")
    def letter(ctx: Context, to: str = "ana", password: Secret = PASSWORD) -> None: ...


@pytest.fixture
def boss(client: Client, database: None) -> Client:
    client.force_login(User.objects.create_superuser("boss", "boss@example.org", "x"))
    return client


def staff(client: Client, *permissions: str) -> Client:
    user = User.objects.create_user("staff", is_staff=True)
    user.user_permissions.set(
        Permission.objects.filter(content_type__app_label="esteira", codename__in=permissions)
    )
    client.force_login(user)
    return client


def submit(**options: Any) -> UUID:
    return registry.get("admin.letter").options(**options).submit(to="bia").id


def start(job_id: UUID) -> None:
    DjangoConnection().fetch(
        "UPDATE esteira_job SET published_at = clock_timestamp() WHERE id = %s", [job_id]
    )
    assert claim.claim(DjangoConnection(), [job_id], worker="w/1", delivery="d")


def end(job_id: UUID, kind: str, **more: Any) -> None:
    start(job_id)
    outcome = finish.Outcome(id=job_id, attempt=1, kind=kind, started_s=0.01, ended_s=0.5, **more)
    assert finish.finish(DjangoConnection(), [outcome])


def act(client: Client, url: str, action: str, *pks: Any) -> str:
    response = client.post(url, {"action": action, "_selected_action": [str(pk) for pk in pks]}, follow=True)
    assert response.status_code == 200
    return response.content.decode()


def page(client: Client, url: str, **query: str) -> str:
    response = client.get(url, query)
    assert response.status_code == 200
    return response.content.decode()


# --- Jobs: the list -------------------------------------------------------------------------------------------------


def test_the_list_shows_jobs_in_the_words_of_the_other_screens(boss: Client) -> None:
    later = submit(delay=3600.0)

    text = page(boss, JOBS)

    assert str(later)[-12:] in text
    assert ">scheduled<" in text


@pytest.mark.parametrize("state", SHOWN_STATES)
def test_every_state_can_be_filtered_by(boss: Client, state: str) -> None:
    assert "0 jobs" in page(boss, JOBS, state=state)


def test_the_filter_by_state_agrees_with_the_core(database: None) -> None:
    made = [submit(), submit(delay=3600.0), submit(), submit(), submit()]
    end(made[2], "failed", error='{"message": "x"}', delay_s=600.0)
    end(made[3], "succeeded", result="{}")
    operate.cancel(made[4], by="test")

    for name in SHOWN_STATES:
        said = {
            row[0]
            for row in DjangoConnection().fetch(
                f"SELECT id FROM esteira_job WHERE {SHOWN_STATE_SQL} = %s", [name]
            )
        }
        by_filter = {
            row[0]
            for row in DjangoConnection().fetch(f"SELECT j.id FROM esteira_job j WHERE {in_state(name)}")
        }
        assert (
            by_filter
            == {key[1] for key in search(DjangoConnection(), Wanted(states=[name]), most=10).keys}
            == said
        )
    assert {j.shown_state for j in Job.objects.all()} >= {"queued", "succeeded", "cancelled"}


def test_search_takes_a_whole_id_or_a_part_of_a_type(boss: Client) -> None:
    first, second = submit(), submit()

    by_id = page(boss, JOBS, q=str(first))
    by_type = page(boss, JOBS, q="LETTER")

    assert str(first)[-12:] in by_id
    assert str(second)[-12:] not in by_id
    assert str(second)[-12:] in by_type
    assert "0 jobs" in page(boss, JOBS, q="nothing-like-it")


def test_the_list_never_counts_or_reads_the_whole_table(boss: Client) -> None:
    registry.get("admin.letter").submit_many([{}] * 60)
    page(boss, JOBS)

    with CaptureQueriesContext(connection) as queries:
        page(boss, JOBS, type="admin.letter")

    about_jobs = [q["sql"] for q in queries if '"esteira_job"' in q["sql"]]
    assert len(about_jobs) == 2
    assert all("LIMIT" in sql for sql in about_jobs)
    assert not any('"params"' in sql or '"result"' in sql for sql in about_jobs)


# --- Jobs: one ------------------------------------------------------------------------------------------------------


def test_one_job_shows_events_logs_and_files_and_hides_secrets(boss: Client) -> None:
    made = submit()
    start(made)
    before = page(boss, f"{JOBS}{made}/change/")
    with open_result(made, 1, "letter.txt", "text/plain", db=DjangoConnection()) as file:
        file.write(b"dear bia")
    JobLog.objects.create(job_id=made, attempt=1, text="12:00 dipping the pen <b>\n")
    finish.finish(
        DjangoConnection(),
        [
            finish.Outcome(
                id=made, attempt=1, kind="succeeded", started_s=0, ended_s=1, result='{"ok": 1}', files=True
            )
        ],
    )
    JobEvent.objects.create(job_id=made, kind="rescued", worker="w/1", detail={"reason": "lease ended"})

    text = page(boss, f"{JOBS}{made}/change/")

    assert "**********" in before
    assert "hunter2" not in before
    for word in (
        "bia",
        "letter.txt",
        "dipping the pen &lt;b&gt;",
        "rescued",
        "lease ended",
        "&quot;ok&quot;",
    ):
        assert word in text
    assert "hunter2" not in text


def test_a_failed_job_shows_its_error(boss: Client) -> None:
    made = submit()
    end(made, "given_up", error='{"type": "GiveUp", "message": "no <ink>", "traceback": "line 1"}')

    assert "GiveUp: no &lt;ink&gt;\nline 1" in page(boss, f"{JOBS}{made}/change/")


def test_no_job_can_be_added_saved_or_deleted(boss: Client) -> None:
    made = submit()

    assert boss.get(f"{JOBS}add/").status_code == 403
    assert boss.post(f"{JOBS}{made}/change/", {"queue": "other"}).status_code == 403
    assert boss.post(f"{JOBS}{made}/delete/", {"post": "yes"}).status_code == 403
    assert "delete_selected" not in page(boss, JOBS)
    assert Job.objects.get().queue == "default"


def test_who_may_only_look_sees_no_payload_and_cannot_act(client: Client) -> None:
    made = submit()
    viewer = staff(client, "view_job")
    keyed = submit(unique="for-bia")

    text = page(viewer, f"{JOBS}{made}/change/") + page(viewer, f"{JOBS}{keyed}/change/")
    act(viewer, JOBS, "cancel", made)

    assert "bia" not in text
    assert "admin.letter" in text
    assert Job.objects.get(pk=made).state == "queued"


def test_the_right_to_the_log_is_the_right_to_the_payload(client: Client) -> None:
    made = submit()

    assert "bia" in page(staff(client, "view_job", "view_joblog"), f"{JOBS}{made}/change/")


# --- Jobs: actions --------------------------------------------------------------------------------------------------


def test_cancel_ends_waiting_jobs_and_asks_running_ones(boss: Client) -> None:
    waiting, running, done = submit(), submit(), submit()
    start(running)
    end(done, "succeeded", result="{}")

    text = act(boss, JOBS, "cancel", waiting, running, done)

    assert "1 cancelled." in text
    assert "1 asked to stop." in text
    assert f"ob {done} is succeeded; it cannot be cancelled." in text
    assert Job.objects.get(pk=waiting).cancel_by == "boss"
    assert not Job.objects.get(pk=running).cancel_force


def test_an_action_that_takes_too_long_says_how_far_it_came(
    boss: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody's open transaction makes each job wait; a thread of web must not wait for all of them."""
    made = [submit() for _ in range(3)]
    monkeypatch.setattr("esteira_web.admin.jobs.MOST_SECONDS", -1.0)

    text = act(boss, JOBS, "cancel", *made)

    assert "Only the first 0 were tried; choose the rest again." in text
    assert {job.state for job in Job.objects.all()} == {"queued"}


def test_cancel_by_force_says_so_in_the_row(client: Client) -> None:
    running = submit()
    start(running)

    act(staff(client, "view_job", "change_job"), JOBS, "cancel_by_force", running)

    assert Job.objects.get(pk=running).cancel_force


def test_retry_sends_failed_jobs_back_and_leaves_a_trace(boss: Client) -> None:
    failed, waiting = submit(), submit()
    end(failed, "given_up", error='{"message": "no"}')

    text = act(boss, JOBS, "retry", failed, waiting)

    assert "1 sent back to the queue." in text
    assert "it cannot be retried" in text
    assert Job.objects.get(pk=failed).state == "queued"
    assert JobEvent.objects.get(kind="retried").by == "boss"


def test_many_refusals_are_summed_up(boss: Client) -> None:
    waiting = [submit() for _ in range(5)]

    assert "2 more refused." in act(boss, JOBS, "retry", *waiting)


# --- Schedules ------------------------------------------------------------------------------------------------------


def schedule(**fields: Any) -> Schedule:
    values = {"name": "nightly", "type": "admin.letter", "cron": "0 3 * * *", "origin": "code", **fields}
    return Schedule.objects.create(**values)


def form(**fields: Any) -> dict[str, Any]:
    filled = {
        "name": "weekly",
        "type": "admin.letter",
        "params": '{"to": "carla"}',
        "cron": "0 6 * * 1",
        "tz": "America/Sao_Paulo",
        "every_s": "",
        "overlap": "skip",
        "missed": "once",
        "grace_s": "60",
        "enabled": "on",
    }
    return {**filled, **fields}


def test_a_schedule_from_code_can_only_be_switched(boss: Client) -> None:
    mine = schedule()
    url = f"{SCHEDULES}{mine.pk}/change/"

    text = page(boss, url)
    boss.post(url, {"cron": "* * * * *"})

    mine.refresh_from_db()
    assert "At 03:00 every day (UTC)" in text
    assert 'name="cron"' not in text
    assert (mine.enabled, mine.cron, mine.origin) == (False, "0 3 * * *", "code")
    assert boss.post(f"{SCHEDULES}{mine.pk}/delete/", {"post": "yes"}).status_code == 403


def test_switching_on_begins_now(boss: Client) -> None:
    mine = schedule(enabled=False)
    DjangoConnection().fetch("UPDATE esteira_schedule SET last_tick_at = '2020-01-01Z'")

    assert "1 enabled." in act(boss, SCHEDULES, "enable", mine.pk)

    mine.refresh_from_db()
    assert mine.enabled
    assert mine.last_tick_at.year > 2020


def test_an_operator_makes_edits_and_deletes_a_schedule(boss: Client) -> None:
    made = boss.post(f"{SCHEDULES}add/", form())
    mine = Schedule.objects.get()
    DjangoConnection().fetch(
        "UPDATE esteira_schedule SET last_tick_at = '2020-01-01Z', anchor_at = '2020-01-01Z'"
    )
    renamed = boss.post(f"{SCHEDULES}{mine.pk}/change/", form(name="mondays"))
    unmoved = Schedule.objects.get().last_tick_at
    boss.post(f"{SCHEDULES}{mine.pk}/change/", form(name="mondays", cron="", every_s="30"))
    changed = Schedule.objects.get()
    boss.post(f"{SCHEDULES}{mine.pk}/delete/", {"post": "yes"})

    assert made.status_code == renamed.status_code == 302
    assert (mine.origin, mine.params, mine.tz) == ("database", {"to": "carla"}, "America/Sao_Paulo")
    assert unmoved.year == 2020
    assert (changed.name, changed.cron, changed.every_s) == ("mondays", "", 30)
    assert changed.last_tick_at.year > 2020
    assert not Schedule.objects.exists()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"cron": "0 25 * * *"}, "cannot be read"),
        ({"tz": "Mars/Olympus"}, "there is no time zone"),
        ({"cron": ""}, "Give a cron expression here, such as 0 6 1 * *, or a number of seconds in Every."),
        ({"every_s": "60"}, "Cron is 0 6 * * 1 and Every is 60 seconds: clear one of the two."),
        ({"cron": "", "every_s": "60", "tz": "Mars/X"}, "there is no time zone"),
        ({"cron": "", "every_s": "1_0"}, "Enter a number."),
        ({"grace_s": "\u0665"}, "Enter a number."),
        ({"cron": "\u0665 6 * * *"}, "cannot be read"),
        ({"name": "a\nb"}, "holds an invisible character"),
        ({"name": "a\x1b[31mb"}, "holds an invisible character"),
        ({"name": "a\u202eb"}, "holds an invisible character"),
        ({"name": "a\u2028b"}, "holds an invisible character"),
        ({"name": "a\u200bb"}, "holds an invisible character"),
        ({"name": "   "}, "This field is required"),
        ({"cron": "", "every_s": "0.5"}, "greater than or equal to 1"),
        ({"params": '{"too": "x"}'}, "is not a parameter of this job type"),
        ({"params": "[1]"}, "Give a JSON object"),
        ({"type": "nobody.knows"}, "Select a valid choice"),
    ],
)
def test_a_wrong_schedule_is_refused_with_its_reason(boss: Client, wrong: dict[str, str], said: str) -> None:
    response = boss.post(f"{SCHEDULES}add/", form(**wrong))

    assert said in response.content.decode()
    assert not Schedule.objects.exists()


def test_the_error_of_a_schedule_is_shown_and_a_change_lets_it_be_tried_at_once(boss: Client) -> None:
    mine = schedule(origin="database", params={"to": "ana"}, error="KeyError: 'day'", failures=3)
    DjangoConnection().fetch("UPDATE esteira_schedule SET retry_at = clock_timestamp() + interval '1 minute'")
    declared = schedule(name="other", error="ZeroDivisionError: a bug")

    for url in (SCHEDULES, f"{SCHEDULES}{mine.pk}/change/"):
        assert "KeyError: &#x27;day&#x27; Tried 3 times." in page(boss, url)
    for url in (SCHEDULES, f"{SCHEDULES}{declared.pk}/change/"):
        assert "ZeroDivisionError: a bug" in page(boss, url)

    boss.post(f"{SCHEDULES}{mine.pk}/change/", form(name=mine.name, params='{"to": "bia"}'))
    mine.refresh_from_db()
    assert (mine.params["to"], mine.error, mine.failures, mine.retry_at) == ("bia", "", 0, None)


def test_a_new_schedule_cannot_take_the_name_of_a_job_type(boss: Client) -> None:
    response = boss.post(f"{SCHEDULES}add/", form(name="admin.letter"))

    assert "the name is reserved for a schedule in its code" in response.content.decode()
    assert not Schedule.objects.exists()


def test_a_schedule_that_has_such_a_name_already_can_be_edited(boss: Client) -> None:
    mine = schedule(name="admin.letter", origin="database", params={"to": "ana"})

    boss.post(f"{SCHEDULES}{mine.pk}/change/", form(name="admin.letter", grace_s="61"))

    mine.refresh_from_db()
    assert mine.grace_s == 61


@pytest.mark.usefixtures("unbound")
def test_schedules_that_cannot_be_said_in_words_do_not_break_the_list(boss: Client) -> None:
    schedule(name="late", cron="", every_s=8e13, origin="database")
    schedule(name="never", cron="0 0 31 2 *")

    text = page(boss, SCHEDULES)

    assert text.count("broken: schedule: ") == 2, text


def test_a_schedules_secret_is_not_shown_and_survives_an_edit(boss: Client) -> None:
    mine = schedule(origin="database", params={"to": "ana", "password": "s3cret"})
    url = f"{SCHEDULES}{mine.pk}/change/"

    text = page(boss, url)
    boss.post(url, form(params='{"to": "bia", "password": "**********"}'))

    mine.refresh_from_db()
    assert "s3cret" not in text
    assert mine.params == {"to": "bia", "password": "s3cret"}


def test_the_stars_of_one_type_stand_for_nothing_in_another(boss: Client) -> None:
    @job(name="admin.postcard")
    def postcard(ctx: Context, to: str = "ana", password: str = "none") -> None: ...

    mine = schedule(origin="database", params={"to": "ana", "password": "s3cret"})

    boss.post(
        f"{SCHEDULES}{mine.pk}/change/",
        form(type="admin.postcard", params='{"to": "bia", "password": "**********"}'),
    )

    mine.refresh_from_db()
    assert mine.type == "admin.postcard"
    assert mine.params["password"] != "s3cret"


@pytest.mark.parametrize("before", [None, "admin.postcard", "admin.letter"])
def test_stars_that_stand_for_no_kept_secret_are_refused(boss: Client, before: str | None) -> None:
    @job(name="admin.postcard")
    def postcard(ctx: Context, to: str = "ana", password: str = "none") -> None: ...

    url = f"{SCHEDULES}add/"
    if before:
        mine = schedule(type=before, origin="database", params={"to": "ana"})
        url = f"{SCHEDULES}{mine.pk}/change/"

    said = boss.post(url, form(params='{"to": "bia", "password": "**********"}')).content.decode()

    assert "password: type the secret itself, not the stars that are shown for it." in said
    assert not Schedule.objects.filter(params__to="bia")


def test_who_may_only_look_at_schedules_sees_no_secret(client: Client) -> None:
    mine = schedule(origin="database", params={"to": "ana", "password": "s3cret"})

    text = page(staff(client, "view_schedule"), f"{SCHEDULES}{mine.pk}/change/")

    assert "s3cret" not in text
    assert "0 3 * * *" in text or "At 03:00" in text


# --- Queues and workers ---------------------------------------------------------------------------------------------


def test_a_queue_is_paused_with_a_reason_and_resumed(boss: Client) -> None:
    assert "Pause a queue" in page(boss, f"{QUEUES}add/")
    boss.post(f"{QUEUES}add/", {"name": "default", "reason": "the mail server moves"})
    paused = Queue.objects.get()
    text = page(boss, QUEUES)
    act(boss, QUEUES, "resume", "default")

    assert (paused.paused_by, paused.reason) == ("boss", "the mail server moves")
    assert paused.paused_at
    assert "the mail server moves" in text
    assert Queue.objects.get().paused_at is None


def test_a_resumed_queue_can_be_paused_again_both_ways(boss: Client) -> None:
    operate.pause("default", by="x")
    operate.resume("default", by="x")

    act(boss, QUEUES, "pause", "default")
    operate.resume("default", by="x")
    boss.post(f"{QUEUES}add/", {"name": "default"})

    assert Queue.objects.get().paused_at


@pytest.mark.parametrize("odd", ["a\nb", "a\x1b[31mb", "a\u202eb", "a\u2028b"])
def test_a_reason_is_one_line_that_is_seen_as_it_is(boss: Client, odd: str) -> None:
    response = boss.post(f"{QUEUES}add/", {"name": "default", "reason": odd})

    assert response.status_code == 200
    assert "holds an invisible character" in response.content.decode()
    with pytest.raises(InvalidOption, match="reason: holds an invisible character"):
        operate.pause("default", by="x", reason=odd)
    assert not Queue.objects.exists()


def test_an_unknown_queue_cannot_be_paused(boss: Client) -> None:
    boss.post(f"{QUEUES}add/", {"name": "defualt"})

    assert not Queue.objects.exists()


def test_who_may_only_look_at_queues_cannot_pause(client: Client) -> None:
    viewer = staff(client, "view_queue")

    assert viewer.get(f"{QUEUES}add/").status_code == 403
    assert viewer.get(QUEUES).status_code == 200


def test_workers_are_shown_with_what_they_do(boss: Client) -> None:
    Worker.objects.create(
        name="w1", incarnation="b.1.2", host="h", pid=7, queues=["default"], types=["admin.letter"]
    )
    Worker.objects.create(name="w2", incarnation="b.1.3", host="h", pid=8)
    Worker.objects.create(name="w3", incarnation="b.1.4", host="h", pid=9, state="gone")
    DjangoConnection().fetch(
        "UPDATE esteira_worker SET last_seen = clock_timestamp() - interval '1 hour' WHERE name <> 'w1'"
    )

    text = page(boss, "/admin/esteira/worker/")
    one = page(boss, "/admin/esteira/worker/w1/change/")

    assert ">silent<" in text
    assert ">gone<" in text
    assert "up, silent" not in text
    assert "admin.letter" in one
