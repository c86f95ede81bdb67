"""`/metrics` for Prometheus, on a port of its own. All numbers are from the database, the same in every web process.

This process counts nothing itself, so no number is lost with it and no sum over processes is needed. A page is kept for
two seconds: with any number of scrapers, each process measures at most that often, on one connection. One thread
measures, for at most a second; if it takes longer, or the database is unavailable, the answer is 503, and Prometheus
marks the target as down. Slow parts have a shorter limit of their own, and only such a part is left out.
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
    """The text of a page, kept for two seconds; empty if the database does not answer."""

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
            # A repeat does not help if the server is too slow.
            if self._core.connected() or isinstance(error, psycopg.errors.QueryCanceled):
                raise
        return generate_latest(
            self._registry
        ).decode()  # the kept connection was broken, perhaps for a long time


_page = health.Check("metrics", Page())


async def answer() -> tuple[int, str]:
    """Return status and text; scrapes at the same time share one answer."""
    running = _page.begin()
    await health.within(TIMEOUT_S, running)
    text = running.result() if running.done() else ""
    return (200, text) if text else (503, NO_ANSWER)
