"""Plain Celery tasks of a small shop, as people write them: nothing here knows of Esteira.

Their effects are the rows of one table, which tests read.
"""

from __future__ import annotations

import os
import signal
from threading import Event
from typing import Any, NoReturn

from celery import Task, chord, group, shared_task, signals
from celery.canvas import chain
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from django.db import connection, transaction

TABLE = (
    "CREATE TABLE IF NOT EXISTS shop_effect (id bigserial PRIMARY KEY, run text NOT NULL, what text NOT NULL)"
)


def note(run: str, what: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO shop_effect (run, what) VALUES (%s, %s)", [run, str(what)])


def noted(run: str) -> list[str]:
    """Return the effects of a run, in the order in which they happened."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT what FROM shop_effect WHERE run = %s ORDER BY id", [run])
        return [row[0] for row in cursor.fetchall()]


class OutOfStock(Exception):
    def __init__(self, sku: str, left: int) -> None:
        super().__init__(sku, left)


@shared_task(name="shop.price")
def price(amount: Any, times: Any = 1) -> Any:
    return amount * times


@shared_task(name="shop.add")
def add(*amounts: Any) -> Any:
    return sum(amounts)


@shared_task(name="shop.total")
def total(amounts: list[Any]) -> Any:
    return sum(amounts)


@shared_task(name="shop.same")
def same(*values: Any) -> Any:
    return values[0] if len(values) == 1 else list(values)


@shared_task(name="shop.pack")
def pack(run: str, what: str = "packed") -> str:
    note(run, what)
    return what


@shared_task(name="shop.label", ignore_result=True)
def label(run: str) -> str:
    note(run, "labelled")
    return "not kept"


@shared_task(name="shop.sold_out")
def sold_out(*_: Any) -> NoReturn:
    raise OutOfStock("mug", 0)


@shared_task(name="shop.tell")
def tell(task_id: str, run: str = "") -> None:
    note(run, "told")


@shared_task(name="shop.explain")
def explain(request: Any, exc: BaseException, traceback: Any, run: str = "") -> None:
    note(run, f"{type(exc).__name__} in {request.task}")


@shared_task(bind=True, name="shop.order", max_retries=3)
def order(self: Any, run: str, needed: int, sku: str = "mug") -> list[Any]:
    note(run, f"{sku} {self.request.retries}")
    if self.request.retries < needed:
        raise self.retry(args=(run, needed), kwargs={"sku": f"{sku}+"}, countdown=0)
    return [sku, self.request.retries]


@shared_task(
    bind=True,
    name="shop.stubborn",
    autoretry_for=(OutOfStock,),
    retry_backoff=0,
    max_retries=2,
    default_retry_delay=0,
)
def stubborn(self: Any, run: str) -> NoReturn:
    note(run, self.request.retries)
    raise OutOfStock("mug", self.request.retries)


@shared_task(bind=True, name="shop.half_hearted", max_retries=2, ignore_result=True)
def half_hearted(self: Any, run: str) -> None:
    note(run, self.request.retries)
    if not self.request.retries:
        raise self.retry(countdown=0, queue="mail")


@shared_task(bind=True, name="shop.both")
def both(self: Any, run: str) -> str:
    note(run, self.request.retries)
    if not self.request.retries:
        self.retry(countdown=0, throw=False)
        return "first"
    return "second"


@shared_task(name="shop.skip")
def skip(run: str) -> NoReturn:
    note(run, "skipped")
    raise Ignore


@shared_task(name="shop.return_to_sender")
def return_to_sender(run: str) -> NoReturn:
    note(run, "returned")
    raise Reject("no such address", requeue=False)


@shared_task(bind=True, name="shop.not_now")
def not_now(self: Any, run: str) -> bool:
    again = self.request.delivery_info["redelivered"]
    note(run, again)
    if not again:
        raise Reject("not now", requeue=True)
    return bool(again)


@shared_task(bind=True, name="shop.exchange")
def exchange(self: Any, how: str, amount: int) -> Any:
    others = {
        "a task": add.s(amount, 1),
        "a chain": chain(add.s(amount, 1), price.s(2)),
        "a group": group(add.s(amount, n) for n in range(3)),
        "a chord": chord([add.s(amount, n) for n in range(3)], total.s()),
    }
    return self.replace(others[how])


@shared_task(bind=True, name="shop.describe")
def describe(self: Any, *_: Any) -> dict[str, Any]:
    request = self.request
    return {
        "id": request.id,
        "root": request.root_id,
        "parent": request.parent_id,
        "group": request.group,
        "routing key": request.delivery_info["routing_key"],
        "priority": request.delivery_info["priority"],
        "time limits": list(request.timelimit or []),
        "header": (request.headers or {}).get("x-shop", request.get("x-shop")),
        "shadow": request.shadow,
        "host": bool(request.hostname),
        "called directly": request.called_directly,
    }


@shared_task(name="shop.slow", soft_time_limit=1)
def slow(run: str, catches: bool) -> str:
    try:
        Event().wait(20)
    except SoftTimeLimitExceeded:
        note(run, "late")
        if not catches:
            raise
    return "in time"


@shared_task(name="shop.endless", time_limit=1)
def endless(run: str) -> None:
    note(run, "began")
    Event().wait(20)


@shared_task(name="shop.long")
def long(run: str) -> None:
    note(run, "began")
    Event().wait(20)


@shared_task(name="shop.short")
def short(run: str, value: int) -> int:
    note(run, value)
    Event().wait(0.5)
    return value


@shared_task(name="shop.crash_once")
def crash_once(run: str) -> str:
    note(run, "began")
    if len(noted(run)) == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


@shared_task(name="shop.sends_and_fails")
def sends_and_fails(run: str) -> None:
    with transaction.atomic():
        pack.delay(run)
        raise OutOfStock("box", 0)


@shared_task(bind=True, name="shop.progress")
def progress(self: Any, run: str) -> str:
    with transaction.atomic():
        self.update_state(state="PACKING", meta={"box": 1})
        note(run, self.AsyncResult(self.request.id).state)
    return "done"


class Watched(Task):
    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        note(args[0], "before_start")

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        note(args[0], f"on_success {self.AsyncResult(task_id).state}")

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note(args[0], f"on_failure {self.AsyncResult(task_id).state}")

    def on_retry(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note(args[0], "on_retry")

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        note(args[0], f"after_return {status}")


@shared_task(bind=True, base=Watched, name="shop.watched", default_retry_delay=0)
def watched(self: Any, run: str, how: str) -> str:
    if how == "fail":
        raise OutOfStock("mug", 0)
    if how == "retry" and not self.request.retries:
        raise self.retry()
    return how


def _note_signal(name: str) -> Any:
    def receive(sender: Any = None, **_: Any) -> None:
        if getattr(sender, "name", "") == "shop.watched":
            note(sender.request.args[0], name)

    return receive


for _name in ("task_prerun", "task_postrun", "task_success", "task_failure", "task_retry"):
    getattr(signals, _name).connect(_note_signal(_name), weak=False)
