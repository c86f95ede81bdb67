"""Secrets of an installation, made once: the one-shot of compose, before anything else starts.

Each secret comes from the environment, else from a file of its name below /given, else from what an earlier start
made, else it is made now. They are written below /keys, one folder for each group of readers, so that nobody mounts
what they need not know. Nothing is replaced by nothing: what is there stays. Needs no Django and no network.

It runs as root without root's rights, but for one: it reads what is given whatever its mode, so that a secret may be a
file of mode 600. What it writes belongs to root and is read by our group.

A change has two steps, `prepare NAME…` and `adopt NAME…`: the next value lies beside the one in use until its server
knows it. Killed in between, `prepare` finds it again, so whoever changes a password can simply begin anew.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from project.server_files import copy_server_files

KEYS, GIVEN = Path("/keys"), Path("/given")
MODE = 0o440  # owner and group: PostgreSQL and Redis run as other users, and are in our group
SHORTEST = 8


@dataclass(frozen=True, kw_only=True)
class Secret:
    """One secret: the folder of its readers, how one is made, and how short is too short."""

    name: str
    readers: str
    make: Callable[[], str]
    shortest: int = SHORTEST
    elsewhere: str = (
        ""  # the variable by which a server that is not ours is named, with a password of its own
    )

    @property
    def file(self) -> Path:
        return KEYS / self.readers / self.name

    @property
    def next(self) -> Path:
        return KEYS / self.readers / f".{self.name}.next"


def _password() -> str:
    return secrets.token_urlsafe(24)


SECRETS = (
    Secret(name="secret_key", readers="django", make=lambda: secrets.token_urlsafe(50), shortest=32),
    Secret(name="admin_password", readers="release", make=lambda: secrets.token_urlsafe(12)),
    Secret(name="postgres_password", readers="postgres", make=_password, elsewhere="DATABASE_URL"),
    Secret(name="postgres_app_password", readers="postgres", make=_password, elsewhere="DATABASE_URL"),
    Secret(name="redis_password", readers="redis", make=_password, elsewhere="REDIS_URL"),
    Secret(name="redis_flower_password", readers="redis-flower", make=_password, elsewhere="REDIS_URL"),
    Secret(name="redis_admin_password", readers="redis-admin", make=_password, elsewhere="REDIS_URL"),
    Secret(
        name="postgres_metrics_password", readers="postgres-metrics", make=_password, elsewhere="DATABASE_URL"
    ),
    Secret(name="redis_metrics_password", readers="redis-metrics", make=_password, elsewhere="REDIS_URL"),
    Secret(name="flower_basic_auth", readers="flower", make=lambda: f"admin:{secrets.token_urlsafe(12)}"),
)

#: What somebody outside has made: handed on if it is given, and never made here.
GIVEN_ONLY = tuple(
    Secret(name=name, readers="backup", make=str, shortest=3)
    for name in ("backup_bucket_key", "backup_bucket_secret")
)


class BadSecret(Exception):
    """What was given cannot be a secret; the message says which and what to do."""


def main(arguments: Sequence[str]) -> None:
    try:
        match arguments:
            case []:
                settle()
                copy_server_files()
            case ["prepare", *names]:
                prepare(names)
            case ["adopt", *names]:
                adopt(names)
            case _:
                sys.exit("Say nothing, or prepare or adopt and names of secrets.")
    except BadSecret as error:
        sys.exit(str(error))


def settle() -> None:
    """Find or make every secret and write it where its readers look; raises BadSecret before anything is written."""
    found = {secret: given(secret) or kept(secret) or secret.make() for secret in (*SECRETS, *GIVEN_ONLY)}
    for secret, value in found.items():
        _refuse_what_the_server_does_not_know(secret, value)
    for secret, value in found.items():
        write(secret.file, value)
    write_urls()


def _refuse_what_the_server_does_not_know(secret: Secret, value: str) -> None:
    """PostgreSQL keeps its password with its data; Redis reads the file whenever it starts."""
    if secret.name == "postgres_password" and kept(secret) not in ("", value):
        raise BadSecret(
            "POSTGRES_PASSWORD or secrets/postgres_password is not what PostgreSQL knows. Take it away and start; then "
            "put it back and run `make rotate WHAT=postgres`."
        )


def prepare(names: Sequence[str]) -> None:
    """Lay the next value beside the one in use: what is given, else what an interrupted change made, else a new one."""
    wanted = [secret for secret in SECRETS if secret.name in names]
    for secret in wanted:
        if secret.elsewhere and os.environ.get(secret.elsewhere):
            raise BadSecret(
                f"{secret.elsewhere} names a server that is not of this stack: change the password there and in "
                f"{secret.elsewhere}, then run `make up`."
            )
    following = {secret: given(secret) for secret in wanted}
    for secret, value in following.items():
        if value and value == kept(secret):
            print(
                f"{secret.name} is given, and is the one in use: it is set once more. Give another for a new one."
            )
        _put(secret.next, value or _read(secret.next) or secret.make())


def adopt(names: Sequence[str]) -> None:
    """Put what was prepared into use."""
    for secret in SECRETS:
        if secret.name in names and secret.next.exists():
            secret.next.replace(secret.file)
            print(f"wrote {secret.file}", flush=True)
    write_urls()


def given(secret: Secret) -> str:
    """Return what the environment or a file below /given says; empty if neither does."""
    variable, file = secret.name.upper(), GIVEN / secret.name
    if value := os.environ.get(variable, ""):
        return _checked(secret, value, variable)
    try:
        return _checked(secret, file.read_text().removesuffix("\n"), f"secrets/{secret.name}")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise BadSecret(f"secrets/{secret.name} cannot be read by user {os.getuid()}: {error}.") from None


def _checked(secret: Secret, value: str, where: str) -> str:
    if value.strip() != value or not value.isprintable():
        raise BadSecret(f"{where} begins or ends with a space, or holds a line break: write one plain line.")
    if secret.name == "flower_basic_auth" and not all(value.partition(":")):
        raise BadSecret(f"{where} is no login of Flower's: write a name, a colon and a password.")
    if len(value) < secret.shortest:
        raise BadSecret(
            f"{where} has {len(value)} characters; give at least {secret.shortest}, or remove it to have one made."
        )
    return value


def kept(secret: Secret) -> str:
    """Return what an earlier start wrote; empty if there was none."""
    return _read(secret.file)


def _read(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def write(file: Path, value: str) -> None:
    """Write what is new, and say so."""
    if _read(file) != value:
        _put(file, value)
        print(f"wrote {file}", flush=True)


def _put(file: Path, value: str) -> None:
    """Write a file whole or not at all: readers never see half a secret."""
    fresh = file.with_name(f".{file.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=0o600)
    except PermissionError:
        raise BadSecret(
            f"{file.parent} belongs to another user than {os.getuid()}, as earlier versions had it. Give it away, "
            "then run this again: docker compose run --rm --no-deps --cap-add CHOWN secrets sh -c 'chown -R 0 /keys/*'"
        ) from None
    fresh.write_text(value)
    fresh.chmod(MODE)
    fresh.replace(file)


def write_urls() -> None:
    """Write the addresses that hold a password, as they are now."""
    passwords = {secret.name: quote(kept(secret), safe="") for secret in SECRETS}
    app, owner = (
        f"postgresql://{role}:{passwords[password]}@postgres:5432/esteira"
        for role, password in (("esteira_app", "postgres_app_password"), ("esteira", "postgres_password"))
    )
    given_database = os.environ.get("DATABASE_URL")
    write(KEYS / "django" / "database_url", given_database or app)
    # Somebody else's server has the one role that its address names, unless a second address names the owner.
    owner = os.environ.get("DATABASE_OWNER_URL") or ("" if given_database else owner)
    file = KEYS / "release" / "database_owner_url"
    if not file.exists():
        _put(file, "")  # settings that name a file must find one
    write(file, owner)
    for folder, login in (
        ("redis", "esteira:{redis_password}"),
        ("redis-flower", "flower:{redis_flower_password}"),
    ):
        redis = f"redis://{login.format_map(passwords)}@redis:6379/0"
        write(KEYS / folder / "redis_url", os.environ.get("REDIS_URL") or redis)
    # The exporter of Redis reads a password from a file of this shape only, and its image has no shell.
    metrics = next(kept(secret) for secret in SECRETS if secret.name == "redis_metrics_password")
    write(
        KEYS / "redis-metrics" / "redis_passwords.json", json.dumps({"redis://metrics@redis:6379": metrics})
    )


if __name__ == "__main__":
    main(sys.argv[1:])
