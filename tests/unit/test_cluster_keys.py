"""The keys of an installation in Kubernetes: what is there stays, what is missing is made."""

from __future__ import annotations

import base64
from urllib.parse import quote, urlsplit

from project.keys import SECRETS
from project.kubernetes.keys import missing_of

ADDRESSES = {"database_url", "database_owner_url", "redis_url", "flower_redis_url"}


def secret(**keys: str) -> dict[str, dict[str, str]]:
    return {"data": {name: base64.b64encode(value.encode()).decode() for name, value in keys.items()}}


def test_an_empty_secret_gets_every_key() -> None:
    made = missing_of({})

    assert set(made) == {one.name for one in SECRETS} | ADDRESSES
    assert len(set(made.values())) == len(made)
    assert all(len(made[one.name]) >= one.shortest for one in SECRETS)


def test_what_is_there_stays_and_goes_into_the_addresses_quoted() -> None:
    made = missing_of(secret(postgres_password="p@ss:word/1", flower_basic_auth="ana:secret", redis_url=""))

    assert not {"postgres_password", "flower_basic_auth"} & set(made)
    address = urlsplit(made["database_url"])
    assert (address.username, address.password) == ("esteira_app", made["postgres_app_password"])
    assert (address.hostname, address.port, address.path) == ("postgres", 5432, "/esteira")
    owner = urlsplit(made["database_owner_url"])
    assert (owner.username, owner.password) == ("esteira", quote("p@ss:word/1", safe=""))
    assert made["redis_url"].startswith("redis://esteira:"), "an empty value is none"


def test_a_server_of_somebody_else_keeps_its_address() -> None:
    made = missing_of(secret(database_url="postgresql://me@db.example.com/jobs"))

    assert not {"database_url", "database_owner_url"} & set(made)
    assert "redis_url" in made


def test_a_full_secret_gets_nothing() -> None:
    made = missing_of({})

    assert missing_of(secret(**made)) == {}
