"""Addresses that hold a password: what can be taken apart passes, the rest is a sentence without the password."""

from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured

from project.addresses import checked


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://esteira:p%40ss%2Fw%3Ard@example.com:5432/esteira?sslmode=require",
        "postgresql://%2Fvar%2Frun%2Fpostgresql/esteira",
        "redis://:password@redis.example.com:6379/0",
        "smtp+tls://ana@example.com:password@mail.example.com:587",
        "redis://[::1]:6379/0",
        "consolemail://",
        "",
    ],
)
def test_an_address_passes_as_it_is(address: str) -> None:
    assert checked("DATABASE_URL", address) == address


@pytest.mark.parametrize(
    "password", ["hush/word", "hush?word", "hush#word", "12/34", "[hush", "12#34", "hush@/word"]
)
def test_a_password_that_is_not_encoded_is_refused_and_not_repeated(password: str) -> None:
    with pytest.raises(
        ImproperlyConfigured, match=r"^REDIS_URL is not an address.*percent-encoded"
    ) as refused:
        checked("REDIS_URL", f"redis://esteira:{password}@redis.example.com:6379/0")

    assert password not in str(refused.value)
