"""The shop's own tests: its Celery tasks run at once, in the test's transaction."""

import json

import pytest
from accounts.models import Customer
from orders.models import Count, Order
from orders.tasks import count_open

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def eager(settings):
    from shop.celery import app

    app.conf.task_always_eager = True
    yield
    app.conf.task_always_eager = False


def test_an_order_is_paid_picked_packed_and_announced(client, django_capture_on_commit_callbacks):
    client.force_login(Customer.objects.create_user("ana@example.com"))

    with django_capture_on_commit_callbacks(execute=True):
        answer = client.post(
            "/orders/place", json.dumps({"lamp": 2, "cup": 5}), content_type="application/json"
        )

    order = Order.objects.get(pk=answer.json()["order"])
    assert (order.state, order.payment_tries, order.parcels) == ("announced", 2, 3)
    assert all(line.picked for line in order.lines.all())


def test_open_orders_are_counted():
    Order.objects.create(customer=Customer.objects.create_user("rui@example.com"))

    count_open.delay()

    assert Count.objects.get().open == 1


def test_the_first_page_is_public(client):
    assert client.get("/").status_code == 200
