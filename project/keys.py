"""Make the secrets of an installation once: compose runs this as a one-shot container before all others.

Each secret comes from the environment, else from a file of its name below /given, else from an earlier start, else it
is made now. Secrets are written below /keys, one folder for each group of readers, so that a container mounts only the
secrets that it needs. An existing secret is never replaced by an empty one. This module needs no Django and no network.

It runs as root without root's capabilities except one: it may read given files of any mode, so that a secret may be a
file of mode 600. The files that it writes belong to root and are readable by the group of the other containers.

A change has two steps, `prepare NAME…` and `adopt NAME…`: the next value is stored beside the current one until the
server has it. If the process is killed in between, `prepare` finds the value again, so the change can be repeated.
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
MODE = 0o440  # owner and group: PostgreSQL and Redis run as other users, which are in this group
SHORTEST = 8


@dataclass(frozen=True, kw_only=True)
class Secret:
    """One secret: the folder of its readers, the function that makes it, and its least length."""

    name: str
    readers: str
    make: Callable[[], str]
    shortest: int = SHORTEST
    elsewhere: str = (
        ""  # the variable with the address of an external server, which has a password of its own
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

#: Secrets from another service: they are passed on if given, and never made here.
GIVEN_ONLY = tuple(
    Secret(name=name, readers="backup", make=str, shortest=3)
    for name in ("backup_bucket_key", "backup_bucket_secret")
)


class BadSecret(Exception):
    """A given value cannot be a secret; the message explains which and what to do."""


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
                sys.exit("Arguments: none, or prepare or adopt with names of secrets.")
    except BadSecret as error:
        sys.exit(str(error))


def settle() -> None:
    """Find or make every secret and write it for its readers; raises BadSecret before anything is written."""
    found = {secret: given(secret) or kept(secret) or secret.make() for secret in (*SECRETS, *GIVEN_ONLY)}
    for secret, value in found.items():
        _refuse_what_the_server_does_not_know(secret, value)
    for secret, value in found.items():
        write(secret.file, value)
    write_urls()


def _refuse_what_the_server_does_not_know(secret: Secret, value: str) -> None:
    """Refuse a changed password of PostgreSQL, which is stored with its data; Redis reads its file at each start."""
    if secret.name == "postgres_password" and kept(secret) not in ("", value):
        raise BadSecret(
            "POSTGRES_PASSWORD or secrets/postgres_password differs from PostgreSQL's password. Remove it and start; "
            "then put it back and run `make rotate WHAT=postgres`."
        )


def prepare(names: Sequence[str]) -> None:
    """Store the next values: the given one, else the one of an interrupted change, else a new one."""
    wanted = [secret for secret in SECRETS if secret.name in names]
    for secret in wanted:
        if secret.elsewhere and os.environ.get(secret.elsewhere):
            raise BadSecret(
                f"{secret.elsewhere} is the address of a server outside this stack: change the password there and in "
                f"{secret.elsewhere}, then run `make up`."
            )
    following = {secret: given(secret) for secret in wanted}
    for secret, value in following.items():
        if value and value == kept(secret):
            print(
                f"The given {secret.name} is already in use; it is set again. Give another one to change it."
            )
        _put(secret.next, value or _read(secret.next) or secret.make())


def adopt(names: Sequence[str]) -> None:
    """Make the prepared values the current ones."""
    for secret in SECRETS:
        if secret.name in names and secret.next.exists():
            secret.next.replace(secret.file)
            print(f"wrote {secret.file}", flush=True)
    write_urls()


def given(secret: Secret) -> str:
    """Return the value from the environment or from a file below /given; "" if there is none."""
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
        raise BadSecret(
            f"{where} begins or ends with a space, or contains a line break: write one plain line."
        )
    if secret.name == "flower_basic_auth" and not all(value.partition(":")):
        raise BadSecret(f"{where} is not a login for Flower: write a name, a colon and a password.")
    if len(value) < secret.shortest:
        raise BadSecret(
            f"{where} has {len(value)} characters; give at least {secret.shortest}, or remove it to get a new one."
        )
    return value


def kept(secret: Secret) -> str:
    """Return the value that an earlier start wrote; "" if there is none."""
    return _read(secret.file)


def _read(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def write(file: Path, value: str) -> None:
    """Write a value if it has changed, and print that."""
    if _read(file) != value:
        _put(file, value)
        print(f"wrote {file}", flush=True)


def _put(file: Path, value: str) -> None:
    """Write a file completely or not at all: readers never see a part of a secret."""
    fresh = file.with_name(f".{file.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=0o600)
    except PermissionError:
        raise BadSecret(
            f"{file.parent} belongs to another user than {os.getuid()}, as in earlier versions. Change its owner, "
            "then run this again: docker compose run --rm --no-deps --cap-add CHOWN secrets sh -c 'chown -R 0 /keys/*'"
        ) from None
    fresh.write_text(value)
    fresh.chmod(MODE)
    fresh.replace(file)


def write_urls() -> None:
    """Write the addresses that contain a password, with the current passwords."""
    passwords = {secret.name: quote(kept(secret), safe="") for secret in SECRETS}
    app, owner = (
        f"postgresql://{role}:{passwords[password]}@postgres:5432/esteira"
        for role, password in (("esteira_app", "postgres_app_password"), ("esteira", "postgres_password"))
    )
    given_database = os.environ.get("DATABASE_URL")
    write(KEYS / "django" / "database_url", given_database or app)
    # An external server has only the role in its address, unless a second address names the owner.
    owner = os.environ.get("DATABASE_OWNER_URL") or ("" if given_database else owner)
    file = KEYS / "release" / "database_owner_url"
    if not file.exists():
        _put(file, "")  # the settings of the release refer to this file, so it must exist
    write(file, owner)
    for folder, login in (
        ("redis", "esteira:{redis_password}"),
        ("redis-flower", "flower:{redis_flower_password}"),
    ):
        redis = f"redis://{login.format_map(passwords)}@redis:6379/0"
        write(KEYS / folder / "redis_url", os.environ.get("REDIS_URL") or redis)
    # The exporter of Redis reads a password only from a file in this format, and its image has no shell.
    metrics = next(kept(secret) for secret in SECRETS if secret.name == "redis_metrics_password")
    write(
        KEYS / "redis-metrics" / "redis_passwords.json", json.dumps({"redis://metrics@redis:6379": metrics})
    )


if __name__ == "__main__":
    main(sys.argv[1:])
