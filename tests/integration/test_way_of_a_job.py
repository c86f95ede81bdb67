"""A job that is submitted over HTTP and runs goes the way that the architecture lists, in that order."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, SimpleNamespace

import pytest
from django.conf import settings
from redis import Redis

from esteira import Context, job, tasks
from esteira.broker import publisher
from esteira.broker.hint import LISTS, ids_in, list_key
from esteira.models import Job
from esteira.runner.runner import Runner
from esteira.worker import pool_runner
from tests.support.clients import bearer, post
from tests.support.forks import ROOT
from tests.support.way import steps

pytestmark = pytest.mark.usefixtures("database", "job_types")


@contextmanager
def noted(first_calls: list[int]) -> Iterator[None]:
    """Note the steps of the list in the order in which this thread first calls their functions."""
    listed = {(str(ROOT / step.file), step.function): step.number for step in steps()}

    def note(frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        number = listed.get((code.co_filename, code.co_qualname)) if event == "call" else None
        if number is not None and number not in first_calls:
            first_calls.append(number)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(before)


def test_a_job_goes_the_way_that_is_listed(
    runner: Runner, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    @job(name="test.goes", retries=0)
    def goes(ctx: Context, n: int) -> int:
        return n + 1

    monkeypatch.setattr(pool_runner, "_runner", runner)
    publisher.fast.forget()
    client, went = bearer(), list[int]()

    with noted(went):
        accepted = post(client, "/jobs", {"type": "test.goes", "params": {"n": 1}})
    (message,) = [
        message
        for number in LISTS
        for message in redis.lrange(list_key(settings.REDIS_PREFIX, "default", number), 0, -1)
    ]
    with runner.core.lock, noted(went):  # the heartbeat would write the outcome in a thread of its own
        request = SimpleNamespace(id="d1", delivery_info={"routing_key": "default"})
        tasks.door(SimpleNamespace(name="test.goes", request=request), *ids_in(message))

    assert went == [step.number for step in steps()]
    row = Job.objects.get(pk=accepted.json()["id"])
    assert (row.state, row.result) == ("succeeded", 2)
