"""Bearer tokens for the API: shown once, kept as a checksum, never mightier than the account they belong to."""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import timedelta
from functools import cache
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.db import models

from esteira import bounds
from esteira.db import Orm
from esteira.errors import InvalidOption
from esteira.models import ClockTimestamp
from esteira.models.within import moments
from web.access import SCOPES, Access, Role, Scope, scopes_of

MARK = "esteira_"
SHOWN = len(MARK) + 6
_SECRET = re.compile(MARK + r"[A-Za-z0-9_-]{43}")


class ApiToken(models.Model):
    """A token; its secret is random, so a plain checksum of it is as good as a slow one."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="esteira_tokens"
    )
    name = models.CharField(max_length=80)
    prefix = models.CharField(max_length=16)
    sha256 = models.CharField(max_length=64, unique=True)
    role = models.CharField(max_length=16, choices=[(str(role), str(role)) for role in Role])
    sees_payloads = models.BooleanField(default=False)
    created_at = models.DateTimeField(db_default=ClockTimestamp())
    expires_at = models.DateTimeField(null=True)
    last_used_at = models.DateTimeField(null=True)

    class Meta:
        constraints = [models.CheckConstraint(condition=moments("expires_at"), name="token_moments")]

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"


def create_token(
    user: Any,
    name: str,
    *,
    role: str = Role.SUBMITTER,
    expires_in: timedelta | None = None,
    sees_payloads: bool | None = None,
) -> tuple[ApiToken, str]:
    """Make a token; return it with its secret, which cannot be had again.

    `sees_payloads` lets a viewer's token read parameters, results, logs and files too; other roles do anyway.
    Raises InvalidOption.
    """
    if role not in set(Role):
        raise InvalidOption("role", f"must be one of {', '.join(Role)}, not {role!r}.")
    if not name.strip() or len(name) > bounds.TOKEN_NAME.most or not name.isprintable():
        raise InvalidOption("name", "must be 1 to 80 printable characters.")
    if expires_in is not None:
        bounds.TOKEN_LIFE.check("expires_in", expires_in)
    secret = MARK + secrets.token_urlsafe(32)
    token = ApiToken.objects.create(
        user=user,
        name=name.strip(),
        prefix=secret[:SHOWN],
        sha256=_checksum(secret),
        role=role,
        sees_payloads=bool(sees_payloads),
        expires_at=None if expires_in is None else ClockTimestamp() + expires_in,
    )
    token.refresh_from_db()
    return token, secret


def access_by(secret: str) -> Access | None:
    """Return what the bearer of a token may do now; None if it is unknown, expired, or its account is closed.

    One query; a second one, at most once a minute, keeps the time of its last use.
    """
    if not _SECRET.fullmatch(secret):
        return None
    db = Orm()
    rows = db.fetch(_look_up(), [_checksum(secret)])
    if not rows:
        return None
    token_id, name, role, sees_payloads, user_id, username, superuser, groups, long_ago = rows[0]
    if long_ago:
        # Somebody may be changing the token; what it was last used for is not worth waiting for.
        db.fetch(
            """UPDATE web_apitoken SET last_used_at = clock_timestamp()
               WHERE id = (SELECT id FROM web_apitoken WHERE id = %s FOR NO KEY UPDATE SKIP LOCKED)""",
            [token_id],
        )
    granted = SCOPES[Role(role)] | ({Scope.PAYLOADS} if sees_payloads else set())
    return Access(
        by=f"{username} / {name}",
        key=f"token:{token_id}",
        account=f"user:{user_id}",
        scopes=frozenset(granted & scopes_of(superuser, groups)),
    )


@cache
def _look_up() -> str:
    """Write the query in SQL: every API request makes it, and through the ORM it would take four times as long."""
    user: Any = get_user_model()._meta
    member = user.get_field("groups")
    return f"""
        SELECT t.id, t.name, t.role, t.sees_payloads, u.{user.pk.column},
          u.{user.get_field(user.model.USERNAME_FIELD).column},
          u.is_superuser, ARRAY(
            SELECT g.name FROM {Group._meta.db_table} g
            JOIN {member.m2m_db_table()} m ON m.{member.m2m_reverse_name()} = g.id
            WHERE m.{member.m2m_column_name()} = u.{user.pk.column}),
          coalesce(t.last_used_at < clock_timestamp() - interval '1 minute', true)
        FROM web_apitoken t JOIN {user.db_table} u ON u.{user.pk.column} = t.user_id
        WHERE t.sha256 = %s AND u.is_active AND (t.expires_at IS NULL OR t.expires_at > clock_timestamp())"""


def _checksum(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
