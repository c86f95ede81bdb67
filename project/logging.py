"""The log format of all processes: readable lines, or one JSON object per line with LOG_FORMAT=json.

A line that web writes for a request has the id of the request, which its answer has in X-Request-ID. Text of a
submitter can neither control the terminal that shows a log nor forge a line of it (`esteira.values.printable`).
"""

from __future__ import annotations

import json
import logging
import logging.config
from datetime import UTC, datetime
from typing import Any

from esteira.values.printable import INDENT, indented, json_line, one_line
from esteira_web.server.rarely import RarelyRefused
from esteira_web.server.request_id import current


class RequestId(logging.Filter):
    """Add the request id to a record; this is a filter of the handler, because many loggers share one handler."""

    def filter(self, record: logging.LogRecord) -> bool:
        request_id = current.get()
        vars(record).update(request_id=request_id, for_request=f" [{request_id}]" if request_id else "")
        return True


class TextFormatter(logging.Formatter):
    """Writes one line for each message, even if it has line breaks; a traceback follows below it, indented."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # the name is the library's
        return one_line(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802
        return INDENT + indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        return INDENT + indented(stack_info)


class JsonFormatter(logging.Formatter):
    """Writes one JSON object per line with fixed keys, for log collectors."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": record.name.split(".", 1)[0],
            "logger": record.name,
            "msg": record.getMessage(),
        }
        if request_id := getattr(record, "request_id", ""):
            line["request_id"] = request_id
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json_line(json.dumps(line, ensure_ascii=False))


def configure(level: str | int = "INFO", fmt: str = "text", file: str | None = None) -> None:
    """Send every log of this process to stderr, or to a file that may be rotated, in one format.

    `level` applies to this output only: a job's own log is stored from INFO on, independent of it.
    """
    logging.config.dictConfig(config(level, fmt, file))


def config(level: str | int, fmt: str, file: str | None = None) -> dict[str, Any]:
    """Return the same for a program that calls `dictConfig` itself, as gunicorn's main process does."""
    formatters = {
        "text": {
            "()": TextFormatter,
            "fmt": "%(asctime)s %(levelname)s %(name)s%(for_request)s: %(message)s",
            "datefmt": "%Y-%m-%d %H:%M:%S",
        },
        "json": {"()": JsonFormatter},
    }
    handlers: dict[str, dict[str, Any]] = {
        "stderr": {"class": "logging.StreamHandler"},
        "file": {"class": "logging.handlers.WatchedFileHandler", "filename": file, "encoding": "utf-8"},
    }
    number = level if isinstance(level, int) else logging.getLevelNamesMapping()[level]
    chatty = "DEBUG" if number <= logging.DEBUG else "WARNING"  # two lines for each message
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"chosen": formatters["json" if fmt == "json" else "text"]},
        "handlers": {
            "chosen": {
                **handlers["file" if file else "stderr"],
                "formatter": "chosen",
                "filters": ["refused", "request"],
                "level": number,
            }
        },
        "filters": {"request": {"()": RequestId}, "refused": {"()": RarelyRefused}},
        "root": {"level": min(number, logging.INFO), "handlers": ["chosen"]},
        "loggers": {
            "celery.worker.strategy": {"level": chatty},
            "celery.app.trace": {"level": chatty},
            "gunicorn.error": {"handlers": [], "propagate": True},
            "gunicorn.access": {"handlers": [], "propagate": True},
        },
    }
