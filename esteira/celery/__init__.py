"""Make plain Celery tasks durable: `adopt(app)` is the one public name.

A send becomes a row, so it belongs to the caller's transaction and needs no Redis; a task that runs holds a lease on
its row; its end is one transaction with its result, its part of a chord and the rest of its chain. Celery's own code
serializes messages, routes them and runs tasks: this package replaces its way to the broker and its result backend.
"""

from esteira.celery.adopt import adopt

__all__ = ["adopt"]
