"""Requests that two readers could read differently: each is refused, and nothing of it becomes a second request."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.web_with_servers import WebWithServers, run_web_with_servers

pytestmark = pytest.mark.slow

#: What follows each request on its connection: it would be answered if somebody took it for a request of its own.
SMUGGLED = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
HOST = b"Host: 127.0.0.1\r\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebWithServers]:
    yield from run_web_with_servers(Path(tmp_path_factory.mktemp("site")))


def statuses(site: WebWithServers, sent: bytes) -> list[int]:
    """Send bytes on a connection of their own; return the status of each answer until it is closed."""
    with socket.create_connection(("127.0.0.1", site.port), timeout=30) as connection:
        connection.sendall(sent)
        got = b""
        while piece := connection.recv(65536):
            got += piece
    return [int(one) for one in re.findall(rb"HTTP/1\.[01] (\d{3}) ", got)]


def head(*lines: bytes, host: bytes = HOST, method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    return (
        method
        + b" /livez HTTP/"
        + version
        + b"\r\n"
        + host
        + b"".join(one + b"\r\n" for one in lines)
        + b"\r\n"
    )


def body(coding: bytes, content: bytes, *more: bytes) -> bytes:
    return head(coding, *more, method=b"POST") + content


CHUNKED = b"Transfer-Encoding: chunked"
#: What is sent, and the one status that it is answered with.
REFUSED: dict[str, tuple[bytes, int]] = {
    "no Host": (head(host=b""), 400),
    "two Hosts": (head(host=HOST + b"Host: other.example\r\n"), 400),
    "the same Host twice": (head(host=HOST + HOST), 400),
    "a Host with a path": (head(host=b"Host: a/b\r\n"), 400),
    "a Host with an account": (head(host=b"Host: a@b\r\n"), 400),
    "two names in one Host": (head(host=b"Host: a, b\r\n"), 400),
    "a Host with a blank before the colon": (head(host=b"Host : 127.0.0.1\r\n"), 400),
    "a Host behind a blank": (head(host=b" Host: 127.0.0.1\r\n"), 400),
    "a line that goes on": (head(b"X-A: a", b" b"), 400),
    "a line that goes on after a tab": (head(b"X-A: a", b"\tb"), 400),
    "lines that end with LF": (head().replace(b"\r\n", b"\n"), 400),
    "one line that ends with LF": (head(b"X-A: a\nX-B: b"), 400),
    "a CR in a value": (head(b"X-A: a\rX-B: b"), 400),
    "a NUL in a value": (head(b"X-A: a\0b"), 400),
    "a line without a colon": (head(b"X-A"), 400),
    "a name with a blank": (head(b"X A: a"), 400),
    "an empty name": (head(b": a"), 400),
    "two blanks in the first line": (head().replace(b" /livez", b"  /livez"), 400),
    "a tab in the first line": (head().replace(b" /livez", b"\t/livez"), 400),
    "no version": (b"GET /livez\r\n" + HOST + b"\r\n", 400),
    "an unknown version": (head(version=b"1.2"), 400),
    "a length and chunks": (body(CHUNKED, b"0\r\n\r\n", b"Content-Length: 5"), 400),
    "two lengths": (body(b"Content-Length: 5", b"hello", b"Content-Length: 6"), 400),
    "the same length twice": (body(b"Content-Length: 5", b"hello", b"Content-Length: 5"), 400),
    "two lengths in one line": (body(b"Content-Length: 5, 5", b"hello"), 400),
    "a length with a sign": (body(b"Content-Length: +5", b"hello"), 400),
    "a length below zero": (body(b"Content-Length: -5", b"hello"), 400),
    "a length with an underscore": (body(b"Content-Length: 0_5", b"hello"), 400),
    "a length in hexadecimal": (body(b"Content-Length: 0x5", b"hello"), 400),
    "an empty length": (body(b"Content-Length:", b"hello"), 400),
    "a length with a blank before the colon": (body(b"Content-Length : 5", b"hello"), 400),
    "gzip and chunks": (body(b"Transfer-Encoding: gzip, chunked", b"5\r\nhello\r\n0\r\n\r\n"), 501),
    "deflate and chunks in two lines": (
        body(b"Transfer-Encoding: deflate", b"5\r\nhello\r\n0\r\n\r\n", CHUNKED),
        501,
    ),
    "identity and chunks": (body(b"Transfer-Encoding: identity, chunked", b"0\r\n\r\n"), 501),
    "gzip alone": (body(b"Transfer-Encoding: gzip", b"hello"), 400),
    "chunks twice": (body(b"Transfer-Encoding: chunked, chunked", b"0\r\n\r\n"), 400),
    "chunks before gzip": (body(b"Transfer-Encoding: chunked, gzip", b"0\r\n\r\n"), 400),
    "an unknown coding": (body(b"Transfer-Encoding: xchunked", b"0\r\n\r\n"), 501),
    "chunks with a parameter": (body(b"Transfer-Encoding: chunked;a=b", b"0\r\n\r\n"), 501),
    "chunks behind a vertical tab": (body(b"Transfer-Encoding: \x0bchunked", b"0\r\n\r\n"), 400),
    "chunks with a blank before the colon": (body(b"Transfer-Encoding : chunked", b"0\r\n\r\n"), 400),
    "chunks in HTTP/1.0": (head(CHUNKED, method=b"POST", version=b"1.0") + b"0\r\n\r\n", 400),
}
#: What begins well, and has a body that cannot be read: it may be answered before its body is, but never twice.
BROKEN_CHUNKS: dict[str, bytes] = {
    "a size with a sign": b"+5\r\nhello\r\n0\r\n\r\n",
    "a size with 0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "a size with an underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "a size that is none": b"x\r\nhello\r\n0\r\n\r\n",
    "a size that ends with LF": b"5\nhello\r\n0\r\n\r\n",
    "a chunk that ends with LF": b"5\r\nhello\n0\r\n\r\n",
    "a chunk that goes on": b"5\r\nhello!\r\n0\r\n\r\n",
    "a CR in an extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
}


def test_a_head_that_can_be_read_in_two_ways_is_refused_once(site: WebWithServers) -> None:
    said = {name: statuses(site, sent + SMUGGLED) for name, (sent, _) in REFUSED.items()}

    assert said == {name: [status] for name, (_, status) in REFUSED.items()}


@pytest.mark.parametrize("path", [b"/livez", b"/api/v1/jobs", b"/login/"])
def test_chunks_that_cannot_be_read_end_the_connection(site: WebWithServers, path: bytes) -> None:
    said = {
        name: statuses(site, body(CHUNKED, chunks).replace(b"/livez", path) + SMUGGLED)
        for name, chunks in BROKEN_CHUNKS.items()
    }

    assert {name: got for name, got in said.items() if len(got) > 1 or (got and got[0] == 500)} == {}


def test_what_can_be_read_in_one_way_is_answered(site: WebWithServers) -> None:
    right = {
        "one after the other": head() + SMUGGLED,
        "an old client without Host": head(host=b"", version=b"1.0"),
        "chunks, written otherwise": body(b"tRANSFER-eNCODING:cHUNKED", b"5;a=b\r\nhello\r\n0\r\n\r\n")
        + SMUGGLED,
    }

    said = {name: statuses(site, sent) for name, sent in right.items()}

    assert said == {name: [200] * (2 if sent.endswith(SMUGGLED) else 1) for name, sent in right.items()}


@pytest.mark.parametrize(
    ("headers", "status", "words"),
    [
        (b"", 400, b"Host: is missing"),
        (
            HOST + b"Transfer-Encoding: gzip, chunked\r\n",
            501,
            b"Transfer-Encoding: gzip, chunked is not supported",
        ),
    ],
)
def test_a_refusal_says_what_to_send(site: WebWithServers, headers: bytes, status: int, words: bytes) -> None:
    with socket.create_connection(("127.0.0.1", site.port), timeout=30) as connection:
        connection.sendall(b"POST /api/v1/jobs HTTP/1.1\r\n" + headers + b"\r\n0\r\n\r\n")
        got = b"".join(iter(lambda: connection.recv(65536), b""))

    assert got.startswith(b"HTTP/1.1 %d " % status)
    assert b"application/problem+json" in got
    assert words in got
