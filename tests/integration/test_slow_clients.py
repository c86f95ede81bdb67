"""Clients who have no account, send slowly, or send more than is taken: they hold up nobody, and are told why."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.support.clients import PASSWORD
from tests.support.database_faults import frozen
from tests.support.waiting import until
from tests.support.web_with_servers import WebWithServers, run_web_with_servers, status_of

pytestmark = pytest.mark.slow

MIB = 1024**2
UPLOAD = "POST /api/v1/files?name=a.bin"
LARGE = f"Content-Length: {100 * MIB}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebWithServers]:
    """With the settings that gunicorn has in a container."""
    home = Path(tmp_path_factory.mktemp("edges"))
    yield from run_web_with_servers(home, "-c", "services/web/gunicorn.conf.py", LOG_FORMAT="json")


def memory(site: WebWithServers) -> int:
    return sum(one.memory_info().rss for one in psutil.Process(site.web.pid).children(recursive=True))


@pytest.mark.parametrize("path", ["/api/v1/files?name=a", "/api/v1/jobs", "/login/", "/admin/login/", "/"])
def test_who_has_no_account_is_refused_before_the_body_has_come(site: WebWithServers, path: str) -> None:
    form = ["Content-Type: application/x-www-form-urlencoded", f"Cookie: csrftoken={'x' * 32}"]
    with site.connect(site.head(f"POST {path}", LARGE, *form), b"x" * MIB) as one:
        status = status_of(one)

    assert status == (401 if path.startswith("/api/") else 413)


@pytest.mark.parametrize("kind", ["Content-Type: application/json", "Content-Type: text/plain"])
def test_a_half_body_without_a_token_is_refused_at_once(site: WebWithServers, kind: str) -> None:
    with site.connect(site.head("POST /api/v1/jobs", kind, "Content-Length: 100"), b"{") as one:
        assert status_of(one) == 401


def test_a_body_is_not_waited_for_that_nobody_may_send(site: WebWithServers) -> None:
    told = [
        (f"POST /api/v1/jobs/{'0' * 8}-0000-0000-0000-{'0' * 12}/nothing", 404),
        ("PUT /api/v1/jobs", 405),
        ("POST /api/v1/files", 422),
    ]
    for line, status in told:
        with site.connect(site.head(line, LARGE, token=site.token), b"x") as one:
            assert status_of(one) == status


def test_who_writes_all_of_a_refused_body_before_reading_gets_the_answer(site: WebWithServers) -> None:
    answer = site.ask("POST", "/api/v1/files?name=a", b"x" * (30 * MIB), Authorization="", timeout=60)

    assert (answer.status, json.loads(answer.text)["type"]) == (401, "/problems/unauthenticated")
    assert answer.headers["Connection"] == "close"


def test_anonymous_uploads_take_no_memory(site: WebWithServers) -> None:
    before = memory(site)
    with ExitStack() as open_ones, ThreadPoolExecutor(7) as pool:
        ones = [
            open_ones.enter_context(site.connect(site.head(UPLOAD, LARGE, token=token)))
            for token in ("", "x", "esteira_" + "A" * 43, "", "", "", "")
        ]
        for one in ones:
            pool.submit(_send, one, 12)
        until(lambda: site.submit() == 202, "a submit beside them")
        most = max(memory(site) for _ in range(20) if site.submit() == 202)

    assert most - before < 64 * MIB, "each of them was held"


def _send(one: socket.socket, mib: int) -> None:
    try:
        for _ in range(mib):
            one.sendall(b"x" * MIB)
    except OSError:
        pass  # refused for good


@pytest.mark.parametrize("multipart", [False, True], ids=["raw", "multipart"])
def test_an_upload_is_stored_as_it_arrives(site: WebWithServers, multipart: bool) -> None:
    before, size = memory(site), 60 * MIB
    start, end = b"", b""
    headers = ["Content-Type: text/plain"]
    if multipart:
        start = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
        end, headers = b"\r\n--b--\r\n", ["Content-Type: multipart/form-data; boundary=b"]
    length = f"Content-Length: {len(start) + size + len(end)}"
    with site.connect(site.head(UPLOAD, length, *headers, token=site.token), start) as one:
        _send(one, 30)
        until(lambda: _stored(site) > 20 * MIB, "its beginning is stored while the rest is still to come")
        assert _idle_in_transaction(site) == 0
        _send(one, 30)
        one.sendall(end)
        status = status_of(one)
        grown = memory(site) - before

    assert status == 201
    assert grown < 48 * MIB
    newest = json.loads(site.ask("GET", "/api/v1/files?limit=1").text)["items"][0]
    assert (newest["name"], newest["size"]) == ("a.bin", size)
    assert site.ask("DELETE", f"/api/v1/files/{newest['id']}").status == 204


def test_what_a_sender_leaves_behind_is_deleted(site: WebWithServers) -> None:
    with site.connect(site.head(UPLOAD, LARGE, token=site.token)) as one:
        _send(one, 3)
        until(lambda: _stored(site), "something is stored")

    until(lambda: not _stored(site), "nothing is left")


def _stored(site: WebWithServers) -> int:
    with psycopg.connect(site.postgres.url) as db:
        row = db.execute("SELECT coalesce(sum(length(data)), 0) FROM esteira_filechunk").fetchone()
        return int(row[0]) if row else 0


def _idle_in_transaction(site: WebWithServers) -> int:
    with psycopg.connect(site.postgres.url) as db:
        row = db.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%'"
        ).fetchone()
        return int(row[0]) if row else 0


def test_one_account_cannot_take_all_the_room_for_uploads(site: WebWithServers) -> None:
    with ExitStack() as open_ones:

        def begin() -> socket.socket:
            return open_ones.enter_context(site.connect(site.head(UPLOAD, LARGE, token=site.token), b"x"))

        ones = [begin() for _ in range(20)]
        answers = until(lambda: _answered(ones), "some are refused")
        assert {status_of(one) for one in answers} == {429}
        assert site.submit() == 202, "what is small is taken all the same"


def _answered(ones: list[socket.socket]) -> list[socket.socket]:
    found = []
    for one in ones:
        one.setblocking(False)
        try:
            if one.recv(1, socket.MSG_PEEK):
                found.append(one)
        except BlockingIOError:
            pass
        finally:
            one.setblocking(True)
    return found


def test_heads_and_bodies_that_do_not_come_end_with_408(site: WebWithServers) -> None:
    """Who says nothing at all is cut off as well."""
    with ExitStack() as open_ones:
        silent, half_head, half_body, half_upload = (
            open_ones.enter_context(site.connect(*sent))
            for sent in (
                (),
                (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-A: ",),
                (site.head("POST /api/v1/jobs", "Content-Length: 100", token=site.token), b"{"),
                (site.head(UPLOAD, LARGE, token=site.token), b"x" * MIB),
            )
        )
        began = time.monotonic()
        told = [status_of(one) for one in (silent, half_head, half_body, half_upload)]

    assert told == [0, 408, 408, 408]
    assert time.monotonic() - began < 100, "ten seconds are usual"


def test_an_idle_connection_ends(site: WebWithServers) -> None:
    with site.connect(site.head("GET /livez")) as one:
        assert status_of(one) == 200
        until(lambda: not one.recv(4096), "it is closed")


def test_many_probes_share_one_check(site: WebWithServers) -> None:
    """With a Redis that answers nothing a check takes half a second."""
    with frozen(site.valkey.pid), ThreadPoolExecutor(60) as pool:
        probes = [pool.submit(site.ask, "GET", "/readyz", Authorization="") for _ in range(120)]
        began = time.monotonic()
        alive = [site.ask("GET", "/livez").status for _ in range(5)]
        took = time.monotonic() - began
        answers = {one.result(timeout=60).status for one in probes}

    assert (alive, answers) == ([200] * 5, {200})
    assert took < 2.5, "a few milliseconds are usual, and half a second if a probe waits for a thread"


def test_a_websocket_is_refused_with_a_sentence(site: WebWithServers) -> None:
    upgrade = ["Connection: Upgrade", "Upgrade: websocket"]
    key = ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    for path in ("/", "/api/v1/jobs", "/ws"):
        for headers in (upgrade, upgrade + key):
            with site.connect(site.head(f"GET {path}", *headers)) as one:
                assert status_of(one) == 400


@pytest.mark.parametrize(
    "path",
    [
        "/livez",
        "/readyz",
        "/login/",
        "/static/esteira_web/style.css",
        "/api/v1/jobs",
        "/api/v1/files",
        "/api/v1/job-types",
    ],
)
def test_head_is_answered_wherever_get_is(site: WebWithServers, path: str) -> None:
    whole, head = site.ask("GET", path), site.ask("HEAD", path)

    assert (head.status, head.text) == (whole.status, b"")
    assert head.headers["Content-Type"] == whole.headers["Content-Type"]
    if path != "/login/":  # its token is another one each time
        assert head.headers["Content-Length"] == str(len(whole.text))


def test_those_who_sign_in_leave_threads_to_others(site: WebWithServers) -> None:
    """They wait for a lock here; a hash or many of them at once take as long."""
    form = site.ask("GET", "/login/", Authorization="")
    token = form.text.decode().split('name="csrfmiddlewaretoken" value="', 1)[1].split('"', 1)[0]
    head = {
        "Authorization": "",
        "Cookie": form.headers["Set-Cookie"].split(";", 1)[0],
        "Content-Type": "application/x-www-form-urlencoded",
    }
    typed = f"username=nobody&password=x&csrfmiddlewaretoken={token}".encode()
    submits, most = [], 0
    with psycopg.connect(site.postgres.url) as holder, ThreadPoolExecutor(8) as pool:
        holder.execute("LOCK TABLE esteira_web_loginfailure IN ACCESS EXCLUSIVE MODE")
        tries = [pool.submit(site.ask, "POST", "/login/", typed, **head) for _ in range(4)]
        until(lambda: _wait_for_a_lock(site), "one waits")
        while not all(one.done() for one in tries):
            most = max(most, _wait_for_a_lock(site))
            submits.append(site.submit())

    assert (most, set(submits)) == (1, {202}), "one in four threads of this site"
    assert {one.result().status for one in tries} <= {429, 503}


def _wait_for_a_lock(site: WebWithServers) -> int:
    with psycopg.connect(site.postgres.url) as db:
        row = db.execute("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'").fetchone()
        return int(row[0]) if row else 0


def test_an_unknown_host_is_told_so_without_links_to_it(site: WebWithServers) -> None:
    api, page = (site.ask("GET", path, Host="evil.example") for path in ("/api/v1/jobs", "/login/"))

    assert (api.status, json.loads(api.text)["type"]) == (400, "/problems/unknown-host")
    assert "JSON" not in json.loads(api.text)["title"]
    assert page.status == 400
    assert b"WEB_URL" in page.text
    assert b'<a href="/' not in page.text


def test_a_browser_uploads_what_is_larger_than_other_bodies(site: WebWithServers) -> None:
    """The token of its form is in a header, so that nobody has to read the upload to find it."""
    form = site.ask("GET", "/login/", Authorization="")
    token = form.text.decode().split('name="csrfmiddlewaretoken" value="', 1)[1].split('"', 1)[0]
    cookie = form.headers["Set-Cookie"].split(";", 1)[0]
    typed = f"username=admin&password={PASSWORD.replace(' ', '+')}&csrfmiddlewaretoken={token}".encode()
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    signed = site.ask("POST", "/login/", typed, Authorization="", Cookie=cookie, **kind)
    cookies = dict(one.split(";", 1)[0].split("=", 1) for one in signed.headers.get_all("Set-Cookie"))
    sent = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())}
    start = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
    body = start + bytes(9 * MIB) + b"\r\n--b--\r\n"
    sent |= {"Authorization": "", "Content-Type": "multipart/form-data; boundary=b"}

    stored = site.ask("POST", "/api/v1/files", body, **sent, **{"X-CSRFToken": cookies["csrftoken"]})
    forged = site.ask("POST", "/api/v1/files", body, **sent)

    assert (stored.status, json.loads(stored.text).get("size")) == (201, 9 * MIB)
    assert (forged.status, json.loads(forged.text)["type"]) == (403, "/problems/csrf")


def test_our_files_are_for_our_pages(site: WebWithServers) -> None:
    assert "Access-Control-Allow-Origin" not in site.ask("GET", "/static/esteira_web/style.css").headers


def test_each_line_about_a_request_bears_its_id(site: WebWithServers) -> None:
    answers = [
        site.ask("GET", "/api/v1/jobs/nothing", **{"X-Request-ID": "mine-1"}),
        site.ask("GET", "/nothing", **{"X-Request-ID": "mine-2"}),
        site.ask(
            "POST", "/api/v1/files?name=a", b"x" * MIB, **{"X-Request-ID": "mine-3", "Authorization": ""}
        ),
        site.ask("GET", "/livez", **{"X-Request-ID": "mine-4"}),
    ]

    assert [answer.headers["X-Request-ID"] for answer in answers] == ["mine-1", "mine-2", "mine-3", "mine-4"]
    for wanted in ("mine-1", "mine-2", "mine-3", "mine-4"):
        until(lambda: ("gunicorn.access", wanted) in _lines(site), f"{wanted} in the access log")  # noqa: B023
    assert {("django.request", "mine-1"), ("django.request", "mine-2")} <= _lines(site)


def _lines(site: WebWithServers) -> set[tuple[str, str]]:
    lines = [json.loads(line) for line in site.web.output().splitlines() if line.startswith("{")]
    return {(line["logger"], line["request_id"]) for line in lines if "request_id" in line}


def test_connections_that_ask_before_they_send_are_told_first(site: WebWithServers) -> None:
    with site.connect(site.head(UPLOAD, LARGE, "Expect: 100-continue")) as one:
        assert status_of(one) == 401
    one_byte = site.head(UPLOAD, "Content-Length: 1", "Expect: 100-continue", token=site.token)
    with site.connect(one_byte) as one:
        assert status_of(one) == 100
        one.sendall(b"x")
        answer = http.client.HTTPResponse(one)
        answer.begin()
        assert answer.status == 201
