"""Another Redis than the usual one, and a Redis that may keep nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

import pytest
import redis as redis_client

from tests.support.containers import Containers
from tests.support.journey import done, submit

REDIS_STACK, REDIS = "redis/redis-stack-server:7.4.0-v8", "redis:8.2"
USUAL = os.environ.get("REDIS_IMAGE") or REDIS_STACK
OTHER = REDIS_STACK if USUAL == REDIS else REDIS


def test_the_other_redis_carries_jobs_and_nothing_is_left_after_the_end(
    make_stack: Callable[..., Containers],
) -> None:
    stack = make_stack("other", REDIS_IMAGE=OTHER, LOG_FORMAT="json")

    stack.up("redis", "web", "worker", "beat", "flower")
    api = stack.api()
    done(api, submit(api, "demo.greet"))
    for service in ("web", "worker", "beat", "flower"):
        lines = [line.partition("|")[2].strip() for line in stack.logs(service).splitlines()]
        assert lines and all({"ts", "level", "msg"} <= set(json.loads(line)) for line in lines), service
    (container,) = stack.ids("redis")
    assert stack.inspect(container)["Config"]["Image"] == OTHER
    stack.down()

    assert not stack.leftovers()


@pytest.mark.parametrize("image", [REDIS_STACK, REDIS])
def test_redis_starts_on_a_folder_of_root_s_and_says_that_it_keeps_nothing(
    make_stack: Callable[..., Containers], image: str
) -> None:
    stack = make_stack("root", REDIS_IMAGE=image)
    volume_of_root(stack, image)

    stack.up("redis")

    assert "/data cannot be written by user 999: Redis keeps nothing over a restart" in stack.logs("redis")
    with redis_client.Redis.from_url(stack.redis_url("admin")) as admin:
        assert admin.config_get("appendonly") == {"appendonly": "no"}
        admin.set("kept", "no")
        stack.compose("restart", "redis")
        stack.wait_healthy("redis")
        assert admin.get("kept") is None


def test_redis_keeps_hints_over_a_restart(make_stack: Callable[..., Containers]) -> None:
    stack = make_stack("kept")
    stack.up("redis")

    with redis_client.Redis.from_url(stack.redis_url("admin")) as admin:
        admin.set("kept", "yes")
        with redis_client.Redis.from_url(stack.redis_url()) as ours, ours.pipeline(transaction=True) as both:
            both.lpush("together", "one").lpush("together", "two").execute()  # hints are written so
        stack.compose("restart", "redis")
        stack.wait_healthy("redis")

        assert admin.get("kept") == b"yes"
        assert admin.lrange("together", 0, -1) == [b"two", b"one"]
    assert "CRITICAL" not in stack.logs("redis")


def volume_of_root(stack: Containers, image: str) -> None:
    """Make the volume of Redis as some runtimes do: root's, and not empty, so that nobody gives it away."""
    name = f"{stack.project}_redis"
    labels = {
        "com.docker.compose.project": stack.project,
        "com.docker.compose.volume": "redis",
        "com.docker.compose.version": json.loads(stack.docker("compose", "version", "--format=json"))[
            "version"
        ],
    }
    stack.docker("volume", "create", *[f"--label={key}={value}" for key, value in labels.items()], name)
    command = "touch /data/there && chown 0:0 /data && chmod 0755 /data"
    stack.docker("run", "--rm", "--user=0", "--entrypoint=sh", "-v", f"{name}:/data", image, "-c", command)
