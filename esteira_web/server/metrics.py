"""`/metrics` for Prometheus, on a port of its own: what the database says, so every web process gives the same numbers.

Nothing is counted in this process, so nothing is lost with it and nothing has to be added up over processes. A page is
kept for two seconds: however many scrape, the database is asked that often at most, by each process on one connection.
One thread measures, for a second at most; if it takes longer, or the database is away, the answer is 503, and to
Prometheus the target is down. What may take long has a shorter limit, and only that part is left out then.
"""

from __future__ import annotations

import logging
import time

import psycopg
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from esteira.db import PrivateConnection
from esteira_web.server import health
from esteira_web.server.collector import Measures

log = logging.getLogger("esteira_web.metrics")

PATH = "/metrics"
CONTENT_TYPE = CONTENT_TYPE_LATEST
TIMEOUT_S = 1.0
KEPT_S = 2.0
NO_ANSWER = "The database does not answer within a second.\n"


class Page:
    """The text of one moment, kept for two seconds; empty if the database does not answer."""

    def __init__(self) -> None:
        self._core = PrivateConnection("metrics", timeout_s=TIMEOUT_S)
        self._registry = CollectorRegistry()
        self._registry.register(Measures(self._core))
        self._text, self._made = "", float("-inf")

    def __call__(self) -> str:
        if time.monotonic() - self._made < KEPT_S:
            return self._text
        try:
            self._text = self._measure()
        except psycopg.Error as error:
            log.warning("no metrics: %s", str(error).strip())
            return ""
        self._made = time.monotonic()
        return self._text

    def close(self) -> None:
        self._core.close()

    def _measure(self) -> str:
        try:
            return generate_latest(self._registry).decode()
        except psycopg.OperationalError as error:
            # A server that is too slow answers no sooner when it is asked twice.
            if self._core.connected() or isinstance(error, psycopg.errors.QueryCanceled):
                raise
        return generate_latest(self._registry).decode()  # the kept connection had died, maybe long ago


_page = health.Check("metrics", Page())


async def answer() -> tuple[int, str]:
    """Return status and text; a scrape that comes while another is answered gets the same."""
    running = _page.begin()
    await health.within(TIMEOUT_S, running)
    text = running.result() if running.done() else ""
    return (200, text) if text else (503, NO_ANSWER)
