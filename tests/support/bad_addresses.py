"""The other half of the table in `bad_requests`: batches, keys, queries, methods and addresses."""

from __future__ import annotations

from typing import Any

from tests.support.bad_requests import BATCH, JOBS, JSON, NOBODY, Bad, _cursor, _get, _job, _raw, _sent

_ONE = f"{JOBS}/{NOBODY}"


def _batch(name: str, code: str, jobs: Any, *fields: str, status: int = 422) -> Bad:
    return Bad(
        name=f"batch {name}", status=status, code=code, fields=fields, path=BATCH, **_sent({"jobs": jobs})
    )


_CLASH = _job(unique="once", on_conflict="error", delay=60)
BATCHES = [
    _batch("empty", "invalid-request", [], "#/jobs"),
    _batch("of an object", "invalid-request", {}, "#/jobs"),
    _batch("of a text", "invalid-request", "demo.greet", "#/jobs"),
    _batch("of null", "invalid-request", None, "#/jobs"),
    _batch("of numbers", "invalid-request", [1, 2], "#/jobs/0", "#/jobs/1"),
    _batch("of 1,001", "too-large", [_job()] * 1001, "#/jobs", status=413),
    _batch("with an unknown field", "invalid-request", [_job(), {**_job(), "x": 1}], "#/jobs/1/x"),
    _batch(
        "with several mistakes",
        "invalid-request",
        [_job(), _job("no.such"), _job(params={"name": 5}), _job(queue="", delay=-1), _job(prio=1), _job()],
        "#/jobs/1/type",
        "#/jobs/2/params/name",
        "#/jobs/3/options/queue",
        "#/jobs/3/options/delay",
        "#/jobs/4/options/prio",
    ),
    _batch("that clashes with itself", "unique-conflict", [_job(), _CLASH, _CLASH], status=409),
    Bad(
        name="batch without jobs",
        status=422,
        code="invalid-request",
        fields=["#/jobs"],
        path=BATCH,
        **_sent({}),
    ),
    Bad(
        name="batch of a bare list",
        status=422,
        code="invalid-request",
        fields=["#"],
        path=BATCH,
        **_sent([_job()]),
    ),
]

HEADERS = [
    Bad(name=f"key {name}", status=400, code="bad-request", **_sent(_job(), headers={"Idempotency-Key": key}))
    for name, key in {
        "empty": "",
        "of 256": "k" * 256,
        "outside ASCII": "\u00e9",
        "with half a quote": '"ab',
        "with a blank": "a b",
        "with a tab": "a\tb",
        "of an empty quote": '""',
    }.items()
]

QUERIES = [
    _get(f"list {query[:40]}", 422, "invalid-request", f"{JOBS}?{query}", *fields)
    for query, fields in (
        ("limit=0", ["limit"]),
        ("limit=-1", ["limit"]),
        ("limit=201", ["limit"]),
        ("limit=1e9", ["limit"]),
        ("limit=", ["limit"]),
        ("limit=%D9%A3", ["limit"]),
        ("limit=" + "9" * 3000, ["limit"]),
        ("limit=true", ["limit"]),
        ("limit=1_0", ["limit"]),
        ("limit=5.0", ["limit"]),
        ("limit=+5", ["limit"]),
        ("limit=%2B5", ["limit"]),
        ("limit=5%20", ["limit"]),
        ("limit=%0A5", ["limit"]),
        ("limit=%D9%A5", ["limit"]),
        ("limit=%EF%BC%95", ["limit"]),
        ("limit=5e0", ["limit"]),
        ("limit=0x5", ["limit"]),
        ("limit=-0", ["limit"]),
        ("state=", ["state"]),
        ("state=,", ["state"]),
        ("state=,succeeded,", ["state"]),
        ("state=queued,,dead", ["state"]),
        ("state=queued&state=", ["state"]),
        ("state=%20queued", ["state"]),
        ("type=", ["type"]),
        ("queue=", ["queue"]),
        ("created_after=", ["created_after"]),
        ("created_before=", ["created_before"]),
        ("limit=1&limit=2", ["limit"]),
        ("type=a&type=b", ["type"]),
        ("state=bad", ["state"]),
        ("state=queued,bad", ["state"]),
        ("state=%00", ["state"]),
        ("state=QUEUED", ["state"]),
        ("tag=x", ["tag"]),
        ("Limit=1", ["Limit"]),
        ("=1", [""]),
        ("limit[]=1", ["limit[]"]),
        ("type=%00", ["type"]),
        ("type=a%00b", ["type"]),
        ("queue=%00", ["queue"]),
        ("type=%ED%A0%80", ["type"]),
        ("queue=%FF", ["queue"]),
        ("%FF=1", ["\ufffd"]),
        ("type=" + "x" * 121, ["type"]),
        ("queue=" + "x" * 61, ["queue"]),
        ("created_after=x", ["created_after"]),
        ("created_after=2026-01-01T00:00:00", ["created_after"]),
        ("created_after=1767225600", ["created_after"]),
        ("created_after=0001-01-01T00:00:00%2B14:00", ["created_after"]),
        ("created_after=9999-12-31T23:59:59-14:00", ["created_after"]),
        ("cursor=zzz", ["cursor"]),
        ("cursor=%C3%A9", ["cursor"]),
        ("cursor=%00", ["cursor"]),
        (f"cursor={_cursor('sideways', '2026-01-01T00:00:00Z', NOBODY)}", ["cursor"]),
        (f"cursor={_cursor('older', '2026-01-01', NOBODY)}", ["cursor"]),
        (f"cursor={_cursor('older', 5, NOBODY)}", ["cursor"]),
        (f"cursor={_cursor('older')}", ["cursor"]),
        ("limit=0&colour=red&type=%00&state=bad", ["limit", "colour", "type", "state"]),
    )
] + [
    _get(f"{path} with an unknown parameter", 422, "invalid-request", f"{path}?colour=red", "colour")
    for path in (_ONE, f"{_ONE}/files", "/api/v1/job-types", "/api/v1/schedules", "/api/v1/openapi.json")
]
QUERIES += [
    _get("list with 1,001 parameters", 400, "bad-request", f"{JOBS}?{'&'.join(['a'] * 1001)}"),
    _get(
        "list with a parameter of 3,000 letters", 422, "invalid-request", f"{JOBS}?{'x' * 3000}=1", "x" * 3000
    ),
    Bad(
        name="submit with a query",
        status=422,
        code="invalid-request",
        fields=["delay"],
        path=f"{JOBS}?delay=5",
        **_sent(_job()),
    ),
]


