"""`/metrics` for Prometheus, on a port of its own: read from the database, so every web process gives the same numbers.

No process counts anything itself, so no number is lost with a process, and none has to be added up over processes. A
page is kept for two seconds: each process queries the database at most that often, on one connection, for any number of
scrapes. One thread measures, for at most a second. If it takes longer, or the database is unavailable, the answer is
503, and Prometheus shows the target as down. Parts that may be slow have a shorter limit, and only they are left out.
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
    """The text of the page, kept for two seconds; empty if the database does not answer."""

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
            # A server that is too slow does not answer a second try sooner.
            if self._core.connected() or isinstance(error, psycopg.errors.QueryCanceled):
                raise
        return generate_latest(self._registry).decode()  # the connection was lost after the last page


_page = health.Check("metrics", Page())


async def answer() -> tuple[int, str]:
    """Return status and text; a scrape that arrives while another is answered gets the same page."""
    running = _page.begin()
    await health.within(TIMEOUT_S, running)
    text = running.result() if running.done() else ""
    return (200, text) if text else (503, NO_ANSWER)
