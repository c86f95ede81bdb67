"""Scaling a part up and down by one flag under load; and no Redis at all for a while."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence

import pytest

from project.local.embedded import free_port
from tests.e2e.conftest import RUN
from tests.support.api_client import ApiClient
from tests.support.browser import Browser
from tests.support.compose_stack import FILE, ComposeStack
from tests.support.documents import printed
from tests.support.invariants import check, check_ticks
from tests.support.journey import TICK, submit
from tests.support.remote_stack import CHAOS_JOBS
from tests.support.waiting import until

WORKERS = 4
GAIN = 2.5
#: Long against what a job costs the machine, which other tests use at the same time.
NAP = {"seconds": 0.25}
ROUND = 40
JOBS = 1000
DRAIN_S = 8


class Wide(ComposeStack):
    """One process a worker; two of web and of beat; as many workers as a test wants."""

    def scaled(self, **many: int) -> None:
        numbers = [f"--scale={name}={n}" for name, n in {"web": 2, "beat": 2, **many}.items()]
        self.compose("up", "-d", "--wait", "--wait-timeout=180", "--no-recreate", *numbers)


@pytest.fixture(scope="module")
def stack(images: None) -> Iterator[Wide]:
    """One of each, then a second web and a second beat by the lines of docs/operations.md."""
    first = two_free_ports()
    both = f"PORT={first}-{first + 1}"
    stack = Wide(
        f"{RUN}-scale",
        COMPOSE_FILE=str(FILE),
        PORT=str(first),
        CONCURRENCY="1",
        DRAIN_SECONDS=str(DRAIN_S),
        JOB_PACKAGES=f"{CHAOS_JOBS},tests.support.ticking_jobs",
    )
    try:
        stack.up()
        stack.type(printed("docs/operations.md", "PORT=8000-8001 docker compose", {"PORT=8000-8001": both}))
        stack.type(
            printed(
                "docs/operations.md", "docker compose up -d --wait --no-deps --no-recreate --scale beat=2"
            )
        )
        stack.settings["PORT"] = both.partition("=")[2]
        yield stack
    finally:
        stack.down()


def two_free_ports() -> int:
    """Return a port that is free together with the next one."""
    while True:
        first = free_port()
        with socket.socket() as probe:
            if first < 65535 and probe.connect_ex(("127.0.0.1", first + 1)) != 0:
                return first


def test_two_webs_and_two_beats_at_once(stack: Wide) -> None:
    urls = [f"http://127.0.0.1:{stack.published('web', 8000, index)}" for index in (1, 2)]
    first, second = apis(stack, urls)

    ids = [submit(api, "plain.nothing") for api in (first, second, first, second)]
    until(lambda: ticks(stack) >= 10, "ten ticks", timeout=60)

    assert urls[0] != urls[1]
    named = stack.manage(
        "shell", "-v", "0", "-c", "from django.conf import settings; print(settings.WEB_URL)"
    )
    assert named.strip() == f"http://127.0.0.1:{stack.settings['PORT'].partition('-')[0]}"
    assert [Browser(url).get("/readyz").status for url in urls] == [200, 200]
    assert [second.request(f"/api/v1/jobs/{one}", timeout=30).status for one in ids] == [200] * 4
    assert len(stack.ids("beat")) == 2
    stack.wait_healthy("beat", "web")
    stack.db.fetch("UPDATE esteira_schedule SET enabled = false")
    stack.wait_ended()
    check(stack.db, ids, crashed=False)
    check_ticks(stack.db, TICK, at_least=10)


def apis(stack: Wide, urls: Sequence[str]) -> list[ApiClient]:
    """Return a client for each web, all with one token."""
    token = stack.api().token
    return [ApiClient(url, token) for url in urls]


def ticks(stack: Wide) -> int:
    return int(stack.db.one("SELECT count(*) FROM esteira_job WHERE tick_at IS NOT NULL"))


def test_jobs_are_accepted_while_there_is_no_redis(stack: Wide) -> None:
    url = f"http://127.0.0.1:{stack.published('web', 8000)}"
    (api,) = apis(stack, [url])

    stack.scaled(redis=0)
    assert not stack.ids("redis")
    ids = [submit(api, "effects.work") for _ in range(20)]

    assert Browser(url).get("/readyz").json()["status"] == "warn"
    assert stack.db.counts(ids) == {"queued": 20}
    stack.scaled(redis=1)
    stack.wait_ended()
    assert stack.db.counts(ids) == {"succeeded": 20}
    check(stack.db, ids, crashed=False)


def test_four_workers_do_more_than_one_and_one_of_them_finishes_what_they_leave(stack: Wide) -> None:
    """One test, because starting workers is what takes long: the gain first, then the way back under load."""
    slow = jobs_a_second(stack, ROUND)

    stack.scaled(worker=WORKERS)
    workers = stack.ids("worker")
    assert len(workers) == WORKERS
    wait_until_all_work(stack, workers)
    fast = jobs_a_second(stack, ROUND * WORKERS)
    assert fast / slow >= GAIN, f"{WORKERS} workers did {fast:.1f} jobs a second, one did {slow:.1f}"

    ids = stack.submit("effects.work", [{"seconds": 0.01}] * (JOBS // 2))
    ids += stack.submit("plain.nothing", JOBS // 2)
    stack.halfway(ids, *workers)
    # What takes two seconds and cannot be interrupted is under way everywhere when three of four are told to leave.
    deaf = stack.submit("effects.deaf", [{"seconds": 2}] * 2 * WORKERS, priority="high")
    until(lambda: len(running(stack, deaf)) == WORKERS, "every worker has a long job", every=0.02)
    stack.scaled(worker=1)

    assert len(stack.ids("worker")) == 1
    stack.wait_ended(timeout=240)  # a single process has most of it left to do
    check(stack.db, [*ids, *deaf], crashed=False)
    again = stack.db.fetch(
        "SELECT type, attempt FROM esteira_job WHERE id = ANY(%s::uuid[]) AND attempt > 1", [[*ids, *deaf]]
    )
    assert not again, f"cut off, although it could have ended within {DRAIN_S} s: {again}"


def wait_until_all_work(stack: Wide, workers: Sequence[str]) -> None:
    """Give the workers jobs until each holds a lease at the same time."""
    ids = stack.submit("plain.nap", [{"seconds": 1}] * 4 * WORKERS)

    def all_hold() -> bool:
        return all(stack.db.held_by(stack.names_of(worker)) for worker in workers)

    until(all_hold, "every worker holds a lease", timeout=30)
    stack.wait_ended(ids)


def running(stack: Wide, ids: Sequence[str]) -> set[str]:
    """Return the names of those who run these jobs."""
    found = stack.db.fetch(
        "SELECT worker FROM esteira_job WHERE state = 'running' AND id = ANY(%s::uuid[])", [list(ids)]
    )
    return {name for (name,) in found}


def jobs_a_second(stack: Wide, many: int) -> float:
    """Let naps run; return how many end in a second, from the first start to the last end."""
    warm = stack.submit("plain.nap", [NAP] * 10)
    stack.wait_ended(warm)
    ids = stack.submit("plain.nap", [NAP] * many)
    stack.wait_ended(ids)
    seconds = stack.db.one(
        """SELECT extract(epoch FROM max(finished_at) - min(started_at))::float8 FROM esteira_job
           WHERE id = ANY(%s::uuid[])""",
        [ids],
    )
    return many / float(seconds)
