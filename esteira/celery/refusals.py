"""Errors by which a send is refused, beside those of `esteira.values.bounds`: each names the field and the remedy."""

from __future__ import annotations

from esteira.errors import EsteiraError, InvalidOption, TooLarge
from esteira.values.bounds import MESSAGE_BYTES, shown


def unbound(exchange: str, routing_key: str) -> EsteiraError:
    return InvalidOption("exchange", "no-queue-bound", exchange=exchange, routing_key=routing_key)


def old_protocol() -> EsteiraError:
    return InvalidOption("task_protocol", "old-protocol")


def job_type(name: str) -> EsteiraError:
    return InvalidOption("task", "is-a-job-type", name=name)


def reserved_queue() -> EsteiraError:
    return InvalidOption("queue", "reserved-queue")


def no_moment(field: str, value: object) -> EsteiraError:
    return InvalidOption(field, "not-a-date", given=shown(value))


def too_large() -> EsteiraError:
    return TooLarge("message", MESSAGE_BYTES)
