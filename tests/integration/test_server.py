"""gunicorn as it runs in production: what it serves, what it refuses, and what it does while its servers are away."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from esteira import files
from tests.support.clients import PASSWORD
from tests.support.database_faults import frozen
from tests.support.waiting import until
from tests.support.web_with_servers import WebWithServers, run_web_with_servers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebWithServers]:
    yield from run_web_with_servers(Path(tmp_path_factory.mktemp("site")))


def test_a_real_process_serves_pages_and_their_looks(site: WebWithServers) -> None:
    page = site.ask("GET", "/login/")
    style = site.ask("GET", "/static/esteira_web/style.css")

    assert (page.status, style.status) == (200, 200)
    assert style.headers["Content-Type"].startswith("text/css")
    assert site.ask("GET", "/static/../project/settings.py").status in (302, 400, 404)


def test_a_browser_signs_in_at_a_real_process(site: WebWithServers) -> None:
    first = site.ask("GET", "/login/", Authorization="")
    token = first.text.decode().split('name="csrfmiddlewaretoken" value="', 1)[1].split('"', 1)[0]
    cookie = first.headers["Set-Cookie"].split(";", 1)[0]
    form = f"username=admin&password={PASSWORD.replace(' ', '+')}&csrfmiddlewaretoken={token}".encode()
    kind = "application/x-www-form-urlencoded"

    signed = site.ask("POST", "/login/", form, Authorization="", Cookie=cookie, **{"Content-Type": kind})
    session = next(
        v.split(";", 1)[0] for v in signed.headers.get_all("Set-Cookie") if v.startswith("sessionid=")
    )
    page = site.ask("GET", "/", Authorization="", Cookie=session)

    assert (signed.status, signed.headers["Location"]) == (302, "/")
    assert page.status == 200
    assert b"<h1>Jobs</h1>" in page.text


def test_health_ignores_the_host_name(site: WebWithServers) -> None:
    assert site.ask("GET", "/livez", Host="10.1.2.3").status == 200
    assert site.ask("GET", "/readyz", Host="10.1.2.3").status == 200
    for path in ("/login/", "/api/v1/jobs"):
        refused = site.ask("GET", path, Host="evil.example")
        assert refused.status == 400
        assert b"WEB_URL" in refused.text, "who runs it is told what to set"


def test_metrics_are_at_their_port_and_nowhere_else(site: WebWithServers) -> None:
    measured, live = site.measure(), site.measure("/livez")
    public = [site.ask("GET", path) for path in ("/metrics", "/metrics/")]
    lie = site.ask("GET", "/metrics", Host=f"localhost:{site.metrics_port}")

    assert (measured.status, live.status) == (200, 200)
    assert measured.headers["Content-Type"].startswith("text/plain; version=1.0.0")
    assert b'\nesteira_jobs_waiting{queue="default"} ' in measured.text
    assert [answer.status for answer in (*public, lie)] == [404] * 3
    assert not [answer for answer in (*public, lie) if b"esteira_jobs_waiting" in answer.text]


@pytest.mark.parametrize(
    "path", ["/", "/readyz", "/login/", "/api/v1/jobs", "/admin/", "/static/esteira_web/style.css"]
)
def test_the_port_for_metrics_has_nothing_else(site: WebWithServers, path: str) -> None:
    answers = [site.measure(path, method) for method in ("GET", "HEAD", "POST")]

    assert [answer.status for answer in answers] == [404] * 3
    assert json.loads(answers[0].text)["detail"] == "This port serves /metrics and /livez only."


def test_many_scrapes_take_one_connection(site: WebWithServers) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: site.measure().status, range(64)))
    with psycopg.connect(site.postgres.url) as db:
        row = db.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'esteira metrics'"
        ).fetchone()

    assert answers == [200] * 64
    assert row == (1,)


def test_requests_keep_their_database_connections(site: WebWithServers) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: site.submit(), range(64)))
    with psycopg.connect(site.postgres.url) as db:
        row = db.execute(
            "SELECT count(*), min(backend_start) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name NOT LIKE 'esteira%'"
        ).fetchone()

    assert answers == [202] * 64
    assert row is not None
    assert 1 <= row[0] <= 4


def test_a_large_file_goes_there_and_is_cut_off_at_its_limit(site: WebWithServers) -> None:
    ok = site.ask("POST", "/api/v1/files?name=a.bin", b"x" * 5_000_000)
    length = str(files.MAX_BYTES + 10**6)
    too_large = site.ask("POST", "/api/v1/files?name=a.bin", b"", **{"Content-Length": length})
    batch = site.ask("POST", "/api/v1/jobs/batch", b"", **{"Content-Length": "9000000"})

    assert (ok.status, json.loads(ok.text)["size"]) == (201, 5_000_000)
    for refused in (too_large, batch):
        assert (refused.status, json.loads(refused.text)["type"]) == (413, "/problems/too-large")


def test_a_body_that_does_not_say_its_length_is_cut_off_too(site: WebWithServers) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(200):
            yield b"x" * 100_000

    try:
        status = site.ask("POST", "/api/v1/jobs", endless(), **{"Transfer-Encoding": "chunked"}).status
    except (BrokenPipeError, ConnectionResetError):
        status = 413  # the answer was sent and the connection closed while we still talked
    assert status == 413


def test_slow_senders_hold_no_thread(site: WebWithServers) -> None:
    slow = []
    try:
        for _ in range(8):
            one = socket.create_connection(("127.0.0.1", site.port))
            one.sendall(b"POST /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
            slow.append(one)
        assert site.submit() == 202
    finally:
        for one in slow:
            one.close()


def test_who_goes_away_takes_no_thread_along(site: WebWithServers) -> None:
    request = (
        f"GET /api/v1/jobs HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {site.token}\r\n\r\n".encode()
    )
    for _ in range(40):
        with socket.create_connection(("127.0.0.1", site.port)) as one:
            one.sendall(request)

    assert [site.submit() for _ in range(8)] == [202] * 8


def test_a_database_that_is_away_is_503_within_three_seconds_and_comes_back(site: WebWithServers) -> None:
    for _ in range(8):
        assert site.submit() == 202
    before = site.jobs()
    site.postgres.stop("immediate")
    try:
        started = time.monotonic()
        api, page = (
            site.ask("POST", "/api/v1/jobs", {"type": "demo.greet"}),
            site.ask("GET", "/", Cookie="sessionid=" + "x" * 32),
        )
        upload = site.ask("POST", "/api/v1/files?name=a", b"x" * 300_000)
        ready, live = site.ask("GET", "/readyz"), site.ask("GET", "/livez")
        measured = until(
            lambda: site.measure().status == 503 and site.measure(), "what was kept is told no more"
        )
        took = time.monotonic() - started
    finally:
        site.postgres.start()

    assert [answer.status for answer in (api, page, upload, ready, live)] == [503, 503, 503, 503, 200]
    assert json.loads(api.text)["type"] == "/problems/database-away"
    assert api.headers["Retry-After"]
    assert page.headers["Retry-After"]
    assert b"does not answer" in page.text
    assert b"does not answer" in measured.text
    assert took < 10
    until(lambda: site.ask("GET", "/readyz").status == 200, "web is ready again", timeout=10)
    until(lambda: site.measure().status == 200, "web measures again", timeout=10)
    assert [site.submit() for _ in range(8)] == [202] * 8
    assert site.jobs() == before + 8


def test_a_frozen_database_with_warm_connections_is_503_to_everybody_within_seconds(
    site: WebWithServers,
) -> None:
    """Its connections stay open and silent: no timeout of the server or of TCP ends the wait."""
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda _: site.submit(), range(16))) == [202] * 16
        before = site.jobs()
        with frozen(site.postgres.pid):
            started = time.monotonic()
            many = [
                pool.submit(site.ask, "POST", "/api/v1/jobs", {"type": "demo.greet"}, 60) for _ in range(12)
            ]
            page = site.ask("GET", "/", timeout=60, Cookie="sessionid=" + "x" * 32)
            answers = [one.result(timeout=60) for one in many]
            took = time.monotonic() - started

    assert {answer.status for answer in answers} == {503}
    assert {json.loads(answer.text)["type"] for answer in answers} <= {
        "/problems/database-away",
        "/problems/busy",
    }
    assert page.status == 503
    assert took < 30, "three seconds to connect, six for a statement, and five for a thread are usual"
    until(lambda: site.ask("GET", "/readyz").status == 200, "web is ready again", timeout=10)
    assert [site.submit() for _ in range(8)] == [202] * 8
    assert site.jobs() >= before + 8


def test_a_request_that_waits_for_somebodys_lock_is_answered(site: WebWithServers) -> None:
    job = json.loads(site.ask("POST", "/api/v1/jobs", {"type": "demo.greet"}).text)["id"]
    with psycopg.connect(site.postgres.url) as other:
        other.execute("SELECT 1 FROM esteira_job WHERE id = %s FOR UPDATE", [job])
        answer = site.ask("POST", f"/api/v1/jobs/{job}/cancel", {}, timeout=30)
        other.rollback()

    assert (answer.status, json.loads(answer.text)["type"]) == (409, "/problems/held")
    assert answer.headers["Retry-After"]
    assert site.ask("POST", f"/api/v1/jobs/{job}/cancel", {}).status == 202


def test_without_redis_jobs_are_accepted_and_health_says_so(site: WebWithServers) -> None:
    site.valkey.kill()
    try:
        ready = site.ask("GET", "/readyz")
        accepted = [site.submit() for _ in range(3)]
        until(lambda: b"\nesteira_redis_up 0.0\n" in site.measure().text, "the metrics say so", timeout=10)
    finally:
        site.valkey.start()

    assert (ready.status, json.loads(ready.text)["status"]) == (200, "warn")
    assert accepted == [202] * 3
