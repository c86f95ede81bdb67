"""What the command line tells people to type, and what is wrong with their settings, is true where they read it."""

from __future__ import annotations

import pytest

from tests.integration.test_cli import said_by, shell

pytestmark = pytest.mark.usefixtures("database")


@pytest.mark.slow
def test_hints_begin_as_a_command_does_where_they_are_read() -> None:
    in_a_container = "docker compose exec web manage"

    said = said_by(shell("jobs", "submit", "demo.slow", "seconds=1", MANAGE_COMMAND=in_a_container))
    types = said_by(shell("jobs", "types", "demo.slow", MANAGE_COMMAND=in_a_container))
    away = said_by(
        shell(
            "jobs", "list", DATABASE_URL="postgresql://nobody@127.0.0.1:1/none", MANAGE_COMMAND=in_a_container
        )
    )

    assert f"To see it: {in_a_container} jobs show " in said.err
    assert f"{in_a_container} jobs submit demo.slow --wait" in types.out
    assert away.err.startswith(
        "The database at 127.0.0.1:1 does not answer. Check that it runs, and that DATABASE_URL names it. ("
    )
    assert "manage.py" not in said.err + types.out + away.err


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("DATABASE_URL", "postgresql://esteira:hush/word@db.example.com/esteira"),
        ("REDIS_URL", "redis://:hush#word@redis.example.com:6379/0"),
    ],
)
def test_a_password_that_is_not_percent_encoded_is_one_sentence(name: str, address: str) -> None:
    said = said_by(shell("jobs", "list", **{name: address}))

    assert said.code == 1
    assert said.err.startswith(f"{name} is not an address: ")
    assert "%2F is /" in said.err
    assert said.err.count("\n") == 1
    assert "hush" not in said.err and "word@" not in said.err
