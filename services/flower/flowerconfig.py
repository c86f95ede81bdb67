"""Flower's options: always a login, read-only unless configured otherwise, and a state that survives a restart.

Flower itself serves /metrics without a login. Here only requests to this container's address in the back network get
them, to which no published port leads: the address with the name `flower-metrics`, else the address towards Redis. If
there is only one network, FLOWER_METRICS=False limits them to this container.
"""

import os
import socket
import sys
from logging import ERROR, getLogger
from pathlib import Path
from urllib.parse import urlsplit

from django.conf import settings as django
from flower.views import monitor
from tornado.web import HTTPError

from project.logging import configure

sys.path.insert(0, str(Path(__file__).parent))
from credentials import credentials

NO = ("0", "false", "no")

configure(django.LOG_LEVEL, django.LOG_FORMAT)  # Flower adds a handler of its own only if there is none
getLogger("flower.inspector").setLevel(ERROR)  # it warns seven times before the first worker has started

port = 5555
basic_auth = [credentials()]
read_only = os.environ.get("FLOWER_READ_ONLY", "").lower() not in NO
persistent = True
db = "/data/flower"
state_save_interval = 10_000  # ms
purge_offline_workers = 3600  # s
metrics = os.environ.get("FLOWER_METRICS", "").lower() not in NO


METRICS_NAME = "flower-metrics"


def _back_address() -> str:
    """Return this container's address in the back network: first by its name, because an external Redis is in front."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((METRICS_NAME, 0))  # refused unless the address belongs to this container
            return str(probe.getsockname()[0])
    except OSError:
        return _address_towards_redis()


def _address_towards_redis() -> str:
    """Return this container's address for connections to Redis; nothing is sent."""
    broker = urlsplit(django.ESTEIRA_REDIS_URL)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((broker.hostname or "127.0.0.1", broker.port or 6379))
        return str(probe.getsockname()[0])


def _only_at_the_back(handler: monitor.Metrics) -> None:
    stream = handler.request.connection.stream
    if stream.socket.getsockname()[0] not in {"127.0.0.1", *([_back_address()] if metrics else [])}:
        raise HTTPError(404)


monitor.Metrics.prepare = _only_at_the_back