def _method(method: str, path: str, allow: str, **more: Any) -> Bad:
    return Bad(
        name=f"{method} {path}",
        status=405,
        code="method-not-allowed",
        method=method,
        path=path,
        allow=allow,
        **more,
    )


METHODS = [
    *[
        _method(method, JOBS, "GET, HEAD, POST")
        for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
    ],
    _method("GET", BATCH, "POST"),
    _method("DELETE", _ONE, "GET, HEAD"),
    _method("POST", _ONE, "GET, HEAD", **_sent({})),
    _method("GET", f"{_ONE}/cancel", "POST"),
    _method("HEAD", f"{_ONE}/retry", "POST"),
    _method("POST", "/api/v1/openapi.json", "GET, HEAD", **_sent({})),
    _method("DELETE", "/api/v1/files", "GET, HEAD, POST"),
    _method("PUT", "/api/v1/job-types/demo.greet", "GET, HEAD", **_sent({})),
    *[_method("POST", path, "GET, HEAD", who="page") for path in ("/", "/problems/csrf")],
    _method("GET", f"/jobs/{NOBODY}/cancel/", "POST", who="page"),
    _method("GET", "/logout/", "POST, OPTIONS", who="page"),
    _method("PATCH", "/login/", "GET, POST, PUT, HEAD, OPTIONS", who="page"),
    _method("POST", "/static/esteira_web/style.css", "GET, HEAD", who="page"),
    _method("DELETE", "/static/esteira_web/style.css", "GET, HEAD", who="page"),
]

