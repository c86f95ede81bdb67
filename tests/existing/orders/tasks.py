"""The shop's Celery tasks: a chain with a chord in it, retries, and two tasks of beat."""

from celery import chain, chord, shared_task
from django.db.models import F

from .models import Count, Line, Order


class PaymentAway(Exception):
    pass


@shared_task(autoretry_for=(PaymentAway,), retry_backoff=1, retry_jitter=False, max_retries=5)
def charge(order_id, tries_needed=2):
    """Take the money; the payment service is away for the first tries."""
    Order.objects.filter(pk=order_id).update(payment_tries=F("payment_tries") + 1)
    order = Order.objects.get(pk=order_id)
    if order.payment_tries < tries_needed:
        raise PaymentAway
    order.state = Order.State.PAID
    order.save(update_fields=["state"])


@shared_task
def pick(line_id):
    line = Line.objects.get(pk=line_id)
    line.picked = True
    line.save(update_fields=["picked"])
    return line.count


@shared_task
def pack(counts, order_id):
    Order.objects.filter(pk=order_id).update(state=Order.State.PACKED, parcels=-(-sum(counts) // 3))
    return order_id


@shared_task
def announce(order_id):
    Order.objects.filter(pk=order_id).update(state=Order.State.ANNOUNCED)


@shared_task(ignore_result=True)
def count_open():
    Count.objects.create(open=Order.objects.filter(state=Order.State.OPEN).count())


@shared_task(ignore_result=True)
def remind():
    """Nobody is reminded in this example."""


def fulfil(order):
    """Charge the customer, pick all lines at once, pack what was picked, and say so."""
    picked = chord([pick.si(line.pk) for line in order.lines.all()], pack.s(order.pk))
    return chain(charge.si(order.pk), picked, announce.s()).delay()
