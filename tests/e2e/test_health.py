"""Health checks: a service that is down makes the right part unhealthy, nothing is restarted, and all recover."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.e2e.conftest import Shared
from tests.support.browser import Browser
from tests.support.compose_stack import PARTS
from tests.support.waiting import Stopwatch, until

STUCK_SEEN_S = 30
HEALTH_COMMAND_MS = 50
SLACK = 10
OURS = ("web", "worker", "beat", "flower")


@contextmanager
def away(stack: Shared, service: str) -> Iterator[None]:
    """Stop a server, and start it again whatever happens."""
    stack.compose("stop", service)
    try:
        yield
    finally:
        stack.compose("start", service)
    stack.wait_healthy(*PARTS)


def lives(stack: Shared) -> dict[str, tuple[str, str, int]]:
    """Tell one life of a container from the next."""
    found = {part: stack.inspect(stack.ids(part)[0]) for part in OURS}
    return {
        part: (told["Id"], told["State"]["StartedAt"], told["RestartCount"]) for part, told in found.items()
    }


def health(stack: Shared, part: str) -> str:
    return stack.health(stack.ids(part)[0])


def test_web_is_unhealthy_without_postgresql_and_comes_back_by_itself(stack: Shared) -> None:
    site, before = Browser(stack.web_url), lives(stack)

    with away(stack, "postgres"):
        until(lambda: health(stack, "web") == "unhealthy", "web is unhealthy", timeout=60, every=0.5)
        assert site.get("/livez").status == 200
        assert site.get("/readyz").status == 503
        assert {health(stack, "worker"), health(stack, "beat")} == {"healthy"}

    assert site.get("/readyz").json()["status"] == "pass"
    assert lives(stack) == before
    assert_works(stack)


def test_without_redis_only_flower_is_unhealthy(stack: Shared) -> None:
    site, before = Browser(stack.web_url), lives(stack)

    with away(stack, "redis"):
        until(lambda: health(stack, "flower") == "unhealthy", "Flower is unhealthy", timeout=90, every=0.5)
        ready = site.get("/readyz")
        assert (ready.status, ready.json()["status"]) == (200, "warn")
        assert {health(stack, part) for part in ("web", "worker", "beat")} == {"healthy"}

    assert lives(stack) == before
    assert_works(stack)


def test_a_stuck_worker_is_seen(stack: Shared) -> None:
    (worker,) = stack.ids("worker")

    stack.docker("kill", "--signal=STOP", worker)  # its main process only
    try:
        watch = Stopwatch()
        until(lambda: stack.health(worker) == "unhealthy", "it is unhealthy", timeout=60, every=0.2)
        seen_s = watch.seconds
    finally:
        stack.docker("kill", "--signal=CONT", worker)

    assert seen_s <= STUCK_SEEN_S
    stack.wait_healthy("worker")
    assert_works(stack)


@pytest.mark.parametrize("part", ["worker", "beat"])
def test_the_health_command_costs_next_to_nothing(stack: Shared, part: str) -> None:
    told = stack.execute(part, "python", "-c", MEASURE, part)

    wall_ms, cpu_ms, code = told.split()
    assert code == "0"
    assert float(wall_ms) < HEALTH_COMMAND_MS * SLACK and float(cpu_ms) < HEALTH_COMMAND_MS * SLACK


#: Prints the middle one of 21 runs, the processor time of one, and the worst exit code.
MEASURE = """
import resource, statistics, subprocess, sys, time
walls, codes = [], []
for _ in range(21):
    began = time.monotonic()
    codes.append(subprocess.run(["sh", f"/services/{sys.argv[1]}/healthy"]).returncode)
    walls.append(time.monotonic() - began)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(statistics.median(walls) * 1000, (used.ru_utime + used.ru_stime) / 21 * 1000, max(codes))
"""


@pytest.mark.parametrize(("asked", "sign"), [("healthy", "alive"), ("ready", "ready")])
@pytest.mark.parametrize("part", ["worker", "beat"])
def test_an_old_sign_of_life_or_none_is_unhealthy(stack: Shared, part: str, asked: str, sign: str) -> None:
    check = f"RUN_DIR=/tmp/looked-at sh /services/{part}/{asked}; echo $?"
    told = stack.execute(
        part,
        "sh",
        "-c",
        f"mkdir /tmp/looked-at; {check}; touch -d '1 minute ago' /tmp/looked-at/{part}.{sign}; {check}; "
        f"touch /tmp/looked-at/{part}.{sign}; {check}; rm -r /tmp/looked-at",
    )

    assert told.split() == ["1", "1", "0"]


@pytest.mark.parametrize("servers", [("postgres", "redis"), ("redis", "postgres")])
def test_servers_may_start_after_everything_else_in_any_order(
    stack: Shared, servers: tuple[str, str]
) -> None:
    containers = {part: stack.ids(part)[0] for part in PARTS}
    stack.compose("stop")

    for part in (*OURS, *servers):
        stack.docker("start", containers[part])  # compose would start what it depends on first

    stack.wait_healthy(*PARTS)
    assert_works(stack)


def assert_works(stack: Shared) -> None:
    """Submit a job and see that it is done: whoever is healthy works."""
    ids = stack.submit("plain.nothing", 1)
    stack.wait_ended(ids, timeout=60)
    assert stack.db.counts(ids) == {"succeeded": 1}
