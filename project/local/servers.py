"""Choose the servers of this start, their addresses, and the contents of `.esteira/env`.

An address from the caller replaces the embedded server. Passwords, ports and the secret key of an earlier start are
used again, so that sessions, bookmarks and the data survive a restart.
"""

from __future__ import annotations

import secrets
from urllib.parse import urlsplit

from project.local.embedded import Postgres, Valkey
from project.local.home import Home
from project.local.options import Options
from project.local.parts import DEV_USER, environment, mail_part, postgres_part, redis_part
from project.local.supervise import Part

APP_ROLE = "esteira_app"  # as in compose and Kubernetes: this role works with the rows and owns no table
REDIS_OPTIONS = {"appendonly": "yes", "loglevel": "warning"}


def choose(options: Options, home: Home) -> tuple[dict[str, str], list[Part]]:
    """Return the addresses and secrets of this start, and the servers to run."""
    kept = home.kept()
    servers = []
    addresses = {
        "DATABASE_URL": options.database_url,
        "DATABASE_OWNER_URL": options.database_owner_url,
        "REDIS_URL": options.redis_url,
        "WEB_URL": options.web_url,
        "EMAIL_URL": options.email_url,
        "SECRET_KEY": options.secret_key or kept.get("SECRET_KEY") or secrets.token_urlsafe(50),
        "DEV_USER": DEV_USER,
        "DEV_PASSWORD": kept.get("DEV_PASSWORD") or secrets.token_urlsafe(12),
    }
    if not options.database_url:
        kept_url = kept.get("DATABASE_URL", "")
        postgres = Postgres(home.root / "postgres", home.port_of(kept_url))
        addresses["DATABASE_OWNER_URL"] = postgres.url
        addresses["DATABASE_URL"] = postgres.url_of(APP_ROLE, _password_of(kept_url))
        servers.append(postgres_part(postgres))
    if not options.redis_url:
        valkey = Valkey(home.root / "redis", home.port_of(kept.get("REDIS_URL", "")), REDIS_OPTIONS)
        addresses["REDIS_URL"] = valkey.url
        servers.append(redis_part(valkey))
    if not options.email_url:
        port = home.port_of(kept.get("EMAIL_URL", ""))
        addresses["EMAIL_URL"] = f"smtp://127.0.0.1:{port}"
        servers.append(mail_part(port, home, environment(options, addresses)))
    return addresses, servers


def _password_of(kept_url: str) -> str:
    """Return the password of an earlier start, or a new one; `migrate` sets it in PostgreSQL."""
    kept = urlsplit(kept_url)
    return kept.password if kept.username == APP_ROLE and kept.password else secrets.token_urlsafe(24)
