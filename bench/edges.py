"""How long a submit takes beside clients who have no account, or send slowly: `python -m bench.edges URL TOKEN`.

Seven send 100 MiB each without a token, again and again; fifty each send nothing, half a head, half a body, and half a
body with the token; sixteen guess passwords; one asks for 32 lists in turn, one after the other. The figures are those
of the very processes that answer at URL, in containers or not. TOKEN is one that may submit; what is submitted greets
somebody an hour later, so that no worker takes part.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import multiprocessing
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlencode, urlsplit

MIB = 1024**2
UPLOADERS, SLOW_OF_EACH_KIND, GUESSERS = 7, 50, 16
LARGE = 100 * MIB
#: Between two bytes of somebody who is slow, and between two lists.
DRIP_S, REST_S = 2.0, 0.2
LISTS = [
    f"/api/v1/jobs?limit=50&state={state}{more}"
    for state in ("succeeded", "failed", "dead", "cancelled", "expired", "scheduled", "running", "retrying")
    for more in ("", "&type=demo.greet", "&queue=default", "&type=demo.flaky&queue=default")
]
LATER_S = 3600
MOST_TIMES = 5.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.edges", description=__doc__)
    parser.add_argument("url", metavar="URL", help="where web answers: http://127.0.0.1:8000")
    parser.add_argument("token", metavar="TOKEN", help="a token that may submit")
    parser.add_argument(
        "--submits", type=int, default=300, help="so many idle, and so many beside them (300)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="idle and beside them in turn, so often (5)")
    options = parser.parse_args()
    host, port = _address(options.url)
    submit(host, port, options.token, 20)  # connections to the database are opened by the first ones
    print(f"{'':24}{'p50 ms':>10}{'p99 ms':>10}{'most ms':>10}  answers")
    rounds = [one_round(host, port, options.token, options.submits) for _ in range(options.rounds)]
    times = statistics.median(one.times for one in rounds)
    print(
        f"p99 beside them is {times:.1f} times that of an idle server, the median; {MOST_TIMES:g} are allowed."
    )
    return 0 if times <= MOST_TIMES and all(one.accepted for one in rounds) else 1


def one_round(host: str, port: int, token: str, count: int) -> Round:
    """Submit while nobody else asks, then beside all the others."""
    idle = submit(host, port, token, count)
    others = multiprocessing.get_context("spawn").Process(
        target=disturb, args=(host, port, token), daemon=True
    )
    others.start()
    try:
        time.sleep(3)
        beside = submit(host, port, token, count)
    finally:
        others.kill()
        others.join()
    print(f"{'idle':24}{idle.row()}\n{'beside all of them':24}{beside.row()}", flush=True)
    return Round(
        times=quantile(beside.seconds, 0.99) / quantile(idle.seconds, 0.99),
        accepted=set(beside.statuses) == {202},
    )


@dataclass(frozen=True, kw_only=True)
class Round:
    """How many times as long the slowest hundredth took beside the others, and whether all were accepted."""

    times: float
    accepted: bool


class Taken:
    """What submits took, and how they were answered."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.statuses: Counter[int] = Counter()

    def row(self) -> str:
        figures = [quantile(self.seconds, 0.5), quantile(self.seconds, 0.99), max(self.seconds)]
        said = ", ".join(f"{count} × {status}" for status, count in sorted(self.statuses.items()))
        return "".join(f"{1000 * one:10.1f}" for one in figures) + f"  {said}"


def quantile(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def submit(host: str, port: int, token: str, count: int) -> Taken:
    """Submit one after the other on one connection, as a program does."""
    taken, connection = Taken(), http.client.HTTPConnection(host, port, timeout=60)
    body = json.dumps({"type": "demo.greet", "options": {"delay": LATER_S}})
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    for _ in range(count):
        began = time.monotonic()
        connection.request("POST", "/api/v1/jobs", body, headers)
        answer = connection.getresponse()
        answer.read()
        taken.seconds.append(time.monotonic() - began)
        taken.statuses[answer.status] += 1
    connection.close()
    return taken


def disturb(host: str, port: int, token: str) -> None:
    """Be all the others, until this process is killed."""
    asyncio.run(_disturb(host, port, token))


async def _disturb(host: str, port: int, token: str) -> None:
    half = "Content-Length: 100\r\n\r\n{"
    post = f"POST /api/v1/jobs HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    kinds = [
        ("", b""),
        (f"GET /livez HTTP/1.1\r\nHost: {host}\r\nX-A: ", b"a"),
        (f"{post}{half}", b" "),
        (f"{post}Authorization: Bearer {token}\r\n{half}", b" "),
    ]
    slow = [
        _again(partial(_slow, host, port, head.encode(), drip))
        for head, drip in kinds
        for _ in range(SLOW_OF_EACH_KIND)
    ]
    uploads = [_again(partial(_upload, host, port)) for _ in range(UPLOADERS)]
    guesses = [_again(partial(_guess, host, port, f"name{n}")) for n in range(GUESSERS)]
    await asyncio.gather(*slow, *uploads, *guesses, _again(partial(_read_lists, host, port, token)))


async def _again(work: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await work()
        except OSError:
            await asyncio.sleep(0.2)


async def _slow(host: str, port: int, head: bytes, drip: bytes) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(head)
        while not reader.at_eof():
            try:
                async with asyncio.timeout(DRIP_S):
                    await reader.read(4096)
            except TimeoutError:
                writer.write(drip)
    finally:
        writer.close()


async def _upload(host: str, port: int) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        head = f"POST /api/v1/files?name=a HTTP/1.1\r\nHost: {host}\r\nContent-Length: {LARGE}\r\n\r\n"
        writer.write(head.encode())
        for _ in range(LARGE // MIB):
            writer.write(bytes(MIB))
            await writer.drain()
        await reader.read(4096)
    finally:
        writer.close()


async def _guess(host: str, port: int, name: str) -> None:
    """Try a password at the page for people, with the form's own token."""
    page = await _asked(host, port, f"GET /login/ HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
    found = re.search(rb'name="csrfmiddlewaretoken" value="(\w+)"', page)
    cookie = re.search(rb"csrftoken=(\w+)", page)
    if not found or not cookie:
        raise OSError("there is no form")
    form = urlencode({"csrfmiddlewaretoken": found[1].decode(), "username": name, "password": "Winter2026!"})
    head = [
        f"POST /login/ HTTP/1.1\r\nHost: {host}\r\nConnection: close",
        "Content-Type: application/x-www-form-urlencoded",
        f"Cookie: csrftoken={cookie[1].decode()}\r\nContent-Length: {len(form)}",
    ]
    await _asked(host, port, "\r\n".join(head) + f"\r\n\r\n{form}")


async def _read_lists(host: str, port: int, token: str) -> None:
    for path in LISTS:
        head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        await _asked(host, port, head)
        await asyncio.sleep(REST_S)


async def _asked(host: str, port: int, request: str) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(request.encode())
        return await reader.read()
    finally:
        writer.close()


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 80


if __name__ == "__main__":
    sys.exit(main())
