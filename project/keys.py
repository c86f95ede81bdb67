"""Secrets of an installation, made once: the one-shot of compose, before anything else starts.

Each secret comes from the environment, else from a file of its name below /given, else from what an earlier start
made, else it is made now. They are written below /keys, one folder for each group of readers, so that nobody mounts
what they need not know. Nothing is replaced by nothing: what is there stays. Needs no Django and no network.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

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

    @property
    def file(self) -> Path:
        return KEYS / self.readers / self.name


def _password() -> str:
    return secrets.token_urlsafe(24)


SECRETS = (
    Secret(name="secret_key", readers="django", make=lambda: secrets.token_urlsafe(50), shortest=32),
    Secret(name="admin_password", readers="django", make=lambda: secrets.token_urlsafe(12)),
    Secret(name="postgres_password", readers="postgres", make=_password),
    Secret(name="redis_password", readers="redis", make=_password),
    Secret(name="redis_admin_password", readers="redis-admin", make=_password),
    Secret(name="flower_basic_auth", readers="flower", make=lambda: f"admin:{secrets.token_urlsafe(12)}"),
)


class BadSecret(Exception):
    """What was given cannot be a secret; the message says which and what to do."""


def main() -> None:
    try:
        values = settle()
    except BadSecret as error:
        sys.exit(str(error))
    write(KEYS / "django" / "database_url", database_url(values["postgres_password"]))
    write(KEYS / "redis" / "redis_url", redis_url(values["redis_password"]))


def settle() -> dict[str, str]:
    """Find or make every secret and write it where its readers look; raises BadSecret before anything is written."""
    found = {secret.name: given(secret) or kept(secret) or secret.make() for secret in SECRETS}
    for secret in SECRETS:
        write(secret.file, found[secret.name])
    return found


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
    if len(value) < secret.shortest:
        raise BadSecret(
            f"{where} has {len(value)} characters; give at least {secret.shortest}, or remove it to have one made."
        )
    return value


def kept(secret: Secret) -> str:
    """Return what an earlier start wrote; empty if there was none."""
    return secret.file.read_text() if secret.file.exists() else ""


def write(file: Path, value: str) -> None:
    """Write a file whole or not at all: readers never see half a secret."""
    if file.exists() and file.read_text() == value:
        return
    fresh = file.with_name(f".{file.name}.new")
    fresh.unlink(missing_ok=True)
    fresh.touch(mode=0o600)
    fresh.write_text(value)
    fresh.chmod(MODE)
    fresh.replace(file)
    print(f"wrote {file}", flush=True)


def database_url(password: str) -> str:
    return (
        os.environ.get("DATABASE_URL")
        or f"postgresql://esteira:{quote(password, safe='')}@postgres:5432/esteira"
    )


def redis_url(password: str) -> str:
    return os.environ.get("REDIS_URL") or f"redis://esteira:{quote(password, safe='')}@redis:6379/0"


if __name__ == "__main__":
    main()
