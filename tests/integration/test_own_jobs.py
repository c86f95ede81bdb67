"""A submitter sees the jobs of its own account only: at every interface, other jobs do not exist."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from django.db import connection
from django.test import Client

from esteira.db import PrivateConnection
from esteira.files import open_result
from esteira.job_types.registry import registry
from esteira.models import Job
from esteira.record import finish
from tests.support.clients import KNOWN, account, bearer, browser, get, post, problem
from tests.support.jobs import UNKNOWN_ID, ended, outcome, running

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("types")]
DOORS = [
    ("get", "/api/v1/jobs/{}"),
    ("get", "/api/v1/jobs/{}/files"),
    ("get", "/api/v1/jobs/{}/files/a.txt"),
    ("post", "/api/v1/jobs/{}/cancel"),
    ("get", "/jobs/{}/"),
    ("post", "/jobs/{}/cancel/"),
]


@pytest.fixture
def ana(database: None) -> Client:
    return bearer("submitter", user=account("ana", "submitter"))


@pytest.fixture
def bia(database: None) -> Client:
    return bearer("submitter", user=account("bia", "submitter"))


def submitted(client: Client, **options: Any) -> str:
    response = post(client, "/jobs", {**KNOWN, "options": options})
    assert response.status_code == 202, response.content
    return str(response.json()["id"])


def listed(client: Client, query: str = "") -> set[str]:
    return {job["id"] for job in get(client, f"/jobs{query}").json()["items"]}


def with_file(core: PrivateConnection, user: Any) -> str:
    """Store a succeeded job of an account that made the file a.txt."""
    (claimed,) = running(core, account=f"user:{user.pk}")
    with open_result(claimed.id, 1, "a.txt", "text/plain", db=core) as out:
        out.write(b"secret report")
    assert finish.finish(core, [outcome(claimed, files=True)])
    return str(claimed.id)


def asked(client: Client, method: str, path: str) -> Any:
    if method == "post" and path.startswith("/api"):
        return client.post(path, "", content_type="application/json")
    return getattr(client, method)(path)


def without_ids(response: Any, *ids: object) -> str:
    """Return what an answer says, with its own id and the asked one left out: they differ anyway."""
    text = response.content.decode()
    for one in (*ids, response.headers["X-Request-ID"]):
        text = text.replace(str(one), "")
    return text


@pytest.mark.parametrize(("method", "path"), DOORS)
def test_another_accounts_job_looks_like_none_at_all(core: PrivateConnection, method: str, path: str) -> None:
    theirs = with_file(core, account("bia", "submitter"))
    mine = account("ana", "submitter")
    client = bearer("submitter", user=mine)
    if not path.startswith("/api"):
        client = Client()
        client.force_login(mine)

    foreign, nobodys = (asked(client, method, path.format(one)) for one in (theirs, UNKNOWN_ID))

    assert (foreign.status_code, nobodys.status_code) == (404, 404)
    assert without_ids(foreign, theirs) == without_ids(nobodys, UNKNOWN_ID)


@pytest.mark.parametrize(("method", "path"), DOORS)
def test_the_own_job_answers_at_each_of_them(core: PrivateConnection, method: str, path: str) -> None:
    mine = account("ana", "submitter")
    client = Client()
    client.force_login(mine)

    response = asked(client, method, path.format(with_file(core, mine)))

    # 409 and a message: it has ended, so that it cannot be cancelled any more.
    assert response.status_code in ({200} if method == "get" else {302, 409})


def test_a_submitter_lists_its_own_account_s_jobs_whichever_token_made_them(ana: Client, bia: Client) -> None:
    user = account("carla", "submitter")
    first, second, page = bearer("submitter", user=user), bearer("submitter", user=user), Client()
    page.force_login(user)
    one, two = submitted(first), submitted(second)
    submitted(ana)
    registry.get("t.note").submit(text="by Python")

    assert listed(first) == listed(second) == {one, two}
    assert listed(first, "?type=t.note&state=queued") == {one, two}
    assert listed(bia) == set()
    text = page.get("/").content.decode()
    assert (one in text, two in text, text.count('class="job"')) == (True, True, 2)


def test_pages_of_a_list_show_no_job_of_others(ana: Client, bia: Client) -> None:
    own = {submitted(client) for client in (ana, bia, ana, bia, ana) if client is ana} | {submitted(ana)}
    seen: list[str] = []
    query = "?limit=2"
    while query:
        page = get(ana, f"/jobs{query}").json()
        seen += [job["id"] for job in page["items"]]
        query = f"?limit=2&cursor={page['next']}" if page["next"] else ""

    assert sorted(seen) == sorted(own)


def test_who_submitted_reads_what_came_of_it(ana: Client) -> None:
    body = get(ana, f"/jobs/{submitted(ana)}").json()

    assert body["params"] == {"text": "hello", "times": 1}


@pytest.mark.parametrize("role", ["viewer", "operator"])
def test_viewers_and_operators_see_all(ana: Client, bia: Client, role: str) -> None:
    jobs = {submitted(ana), submitted(bia)}

    for client in (bearer(role), browser(role)):
        assert listed(client) == jobs
        assert {get(client, f"/jobs/{one}").status_code for one in jobs} == {200}


def test_a_submitter_who_is_a_viewer_as_well_sees_all_and_changes_its_own(ana: Client) -> None:
    both = account("both", "submitter", "viewer")
    client = Client()
    client.force_login(both)
    theirs, own = submitted(ana), submitted(client)

    assert listed(client) == {theirs, own}
    assert get(client, f"/jobs/{theirs}").json()["params"] is None
    assert get(client, f"/jobs/{own}").json()["params"] is not None
    assert problem(get(client, f"/jobs/{theirs}/files"))["type"] == "/problems/forbidden"
    assert post(client, f"/jobs/{theirs}/cancel").status_code == 403
    assert client.post(f"/jobs/{theirs}/cancel/").status_code == 403
    assert "Cancel" not in client.get(f"/jobs/{theirs}/").content.decode()
    assert post(client, f"/jobs/{own}/cancel").status_code == 202
    assert Job.objects.get(pk=theirs).state == "queued"


def test_a_token_of_such_an_account_sees_all_only_if_it_was_made_to(ana: Client) -> None:
    both = account("both", "submitter", "viewer")
    theirs = submitted(ana)

    assert listed(bearer("submitter", user=both)) == set()
    assert listed(bearer("submitter", user=both, sees_all=True)) == {theirs}
    assert listed(bearer("submitter", user=account("only", "submitter"), sees_all=True)) == set()


def test_a_renamed_account_keeps_its_jobs_and_its_old_name_opens_nothing() -> None:
    user = account("ana", "submitter")
    client = bearer("submitter", user=user)
    job = submitted(client)
    user.username = "ana-maria"
    user.save()
    heir = bearer("submitter", user=account("ana", "submitter"))

    assert get(client, f"/jobs/{job}").status_code == 200
    assert listed(client) == {job}
    assert get(heir, f"/jobs/{job}").status_code == 404
    assert listed(heir) == set()


def test_what_python_submitted_is_nobodys(ana: Client) -> None:
    job = registry.get("t.note").submit(text="x").id

    assert get(ana, f"/jobs/{job}").status_code == 404
    assert Job.objects.get(pk=job).account is None


@pytest.mark.parametrize("on_conflict", ["return", "error"])
def test_a_key_that_another_accounts_job_holds_tells_nothing_of_that_job(
    ana: Client, bia: Client, on_conflict: str
) -> None:
    theirs = submitted(bia, unique="july")
    asked = {**KNOWN, "options": {"unique": "july", "on_conflict": on_conflict}}

    alone = post(ana, "/jobs", asked)
    batch = post(ana, "/jobs/batch", {"jobs": [KNOWN, asked]})

    for refused in (alone, batch):
        assert refused.status_code == 409
        assert problem(refused)["type"] == "/problems/unique-conflict"
        assert "july" in problem(refused)["detail"]
        assert theirs not in refused.content.decode()
    assert listed(ana) == set()


@pytest.mark.parametrize("on_conflict", ["return", "error"])
def test_a_key_that_an_own_job_holds_names_it(ana: Client, on_conflict: str) -> None:
    own = submitted(ana, unique="july")

    again = post(ana, "/jobs", {**KNOWN, "options": {"unique": "july", "on_conflict": on_conflict}})

    assert own in again.content.decode()
    assert again.status_code == (202 if on_conflict == "return" else 409)


def test_a_repeat_under_a_key_shows_no_job_that_may_not_be_seen_any_more(ana: Client) -> None:
    user = account("carla", "operator")
    client = bearer("operator", user=user)
    theirs = submitted(ana)
    first = post(client, f"/jobs/{theirs}/cancel", Idempotency_Key="k")
    user.groups.clear()
    user.groups.add(account("other", "submitter").groups.get())

    again = post(client, f"/jobs/{theirs}/cancel", Idempotency_Key="k")

    assert first.status_code == 202
    assert again.status_code == 404
    assert "params" not in json.loads(again.content)


def test_a_stand_in_of_another_account_is_not_repeated_to_who_lost_the_right_to_see_it(ana: Client) -> None:
    user = account("carla", "operator")
    client = bearer("operator", user=user)
    submitted(ana, unique="july")
    asked = {**KNOWN, "options": {"unique": "july"}}
    assert post(client, "/jobs", asked, Idempotency_Key="k").status_code == 202
    user.groups.clear()
    user.groups.add(account("other", "submitter").groups.get())

    assert post(client, "/jobs", asked, Idempotency_Key="k").status_code == 404


def test_a_list_of_one_account_reads_its_own_index(core: PrivateConnection) -> None:
    core.fetch(
        """INSERT INTO esteira_job (id, type, params, queue, priority, max_failures, backoff_s, lease_s, timeout_s, account)
           SELECT gen_random_uuid(), 't.note', '{}', 'default', 6, 4, 2, 10, 60,
             CASE WHEN n %% 100 = 0 THEN 'user:7' ELSE 'user:8' END FROM generate_series(1, 5000) n"""
    )
    core.fetch("ANALYZE esteira_job")
    with connection.cursor() as cursor:
        found = Job.objects.filter(account="user:7").order_by("-created_at", "-id")[:50]
        sql, params = found.query.sql_with_params()
        cursor.execute(f"EXPLAIN {sql}", params)
        plan = "\n".join(line for (line,) in cursor.fetchall())

    assert "job_account" in plan, plan


def test_an_ended_job_of_its_own_cannot_be_retried_by_a_submitter(
    ana: Client, core: PrivateConnection
) -> None:
    job = submitted(ana)
    ended(core, UUID(job), "failed")

    assert problem(post(ana, f"/jobs/{job}/retry"))["type"] == "/problems/forbidden"


def test_a_repeat_shows_no_parameters_that_may_not_be_read_any_more(ana: Client) -> None:
    """The job of somebody else stood in for one's own, and the right to read payloads has gone since."""
    user = account("dora", "submitter", "viewer", "payloads")
    client = bearer("submitter", user=user, sees_all=True, sees_payloads=True)
    submitted(ana, unique="july")
    asked = {**KNOWN, "options": {"unique": "july"}}
    first = json.loads(post(client, "/jobs", asked, Idempotency_Key="k").content)
    user.groups.remove(user.groups.get(name="esteira-payloads"))

    again = post(client, "/jobs", asked, Idempotency_Key="k")

    assert first["params"] == {"text": "hello", "times": 1}
    assert again.status_code == 202
    told = json.loads(again.content)
    assert (told["id"], told["params"], told["unique"]) == (first["id"], None, None)
