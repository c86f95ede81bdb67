"""Secrets are never shown: each value that may hold one is hidden whole, and so are types that this release lacks."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from esteira import Context, Secret, job
from esteira.redact import HIDDEN, shown_params

pytestmark = pytest.mark.usefixtures("job_types")


class Account(BaseModel):
    user: str
    password: Secret


def test_what_is_no_secret_is_shown() -> None:
    def open_job(ctx: Context, name: str, sizes: list[int], extra: dict[str, int] | None = None) -> None: ...

    job(name="t.open")(open_job)

    stored = {"name": "Ana", "sizes": [1], "extra": None}
    assert shown_params("t.open", stored) == stored


def test_a_secret_is_hidden_wherever_it_stands() -> None:
    def secret_job(
        ctx: Context,
        name: str,
        plain: Secret,
        maybe: Secret | None = None,
        many: list[Secret] | None = None,
        inside: Account | None = None,
        deep: dict[str, list[Account]] | None = None,
    ) -> None: ...

    job(name="t.secret")(secret_job)

    stored = {
        "name": "Ana",
        "plain": "a",
        "maybe": "b",
        "many": ["c"],
        "inside": {"password": "d"},
        "deep": {},
    }

    shown = shown_params("t.secret", stored)

    assert shown.pop("name") == "Ana"
    assert set(shown) == set(stored) - {"name"}
    assert set(shown.values()) == {HIDDEN}


def test_a_parameter_of_another_release_is_hidden() -> None:
    def newer(ctx: Context, name: str = "") -> None: ...

    job(name="t.newer")(newer)

    assert shown_params("t.newer", {"name": "Ana", "token": "x"}) == {"name": "Ana", "token": HIDDEN}


def test_an_unknown_types_parameters_are_hidden() -> None:
    assert shown_params("t.gone", {"name": "Ana"}) == {"name": HIDDEN}
