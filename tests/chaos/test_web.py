"""Web is killed while programs submit, and its database stops: every accepted job exists once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.invariants import check
from tests.support.load import Measured
from tests.support.process_stack import ProcessStack
from tests.support.waiting import Stopwatch

CLIENTS = 4


@pytest.mark.kills
def test_web_kill(stack: ProcessStack, measured: Measured) -> None:
    """Clients repeat what got no answer under the same key: one job each, and every answer names a row."""
    web = stack.web()
    stack.worker("w1")
    stack.beat()
    api = stack.api()
    enough = threading.Event()

    def client(number: int) -> int:
        sent = 0
        while not enough.is_set():
            api.submit(f"{number}-{sent}", "effects.work", {"seconds": 0})
            sent += 1
        return sent

    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(client, number) for number in range(CLIENTS)]
        try:
            for _ in range(5):
                wanted = len(api.accepted) + 40
                stack.until(lambda: len(api.accepted) >= wanted, "jobs are accepted")  # noqa: B023
                web.kill()
                stack.again(web, wait=False)
                before, watch = len(api.accepted), Stopwatch()
                stack.until(lambda: len(api.accepted) > before, "jobs are accepted again")  # noqa: B023
                measured(watch.seconds, 5.0)
        finally:
            enough.set()
        sent = sum(one.result() for one in clients)

    first = dict(api.accepted)
    for key in list(first)[::10]:
        api.submit(key, "effects.work", {"seconds": 0})
    assert api.accepted == first, "a repeated key was answered with another job"
    assert stack.db.one("SELECT count(*) FROM esteira_job") == len(first) == sent
    stack.wait_ended()
    check(stack.db, first.values(), crashed=False)


def test_while_the_database_is_away_nothing_is_half_done(stack: ProcessStack) -> None:
    """503 with Retry-After, readiness fails, liveness does not; afterwards the same key is accepted."""
    stack.web()
    api = stack.api()
    kept = api.submit("kept", "effects.work", {"seconds": 0})
    asked = {"type": "effects.work", "params": {"seconds": 0}}

    stack.postgres.stop("immediate")
    away = api.request("/api/v1/jobs", asked, key="tried")
    live, ready = api.request("/livez"), api.request("/readyz")
    stack.postgres.start()

    assert (away.status, live.status, ready.status) == (503, 200, 503)
    assert int(away.headers["Retry-After"]) > 0
    assert away.headers["Content-Type"] == "application/problem+json"
    tried = api.submit("tried", "effects.work", {"seconds": 0})
    assert api.submit("kept", "effects.work", {"seconds": 0}) == kept
    stack.worker("w1")
    stack.beat()
    stack.wait_ended()
    check(stack.db, [kept, tried], crashed=False)
    assert stack.db.one("SELECT count(*) FROM esteira_job") == 2


def test_while_redis_is_away_jobs_are_accepted_and_readiness_warns(stack: ProcessStack) -> None:
    stack.web()
    api = stack.api()

    stack.valkey.kill()
    ids = [api.submit(str(n), "effects.work", {"seconds": 0}) for n in range(20)]
    ready = api.request("/readyz")
    stack.valkey.start()

    assert ready.status == 200
    assert ready.json()["status"] == "warn"
    stack.worker("w1")
    stack.beat()
    stack.wait_ended()
    check(stack.db, ids, crashed=False)
