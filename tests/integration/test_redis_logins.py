"""What the logins of our own Redis may do: the rules of compose/redis/start, tried on a real server."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from celery import Celery
from kombu import pools
from kombu.exceptions import OperationalError
from redis import Redis
from redis.exceptions import NoPermissionError, ResponseError

from project.local.embedded import Valkey
from tests.repo.tree import text
from tests.support.waiting import until

PASSWORD, PREFIX = "of-this-test-alone", "esteira:"


@pytest.fixture(scope="module")
def logins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Yield the address of each login at a server that knows them."""
    server = Valkey(tmp_path_factory.mktemp("logins") / "redis")
    server.start()
    port = urlsplit(server.url).port
    users = tmp_path_factory.mktemp("acl") / "users.acl"
    lines, _ = text("compose/redis/start").split("\nset -- ", 1)  # what comes then starts the server
    said = dict.fromkeys(re.findall(r"REDIS_\w*PASSWORD", lines), PASSWORD)
    script = lines.replace("/run/redis/users.acl", str(users))
    subprocess.run(["sh", "-c", script], env={**os.environ, **said}, check=True)
    with Redis.from_url(server.url) as root:
        for line in users.read_text().splitlines():
            _, name, *rules = _words(line)
            if name != "default":  # it is this test's own
                root.execute_command("ACL", "SETUSER", name, *rules)
    yield {name: f"redis://{name}:{PASSWORD}@127.0.0.1:{port}/0" for name in ("esteira", "flower", "admin")}
    server.kill()


def test_flower_alone_can_send_celery_s_commands(logins: dict[str, str]) -> None:
    with pytest.raises(OperationalError, match="No permissions to access a channel"):
        _tell(logins["esteira"])

    with Redis.from_url(logins["esteira"]) as worker, worker.pubsub() as ear:
        ear.psubscribe(f"{PREFIX}/0.celery.pidbox*")
        _tell(logins["flower"])
        heard = until(lambda: _message(ear), "a worker hears Flower's command")
    assert "celery.pidbox" in heard


@pytest.mark.parametrize("command", ["publish", "spublish"])
def test_no_way_round_leads_to_the_channel_of_commands(logins: dict[str, str], command: str) -> None:
    channel = f"{PREFIX}/0.celery.pidbox"
    with Redis.from_url(logins["esteira"]) as application:
        with pytest.raises(NoPermissionError):
            application.execute_command(command, channel, "x")
        with pytest.raises(ResponseError, match="ACL failure"):
            application.eval(f"return redis.call('{command}', '{channel}', 'x')", 0)


def test_events_of_workers_reach_flower(logins: dict[str, str]) -> None:
    with Redis.from_url(logins["flower"]) as flower, flower.pubsub() as ear:
        ear.psubscribe(f"{PREFIX}/0.celeryev*")
        with _app(logins["esteira"]) as app, app.events.default_dispatcher() as dispatcher:
            dispatcher.send("worker-heartbeat")
        heard = until(lambda: _message(ear), "Flower hears an event")
    assert "worker.heartbeat" in heard


def test_nothing_is_refused_that_flower_does(logins: dict[str, str]) -> None:
    """It listens as Flower does, and asks all workers; kombu keeps names of its own for that."""
    with _app(logins["flower"]) as flower, flower.connection() as connection:
        list(flower.events.Receiver(connection, handlers={}).itercapture(limit=1, timeout=0.2, wakeup=True))
        flower.control.inspect(timeout=0.2).ping()

    with Redis.from_url(logins["admin"]) as root:
        refused = [one for one in root.acl_log() if "flower" in str(one["username"])]
    assert not refused


@pytest.mark.parametrize("login", ["esteira", "flower"])
def test_no_login_of_ours_wipes_or_configures_redis(logins: dict[str, str], login: str) -> None:
    with Redis.from_url(logins[login]) as client:
        for command in ("FLUSHALL", "CONFIG SET maxmemory 1", "SHUTDOWN", "ACL LIST", "KEYS *"):
            with pytest.raises(NoPermissionError):
                client.execute_command(*command.split())


def _tell(url: str) -> None:
    with _app(url) as app:
        app.control.broadcast("shutdown")


def _app(url: str) -> Celery:
    pools.reset()  # kombu keeps connections by address
    app = Celery("tests", broker=url, set_as_current=False)
    app.conf.broker_transport_options = {"global_keyprefix": PREFIX}
    return app


def _message(ear: Any) -> str:
    found = ear.get_message(ignore_subscribe_messages=True)
    return found["data"].decode() if found else ""


def _words(line: str) -> list[str]:
    """Split a line of an ACL file; a selector in brackets is one word."""
    return re.findall(r"\([^)]*\)|\S+", line)
