"""A Redis of either kind that may keep nothing, and one that keeps."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import redis as redis_client

from tests.support.compose_stack import ComposeStack

REDIS_STACK, REDIS = "redis/redis-stack-server:7.4.0-v8", "redis:8.2"


@pytest.mark.parametrize("image", [REDIS_STACK, REDIS])
def test_redis_starts_on_a_folder_of_root_s_and_says_that_it_keeps_nothing(
    make_stack: Callable[..., ComposeStack], image: str
) -> None:
    stack = make_stack("root", REDIS_IMAGE=image)
    volume_of_root(stack, image)

    stack.up("redis")

    assert "User 999 cannot write to /data: Redis keeps no data over a restart" in stack.logs("redis")
    with redis_client.Redis.from_url(stack.redis_url("admin")) as admin:
        assert admin.config_get("appendonly") == {"appendonly": "no"}
        admin.set("kept", "no")
        stack.compose("restart", "redis")
        stack.wait_healthy("redis")
        assert admin.get("kept") is None


def test_redis_keeps_hints_over_a_restart(make_stack: Callable[..., ComposeStack]) -> None:
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


def volume_of_root(stack: ComposeStack, image: str) -> None:
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
