"""Celery's remote control of a stack's workers, as Flower and `celery control` send it."""

from __future__ import annotations

from typing import Any

from celery import Celery
from kombu import pools

from tests.support.process_stack import ProcessStack

#: A busy machine takes its time; an answer ends the wait.
ANSWER_S = 30.0


class Remote:
    """Commands to the one worker of a stack."""

    def __init__(self, stack: ProcessStack) -> None:
        pools.reset()  # kombu keeps connections by address, and a test before this one may have killed its server
        app = Celery("tests", broker=stack.settings.get("REDIS_URL", stack.valkey.url), set_as_current=False)
        app.conf.broker_transport_options = {"global_keyprefix": "esteira:"}
        self._control = app.control

    def ask(self, command: str, **arguments: Any) -> Any:
        """Send a command, and return what the worker answers."""
        answers = self._control.broadcast(command, arguments=arguments, reply=True, timeout=ANSWER_S, limit=1)
        assert answers, f"no worker answered {command}"
        (answer,) = answers[0].values()
        return answer

    def tell(self, command: str, **arguments: Any) -> None:
        """Send a command without waiting for an answer."""
        self._control.broadcast(command, arguments=arguments)
