"""What `configure` does to another project's Celery app, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from django.conf import settings as django_settings
from django.core.exceptions import ImproperlyConfigured
from kombu import Queue

from esteira import celery_settings
from esteira.broker.own_queues import own_queues, routed_queues
from esteira.celery_settings import configure


def app_with(**own: Any) -> Celery:
    """A project's app, whose settings have a prefix, as Celery's manual has it."""
    app = Celery("shop", set_as_current=False)
    app.config_from_object(
        {f"CELERY_{name.upper()}": value for name, value in own.items()}, namespace="CELERY"
    )
    configure(app)
    return app


def test_an_app_gets_what_jobs_need_and_what_is_usual() -> None:
    conf = app_with().conf

    assert {name: conf[name] for name in celery_settings.needed()} == celery_settings.needed()
    assert {name: conf[name] for name in celery_settings.usual()} == celery_settings.usual()
    assert conf.broker_transport_options == celery_settings.transport()


def test_what_the_project_has_chosen_stays_unless_jobs_need_it() -> None:
    schedule = {"count": {"task": "shop.count", "schedule": 5.0}}

    conf = app_with(
        worker_concurrency=3,
        task_default_priority=3,
        task_serializer="pickle",
        accept_content=["pickle"],
        result_backend="redis://results:6379/0",
        timezone="America/Sao_Paulo",
        beat_schedule=schedule,
        task_default_queue="shop",
        worker_prefetch_multiplier=4,
        broker_transport_options={"visibility_timeout": 60},
    ).conf

    assert (conf.worker_concurrency, conf.task_default_priority, conf.task_serializer) == (3, 3, "pickle")
    assert (conf.result_backend, str(conf.timezone)) == ("redis://results:6379/0", "America/Sao_Paulo")
    assert (conf.beat_schedule, conf.task_default_queue) == (schedule, "shop")
    assert conf.beat_scheduler == "celery.beat:PersistentScheduler", "its own beat runs its own schedule"
    assert set(conf.accept_content) == {"json", "pickle"}
    assert conf.broker_transport_options == {**celery_settings.transport(), "visibility_timeout": 60}
    assert conf.worker_prefetch_multiplier == 1


def test_settings_are_not_read_before_celery_reads_them() -> None:
    app = Celery("shop", set_as_current=False)

    configure(app)

    unread: Any = app
    assert not unread.configured


def test_an_app_that_has_read_its_settings_gets_them_all_the_same() -> None:
    app = Celery("shop", set_as_current=False)
    assert app.conf.worker_prefetch_multiplier == 4

    configure(app)

    assert app.conf.worker_prefetch_multiplier == 1


@pytest.mark.parametrize(
    ("own", "named"),
    [
        ({"broker_url": "redis://another:6379/0"}, "broker_url"),
        ({"broker_transport_options": {"global_keyprefix": "shop:"}}, "global_keyprefix"),
        ({"broker_transport_options": {"priority_steps": [0, 5]}}, "priority_steps"),
        ({"broker_transport_options": {"sep": ":"}}, "sep"),
    ],
)
def test_a_contradiction_stops_the_start_and_names_both(own: dict[str, Any], named: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=named):
        _ = app_with(**own).conf.broker_url


def test_the_same_broker_is_no_contradiction() -> None:
    assert (
        app_with(broker_url=django_settings.ESTEIRA_REDIS_URL).conf.broker_url
        == django_settings.ESTEIRA_REDIS_URL
    )


def test_a_missing_redis_stops_the_start(settings: Any) -> None:
    settings.ESTEIRA_REDIS_URL = ""

    with pytest.raises(ImproperlyConfigured, match="ESTEIRA_REDIS_URL"):
        _ = app_with().conf.broker_url


@pytest.mark.parametrize(
    ("own", "names"),
    [
        ({}, ["celery"]),
        ({"task_default_queue": "shop"}, ["shop"]),
        ({"task_queues": [Queue("a"), Queue("b")]}, ["a", "b"]),
        ({"task_queues": {"a": {"exchange": "a"}}}, ["a"]),
        ({"task_routes": {"shop.mail": {"queue": "mail"}}}, ["celery"]),
    ],
)
def test_a_worker_without_an_option_reads_what_it_reads_without_jobs(
    own: dict[str, Any], names: list[str]
) -> None:
    assert sorted(queue.name for queue in own_queues(app_with(**own))) == names


@pytest.mark.parametrize(
    ("routes", "names"),
    [
        ({"shop.mail": {"queue": "mail"}, "shop.*": {"priority": 3}}, ["mail"]),
        (({"shop.mail": {"queue": Queue("mail")}},), ["mail"]),
        ([("shop.*", {"queue": "mail"})], ["mail"]),
        ("shop.routes.Router", []),
        (None, []),
    ],
)
def test_the_queues_of_routes_may_be_named(routes: Any, names: list[str]) -> None:
    assert routed_queues(app_with(task_routes=routes)) == names