_MISTYPED = (
    "/api",
    "/api/",
    "/api/v1",
    "/api/v1/",
    "/api/v2/jobs",
    "/api/v1/job",
    f"{JOBS}/",
    "/api/v1//jobs",
    "/api/v1/../v1/jobs",
    "/api/v1/%2e%2e/jobs",
    "/api/v1/jobs%00",
    "/api/v1/jobs%2Fbatch/x",
    "/api/v1/JOBS",
    "//api/v1/jobs",
    "/api/v1/jobs;x=1",
    "/api/v1/%ff",
    f"{JOBS}/abc/cancel",
    f"{_ONE}/cancel/",
)
ADDRESSES = [
    *[
        Bad(
            name=f"{method} {path} by {who or 'nobody'}",
            status=404,
            code="not-found",
            method=method,
            path=path,
            who=who,
            **more,
        )
        for path in _MISTYPED
        for method, who, more in (
            ("GET", "operator", {}),
            ("POST", "operator", _sent(_job())),
            ("POST", "", _sent(_job())),
        )
    ],
    *[
        _get(f"GET {path}", 404, "not-found", path)
        for path in (
            f"{JOBS}/abc",
            f"{JOBS}/%00",
            _ONE,
            f"{JOBS}/{NOBODY.replace('-', '')}",
            f"{_ONE}/files",
            f"{_ONE}/files/a.txt",
            "/api/v1/job-types/%00",
            "/api/v1/job-types/%ED%A0%80",
            "/api/v1/job-types/%2e%2e%2f",
            "/api/v1/job-types/no.such",
        )
    ],
    Bad(name="cancel unknown", status=404, code="not-found", path=f"{_ONE}/cancel"),
    Bad(name="retry unknown", status=404, code="not-found", path=f"{_ONE}/retry"),
    Bad(
        name="cancel by force by a submitter",
        status=403,
        code="forbidden",
        who="submitter",
        path=f"{_ONE}/cancel",
        **_sent({"force": True}),
    ),
    Bad(name="retry by a submitter", status=403, code="forbidden", who="submitter", path=f"{_ONE}/retry"),
    *[
        Bad(
            name=f"cancel with {text[:30]}",
            status=422,
            code="invalid-request",
            fields=[place],
            path=f"{_ONE}/cancel",
            **_raw(text),
        )
        for text, place in (
            ('{"force": "maybe"}', "#/force"),
            ('{"force": 1}', "#/force"),
            ('{"force": "true"}', "#/force"),
            ('{"force": null}', "#/force"),
            ('{"farce": true}', "#/farce"),
            ("[]", "#"),
        )
    ],
    Bad(
        name="cancel with half a document", status=400, code="bad-request", path=f"{_ONE}/cancel", **_raw("{")
    ),
    Bad(name="another Host", status=400, code="unknown-host", method="GET", headers={"Host": "evil.example"}),
    Bad(
        name="another Host at /api",
        status=400,
        code="unknown-host",
        method="GET",
        path="/api",
        headers={"Host": "evil.example"},
    ),
    Bad(
        name="a body over its limit",
        status=413,
        code="too-large",
        headers={**JSON, "Content-Length": "9000000"},
        body=b"",
    ),
    Bad(
        name="a length that is no number",
        status=400,
        code="",
        headers={**JSON, "Content-Length": "x"},
        body=b"",
    ),
    Bad(
        name="an override of the method",
        status=404,
        code="not-found",
        path=f"{_ONE}/cancel",
        headers={"X-HTTP-Method-Override": "GET"},
    ),
]

_SAID = b'{"type": "demo.greet", "params": {"name": "\xe2\x80\xaeol\xc3\xa1 \xef\xbf\xbf"}, "options": {"delay": 3600}}'
#: What is odd and right: each is accepted or answered, and must stay so.
ODD_BUT_RIGHT: list[Bad] = [
    Bad(name="a text from right to left", status=202, code="", **_raw(_SAID)),
    Bad(name="a byte order mark", status=202, code="", **_raw(b"\xef\xbb\xbf" + _SAID)),
    Bad(name="no Content-Type", status=202, code="", body=_SAID),
    Bad(
        name="a charset in capitals",
        status=202,
        code="",
        body=_SAID,
        headers={"Content-Type": "Application/JSON; Charset=UTF-8"},
    ),
    Bad(
        name="a dialect of JSON",
        status=202,
        code="",
        body=_SAID,
        headers={"Content-Type": "application/vnd.api+json"},
    ),
    Bad(name="identity", status=202, code="", body=_SAID, headers={**JSON, "Content-Encoding": "identity"}),
    Bad(
        name="every option null",
        status=202,
        code="",
        **_sent(_job(queue=None, priority=None, delay=None, run_at=None, expires_in=None, unique=None)),
    ),
    Bad(
        name="no delay, written with a sign",
        status=202,
        code="",
        **_raw('{"type": "demo.greet", "options": {"delay": -0.0}}'),
    ),
    Bad(name="a quoted key", status=202, code="", **_raw(_SAID, headers={"Idempotency-Key": '"a b"'})),
    Bad(name="a key of 255", status=202, code="", **_raw(_SAID, headers={"Idempotency-Key": "k" * 255})),
    Bad(
        name="a method override of a submit",
        status=202,
        code="",
        **_raw(
            _SAID,
            headers={
                "X-HTTP-Method-Override": "DELETE",
                "X-HTTP-Method": "DELETE",
                "X-Method-Override": "DELETE",
            },
        ),
    ),
    *[
        Bad(name=f"GET {path} {headers}", status=200, code="", method=method, path=path, headers=headers)
        for method, path, headers in (
            ("GET", JOBS, {"Accept": "application/xml"}),
            ("GET", JOBS, {"Accept": "text/html"}),
            ("GET", JOBS, {"X-Request-ID": "a\tb"}),
            ("GET", JOBS, {"X-Request-ID": "x" * 5000}),
            ("GET", JOBS, {"X-HTTP-Method-Override": "POST"}),
            ("GET", f"{JOBS}?type=%EF%BF%BD", {}),
            ("GET", f"{JOBS}?", {}),
            ("GET", f"{JOBS}?&&", {}),
            ("GET", f"{JOBS}?state=queued,failed&state=dead", {}),
            ("HEAD", JOBS, {}),
            ("HEAD", "/api/v1/job-types/demo.greet", {}),
            ("HEAD", "/api/v1/schedules", {}),
        )
    ],
]
