"""Who may do what: roles are bundles of scopes, for people (by Django's groups) and for API tokens alike.

Closed by default: an account without one of the groups may do nothing, a superuser everything. What a job was given
and what it produced (parameters, result, log, files) is a right of its own, because it holds other people's data.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser

from esteira.errors import EsteiraError

GROUP_PREFIX = "esteira-"
PAYLOADS_GROUP = f"{GROUP_PREFIX}payloads"


class Scope(StrEnum):
    """One right."""

    READ = "jobs:read"
    SUBMIT = "jobs:submit"
    OPERATE = "jobs:operate"
    QUEUES = "queues:operate"
    PAYLOADS = "payloads:read"


class Role(StrEnum):
    """A bundle of rights; each holds those of the one before."""

    VIEWER = "viewer"
    SUBMITTER = "submitter"
    OPERATOR = "operator"


SCOPES: dict[Role, frozenset[Scope]] = {
    Role.VIEWER: frozenset({Scope.READ}),
    Role.SUBMITTER: frozenset({Scope.READ, Scope.PAYLOADS, Scope.SUBMIT}),
    Role.OPERATOR: frozenset(Scope),
}
ROLE_HELP = "Ask an administrator to put your account into one of the groups " + ", ".join(
    f"{GROUP_PREFIX}{role}" for role in Role
)


class Forbidden(EsteiraError):
    """The account or token lacks a right."""

    code = "forbidden"
    status = 403

    def __init__(self, scope: Scope) -> None:
        super().__init__(
            f"This account or token lacks the right {scope}. {ROLE_HELP}, or use a token with more rights."
        )


@dataclass(frozen=True, kw_only=True)
class Access:
    """Somebody who was recognised: `by` is what events and jobs keep, `key` tells accounts and tokens apart.

    `account` is the account itself, whichever of its tokens came.
    """

    by: str
    key: str
    account: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes

    def need(self, scope: Scope) -> Access:
        """Return itself; raises Forbidden without the right."""
        if scope not in self.scopes:
            raise Forbidden(scope)
        return self


def scopes_of(superuser: bool, groups: Iterable[str]) -> frozenset[Scope]:
    """Return the rights of an account in these groups."""
    if superuser:
        return frozenset(Scope)
    names = set(groups)
    found: set[Scope] = {Scope.PAYLOADS} if PAYLOADS_GROUP in names else set()
    for role in Role:
        if f"{GROUP_PREFIX}{role}" in names:
            found |= SCOPES[role]
    return frozenset(found)


def of_session(user: AbstractBaseUser | AnonymousUser) -> Access | None:
    """Return what the signed-in user may do, None if nobody is signed in."""
    account: Any = user
    if not account.is_authenticated:
        return None
    groups = () if account.is_superuser else account.groups.values_list("name", flat=True)
    scopes = scopes_of(account.is_superuser, groups)
    key = f"user:{account.pk}"
    return Access(by=account.get_username(), key=key, account=key, scopes=scopes)
