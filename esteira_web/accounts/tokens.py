"""Bearer tokens for the API: a token is shown once, stored as a checksum, and never has more rights than its account.

A token expires after 90 days unless another time is given. Its creation, its revocation and each refusal are logged,
with at most its first characters, which give no access.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.db import models

from esteira.db import DjangoConnection
from esteira.errors import InvalidOption
from esteira.models import ClockTimestamp
from esteira.models.within import moments
from esteira.values import bounds
from esteira_web.accounts.roles import SCOPES, Access, Role, Scope, account_key, limits_of, scopes_of
from esteira_web.server.rarely import Rarely

MARK = "esteira_"
LIFE = timedelta(days=90)
SHOWN = len(MARK) + 6
_SECRET = re.compile(MARK + r"[A-Za-z0-9_-]{43}")
_PATTERN = re.compile(r"[\w.*-]{1,120}")
MOST_TYPES = 50

log = logging.getLogger("esteira_web.accounts")
rarely = Rarely(log)


class ApiToken(models.Model):
    """A token; its secret is random, so a fast checksum protects it as well as a slow hash."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="esteira_tokens"
    )
    name = models.CharField(max_length=80)
    prefix = models.CharField(max_length=16)
    sha256 = models.CharField(max_length=64, unique=True)
    role = models.CharField(max_length=16, choices=[(str(role), str(role)) for role in Role])
    sees_payloads = models.BooleanField(default=False)
    # A submitter's token sees the jobs of its own account; with this flag it sees all jobs that its account may see.
    sees_all = models.BooleanField(default=False, db_default=False)
    # The job types that it may submit, each a name or a pattern such as email.*; an empty list means all.
    types = models.JSONField(default=list, db_default=models.Value([], models.JSONField()), blank=True)
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
    expires_in: timedelta | None = LIFE,
    sees_payloads: bool | None = None,
    sees_all: bool = False,
    types: Sequence[str] = (),
    by: str = "",
) -> tuple[ApiToken, str]:
    """Make a token; return it with its secret, which cannot be shown again. With `expires_in=None` it never expires.

    With `sees_payloads` it may read parameters, results, logs and files of all jobs that it sees; with `sees_all`, a
    submitter's token sees the jobs of other accounts. An operator's token may do both anyway. `types` limits the job
    types that a submitter's token may submit. Raises InvalidOption.
    """
    if role not in set(Role):
        raise InvalidOption("role", "not-one-of", allowed=list(Role), given=repr(role))
    bounds.TOKEN_NAME.check("name", name)
    _check_types(types, role)
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
        sees_all=sees_all,
        types=list(types),
        expires_at=None if expires_in is None else ClockTimestamp() + expires_in,
    )
    token.refresh_from_db()
    until = token.expires_at.isoformat(timespec="seconds") if token.expires_at else "without end"
    log.info(
        "token %s (%s…) of user:%s was made by %s: %s, %s", token.pk, token.prefix, user.pk, by, role, until
    )
    return token, secret


def access_by(secret: str, *, source: str = "") -> Access | None:
    """Return the current rights of a token; None if the token is unknown or expired, or its account is closed.

    This makes one query; at most once a minute, a second one stores the time of the last use. `source` is for the log.
    """
    if not _SECRET.fullmatch(secret):
        rarely.warning("a token from %s was refused: it does not have the form of a token", source)
        return None
    db = DjangoConnection()
    rows = db.fetch(_look_up(), [_checksum(secret)])
    if not rows:
        rarely.warning("token %s… from %s was refused: it is unknown, or was revoked", secret[:SHOWN], source)
        return None
    token = _Found(*rows[0])
    if token.expired or not token.active:
        why = "it has expired" if token.expired else "its account is closed"
        rarely.warning("token %s (%s…) from %s was refused: %s", token.id, secret[:SHOWN], source, why)
        return None
    if token.long_ago:
        # If a transaction has locked the token, this skips it: the time of its last use is not worth waiting for.
        db.fetch(
            """UPDATE esteira_web_apitoken SET last_used_at = clock_timestamp()
               WHERE id = (SELECT id FROM esteira_web_apitoken WHERE id = %s FOR NO KEY UPDATE SKIP LOCKED)""",
            [token.id],
        )
    granted = set(SCOPES[Role(token.role)])
    granted |= {Scope.PAYLOADS} if token.sees_payloads else set()
    granted |= {Scope.READ} if token.sees_all else set()
    own_limit = (frozenset(token.types),) if token.types else ()
    return Access(
        by=f"{token.username} / {token.name}",
        key=f"token:{token.id}",
        account=account_key(token.user_id),
        scopes=frozenset(granted & scopes_of(token.superuser, token.groups)),
        limits=(*own_limit, *limits_of(token.superuser, token.groups)),
    )


class _Found(NamedTuple):
    """A row of the look-up: the token, and the current state of its account."""

    id: int
    name: str
    role: str
    sees_payloads: bool
    sees_all: bool
    types: list[str]
    expired: bool
    user_id: object
    username: str
    active: bool
    superuser: bool
    groups: list[str]
    long_ago: bool


@cache
def _look_up() -> str:
    """Return the query as SQL: every API request runs it, and the ORM would take four times as long."""
    user: Any = get_user_model()._meta
    member = user.get_field("groups")
    return f"""
        SELECT t.id, t.name, t.role, t.sees_payloads, t.sees_all, ARRAY(SELECT jsonb_array_elements_text(t.types)),
          coalesce(t.expires_at <= clock_timestamp(), false),
          t.user_id, u.{user.get_field(user.model.USERNAME_FIELD).column}, u.is_active, u.is_superuser, ARRAY(
            SELECT g.name FROM {Group._meta.db_table} g
            JOIN {member.m2m_db_table()} m ON m.{member.m2m_reverse_name()} = g.id
            WHERE m.{member.m2m_column_name()} = u.{user.pk.column}),
          coalesce(t.last_used_at < clock_timestamp() - interval '1 minute', true)
        FROM esteira_web_apitoken t JOIN {user.db_table} u ON u.{user.pk.column} = t.user_id
        WHERE t.sha256 = %s"""


def _check_types(types: Sequence[str], role: str) -> None:
    if types and role != Role.SUBMITTER:
        raise InvalidOption("types", "limited-role", role=role)
    if len(types) > MOST_TYPES:
        raise InvalidOption("types", "too-many-types", count=len(types), most=MOST_TYPES)
    if odd := [one for one in types if not _PATTERN.fullmatch(one)]:
        raise InvalidOption("types", "not-a-pattern", given=bounds.shown(odd[0]))


def _checksum(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _revoked(instance: ApiToken, **_: Any) -> None:
    log.info("token %s (%s…) of user:%s was revoked", instance.pk, instance.prefix, instance.user_id)


models.signals.post_delete.connect(_revoked, sender=ApiToken, dispatch_uid="esteira_web.accounts")
