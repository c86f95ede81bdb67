"""The two ways to talk to PostgreSQL: inside the caller's transaction, and on a private connection."""

from __future__ import annotations

import pytest

from esteira.db import Core, Orm
from esteira.models import Job, Keeper

pytestmark = pytest.mark.django_db


def test_every_test_finds_an_empty_database_with_the_keepers_row() -> None:
    assert Job.objects.count() == 0
    assert Keeper.objects.count() == 1


def test_a_private_connection_sees_what_the_orm_committed() -> None:
    Orm().fetch("INSERT INTO esteira_queue (name, paused_by, reason) VALUES ('reports', '', '')")

    core = Core("test")
    try:
        assert core.fetch("SELECT name FROM esteira_queue") == [("reports",)]
    finally:
        core.close()
