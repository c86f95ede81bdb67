"""Errors by which a send is refused, beside those of `esteira.values.bounds`: each names the field and the remedy."""

from __future__ import annotations

from esteira.errors import EsteiraError, InvalidOption, TooLarge
from esteira.values.bounds import MESSAGE_BYTES, shown


def unbound(exchange: str, routing_key: str) -> EsteiraError:
    said = (
        f"{exchange!r} with the routing key {routing_key!r} leads to no queue of task_queues; add it there."
    )
    return InvalidOption("exchange", said)


def old_protocol() -> EsteiraError:
    return InvalidOption("task_protocol", "must be 2: a message of protocol 1 has no headers.")


def job_type(name: str) -> EsteiraError:
    return InvalidOption("task", f"{name!r} is a job type; submit it by its own submit().")


def reserved_queue() -> EsteiraError:
    return InvalidOption("queue", "must not begin with 'behind.', which names a key of Esteira's own.")


def no_moment(field: str, value: object) -> EsteiraError:
    return InvalidOption(field, f"must be a date and time, not {shown(value)}.")


def too_large() -> EsteiraError:
    return TooLarge("message", f"{MESSAGE_BYTES // 1024**2} MiB for the message of a task")
