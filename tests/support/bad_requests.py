"""Requests that somebody sends by mistake or on purpose, and what each is told; a table, group by group.

`fields` are the pointers or parameters that the problem document must name, in any order. What is odd and still right
is in ODD_BUT_RIGHT, so that nobody refuses it one day.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

JOBS = "/api/v1/jobs"
BATCH = f"{JOBS}/batch"
NOBODY = "0190cafe-0000-7000-8000-000000000000"
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True, kw_only=True)
class Bad:
    """One request and what it is told; `who` is a role, "" for nobody, or "page" for a signed-in browser."""

    name: str
    status: int
    code: str
    fields: Sequence[str] = ()
    method: str = "POST"
    path: str = JOBS
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    who: str = "operator"
    allow: str = ""


def _job(type: Any = "demo.greet", params: Any = None, **options: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"type": type}
    if params is not None:
        asked["params"] = params
    return {**asked, "options": options} if options else asked


def _raw(text: str | bytes, **more: Any) -> dict[str, Any]:
    content = text if isinstance(text, bytes) else text.encode()
    return {"body": content, "headers": {**JSON, **more.pop("headers", {})}, **more}


def _sent(body: Any, **more: Any) -> dict[str, Any]:
    return _raw(json.dumps(body), **more)


def _submit(name: str, code: str, body: Any, *fields: str, status: int = 422) -> Bad:
    text = body if isinstance(body, str | bytes) else json.dumps(body)
    return Bad(name=name, status=status, code=code, fields=fields, **_raw(text))


def _option(name: str, value: str, code: str = "invalid-option", field: str = "delay") -> Bad:
    """One option, its value written as JSON."""
    body = f'{{"type": "demo.greet", "options": {{"{field}": {value}}}}}'
    return _submit(f"{field} {name}", code, body, f"#/options/{field}")


def _get(name: str, status: int, code: str, path: str, *fields: str, **more: Any) -> Bad:
    return Bad(name=name, status=status, code=code, fields=fields, method="GET", path=path, **more)


def _nested(levels: int) -> str:
    return '{"type": "demo.greet", "params": ' + '{"a": ' * levels + "1" + "}" * levels + "}"


def _cursor(*parts: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode().rstrip("=")


WHO = [
    Bad(name="nobody", status=401, code="unauthenticated", who="", **_sent(_job())),
    Bad(name="a viewer submits", status=403, code="forbidden", who="viewer", **_sent(_job())),
    *[
        Bad(
            name=name,
            status=401,
            code="unauthenticated",
            who="",
            **_sent(_job(), headers={"Authorization": said}),
        )
        for name, said in {
            "a token of another shape": "Bearer x",
            "an unknown token": "Bearer esteira_" + "A" * 43,
            "a token with NUL in percent": "Bearer %00",
            "a bare word": "Bearer",
            "Basic": "Basic YTpi",
            "a very long token": "Bearer " + "x" * 5000,
        }.items()
    ],
]

BODIES = [
    _submit("empty body", "invalid-request", "", "#"),
    _submit("JSON that stops", "bad-request", '{"type": "demo.greet"', status=400),
    _submit("two documents", "bad-request", '{"type": "demo.greet"} {}', status=400),
    _submit("a comma too many", "bad-request", '{"type": "demo.greet",}', status=400),
    _submit("single quotes", "bad-request", "{'type': 'demo.greet'}", status=400),
    _submit("a comment", "bad-request", '{"type": "demo.greet"} // now', status=400),
    _submit("a control character", "bad-request", '{"type": "demo.greet\x01"}', status=400),
    _submit("a NUL byte", "bad-request", b"\x00", status=400),
    _submit("a blank", "bad-request", "  ", status=400),
    _submit("null", "invalid-request", "null", "#"),
    _submit("a list", "invalid-request", "[]", "#"),
    _submit("a text", "invalid-request", '"demo.greet"', "#"),
    _submit("a number", "invalid-request", "5", "#"),
    _submit("Latin-1", "bad-request", b'{"type": "demo.greet", "params": {"name": "\xe9"}}', status=400),
    _submit("UTF-16", "bad-request", '{"type": "demo.greet"}'.encode("utf-16"), status=400),
    _submit("UTF-32", "bad-request", '{"type": "demo.greet"}'.encode("utf-32-le"), status=400),
    _submit("an overlong encoding", "bad-request", b'{"type": "demo\xc0\xaegreet"}', status=400),
    _submit("a surrogate in UTF-8", "bad-request", b'{"type": "\xed\xa0\x80"}', status=400),
    _submit("lists without end", "bad-request", "[" * 2_000_000, status=400),
    _submit("objects without end", "bad-request", _nested(200_000), status=400),
    _submit("deep parameters", "invalid-parameters", _nested(500), "#/params/a"),
    _submit("a field twice", "invalid-request", '{"type": "no.such", "type": "demo.greet"}', "#/type"),
    _submit(
        "a parameter twice",
        "invalid-request",
        '{"type": "demo.greet", "params": {"name": "a", "name": "b"}}',
        "#/params/name",
    ),
    _submit(
        "an option twice",
        "invalid-request",
        '{"type": "demo.greet", "options": {"delay": 1, "delay": 2}}',
        "#/options/delay",
    ),
    Bad(
        name="a field twice in a batch",
        status=422,
        code="invalid-request",
        fields=["#/jobs/1/type"],
        path=BATCH,
        **_raw('{"jobs": [{"type": "demo.greet"}, {"type": "demo.greet", "type": "demo.greet"}]}'),
    ),
]

_PLAIN = json.dumps(_job()).encode()
CONTENT = [
    Bad(
        name=f"Content-Type {kind}",
        status=415,
        code="unsupported-media-type",
        body=body,
        headers={"Content-Type": kind},
    )
    for kind, body in {
        "text/plain": _PLAIN,
        "text/html": _PLAIN,
        "application/xml": b"<type>demo.greet</type>",
        "application/x-www-form-urlencoded": b"type=demo.greet",
        "multipart/form-data; boundary=B": b'--B\r\nContent-Disposition: form-data; name="type"\r\n\r\nx\r\n--B--\r\n',
        "application/octet-stream": _PLAIN,
        "application/json; charset=utf-16": _PLAIN,
        "application/json; charset=iso-8859-1": _PLAIN,
        "nonsense": _PLAIN,
        "application/jsonp": _PLAIN,
    }.items()
] + [
    Bad(
        name=f"Content-Encoding {coding}",
        status=415,
        code="unsupported-media-type",
        body=gzip.compress(_PLAIN),
        headers={**JSON, "Content-Encoding": coding},
    )
    for coding in ("gzip", "br", "gzip, gzip")
]

FIELDS = [
    _submit("no type", "invalid-request", {}, "#/type"),
    _submit("type null", "invalid-request", _job(None), "#/type"),
    _submit("type a number", "invalid-request", _job(5), "#/type"),
    _submit("type true", "invalid-request", _job(True), "#/type"),
    _submit("type a list", "invalid-request", _job(["demo.greet"]), "#/type"),
    _submit("an unknown field", "invalid-request", {**_job(), "prams": {}}, "#/prams"),
    _submit("a field without a name", "invalid-request", {**_job(), "": 1}, "#/"),
    _submit("a field with a slash", "invalid-request", {**_job(), "a/b~c": 1}, "#/a~1b~0c"),
    _submit("a field named like a prototype", "invalid-request", {**_job(), "__proto__": 1}, "#/__proto__"),
    _submit("params a list", "invalid-request", _job(params=[]), "#/params"),
    _submit("params a text", "invalid-request", _job(params="name"), "#/params"),
    _submit("params null", "invalid-request", {"type": "demo.greet", "params": None}, "#/params"),
    _submit("options a list", "invalid-request", {**_job(), "options": []}, "#/options"),
    _submit("options null", "invalid-request", {**_job(), "options": None}, "#/options"),
    _submit("an unknown option", "invalid-request", _job(prio="high"), "#/options/prio"),
    *[
        _submit(f"type {name}", "unknown-job-type", f'{{"type": "{said}"}}', "#/type")
        for name, said in {
            "empty": "",
            "unknown": "no.such",
            "of a megabyte": "x" * 1_000_000,
            "with NUL": "demo.greet\\u0000",
            "with half a surrogate pair": "\\ud800",
            "from right to left": "\u202etenerg.omed",
            "with a combining accent": "demo.gree\u0301t",
            "with a non-character": "\uffff",
            "in capitals": "DEMO.GREET",
            "with a blank": "demo.greet ",
            "like a path": "../../etc/passwd",
            "like SQL": "'; DROP TABLE esteira_job; --",
        }.items()
    ],
]

PARAMS = [
    *[
        _submit(
            f"name {name}",
            "invalid-parameters",
            f'{{"type": "demo.greet", "params": {{"name": {said}}}}}',
            place,
        )
        for name, said, place in (
            ("a number", "5", "#/params/name"),
            ("true", "true", "#/params/name"),
            ("null", "null", "#/params/name"),
            ("an object", "{}", "#/params/name"),
            ("empty", '""', "#/params/name"),
            ("too long", json.dumps("x" * 81), "#/params/name"),
            ("too long in accents", json.dumps("e\u0301" * 41), "#/params/name"),
            ("with NUL", '"a\\u0000b"', "#/params/name"),
            ("with half a surrogate pair", '"a\\ud800b"', "#/params/name"),
            ("with the other half first", '"\\udc00\\ud800"', "#/params/name"),
        )
    ],
    *[
        _submit(
            f"a whole number {name}",
            "invalid-parameters",
            f'{{"type": "demo.flaky", "params": {{"failures": {said}}}}}',
            "#/params/failures",
        )
        for name, said in {
            "true": "true",
            "false": "false",
            "with a part": "1.5",
            "below its least": "-1",
            "above its most": "21",
            "NaN": "NaN",
            "Infinity": "Infinity",
            "of 400 digits": "1" + "0" * 400,
            "of 5,000 digits": "1" + "0" * 5000,
            "1e400": "1e400",
            "in words": '"two"',
            "in hexadecimal": '"0x2"',
        }.items()
    ],
    _submit("an unknown parameter", "invalid-parameters", _job(params={"nme": "x"}), "#/params/nme"),
    _submit("a parameter without a name", "invalid-parameters", _job(params={"": "x"}), "#/params/"),
    _submit("a parameter with NUL", "invalid-parameters", _job(params={"a\0": "x"}), "#/params/a\0"),
    _submit(
        "a parameter with half a pair",
        "invalid-parameters",
        '{"type":"demo.greet","params":{"\\ud800":1}}',
        "#/params/?",
    ),
    _submit(
        "a file that is a path",
        "invalid-parameters",
        _job("images.thumbnails", {"picture": "../../etc/passwd"}),
        "#/params/picture",
    ),
    _submit(
        "parameters of 80 KiB",
        "too-large",
        _job(
            "email.send",
            {"to": ["a@example.org"], "subject": "s", "text": "t" * 40_000, "html": "h" * 40_000},
        ),
        "#/params",
        status=413,
    ),
    _submit(
        "a header in an address",
        "invalid-parameters",
        _job("email.send", {"to": ["a@example.org\r\nBcc: b@example.org"], "subject": "s", "text": "t"}),
        "#/params/to/0",
    ),
    _submit(
        "a header in a subject",
        "invalid-parameters",
        _job("email.send", {"to": ["a@example.org"], "subject": "s\r\nBcc: b@example.org", "text": "t"}),
        "#/params/subject",
    ),
]

OPTIONS = [
    *[
        _option(name, said, "invalid-option", field)
        for field in ("delay", "expires_in")
        for name, said in {
            "-1": "-1",
            "NaN": "NaN",
            "Infinity": "Infinity",
            "-Infinity": "-Infinity",
            "1e400": "1e400",
            "of a hundred years": "3.2e9",
            "of 5,000 digits": "1" + "0" * 5000,
        }.items()
    ],
    *[
        _option(name, said, "invalid-request", field)
        for field in ("delay", "expires_in")
        for name, said in {
            "true": "true",
            "a text": '"5m"',
            "a number in quotes": '"5"',
            "a list": "[5]",
        }.items()
    ],
    _option("0", "0", "invalid-option", "expires_in"),
    _option("-0.0", "-0.0", "invalid-option", "expires_in"),
    *[
        _option(name, said, "invalid-request", "run_at")
        for name, said in {
            "without a zone": '"2027-01-01T00:00:00"',
            "on 30 February": '"2027-02-30T00:00:00Z"',
            "at 25 o'clock": '"2027-02-03T25:00:00Z"',
            "tomorrow": '"tomorrow"',
            "empty": '""',
            "a date": '"2027-01-01"',
            "a number": "1893456000",
            "a number in quotes": '"1893456000"',
            "true": "true",
            "with NUL": '"2027-01-01T00:00:00Z\\u0000"',
        }.items()
    ],
    _option("before 1970", '"1969-12-31T23:59:59Z"', "invalid-option", "run_at"),
    _option("in the year 9999", '"9999-12-31T23:59:59-14:00"', "invalid-option", "run_at"),
    _submit(
        "run_at and delay", "invalid-option", _job(run_at="2027-02-03T05:00:00Z", delay=5), "#/options/run_at"
    ),
    *[
        _option(name, said, "unknown-queue", "queue")
        for name, said in {
            "empty": '""',
            "unknown": '"nowhere"',
            "with NUL": '"\\u0000"',
            "with half a pair": '"\\ud800"',
        }.items()
    ],
    _option("a number", "5", "invalid-request", "queue"),
    *[
        _option(name, said, "invalid-option", "priority")
        for name, said in {
            "empty": '""',
            "urgent": '"urgent"',
            "in capitals": '"HIGH"',
            "with half a pair": '"\\ud800"',
        }.items()
    ],
    _option("a number", "3", "invalid-request", "priority"),
    *[
        _option(name, said, "invalid-option", "on_conflict")
        for name, said in {"empty": '""', "skip": '"skip"', "in capitals": '"Return"'}.items()
    ],
    _option("null", "null", "invalid-request", "on_conflict"),
    *[
        _option(name, said, "invalid-option", "unique")
        for name, said in {
            "empty": '""',
            "too long": json.dumps("k" * 201),
            "with NUL": '"a\\u0000"',
            "with half a pair": '"\\ud800"',
        }.items()
    ],
    _option("a number", "5", "invalid-request", "unique"),
]
