"""Flower's options: a login always, nothing that changes anything unless told otherwise, a memory that survives.

Flower itself answers /metrics to everybody. Here only what arrives at our address of the back network gets them, to
which no published port leads: the address that is called `flower-metrics`, else the one from which Redis is reached.
Where there is one network only, FLOWER_METRICS=False keeps them to this container.
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

configure(django.LOG_LEVEL, django.LOG_FORMAT)  # Flower adds a handler of its own only where there is none
getLogger("flower.inspector").setLevel(ERROR)  # it warns seven times while no worker is up yet

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
    """Return our address at the back: by its name first, because a Redis of somebody else's is reached by the front."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((METRICS_NAME, 0))  # refused unless the address is our own
            return str(probe.getsockname()[0])
    except OSError:
        return _address_towards_redis()


def _address_towards_redis() -> str:
    """Return our address on the way to Redis; nothing is sent."""
    broker = urlsplit(django.REDIS_URL)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((broker.hostname or "127.0.0.1", broker.port or 6379))
        return str(probe.getsockname()[0])


def _only_at_the_back(handler: monitor.Metrics) -> None:
    stream = handler.request.connection.stream
    if stream.socket.getsockname()[0] not in {"127.0.0.1", *([_back_address()] if metrics else [])}:
        raise HTTPError(404)


monitor.Metrics.prepare = _only_at_the_back
