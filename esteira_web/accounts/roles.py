"""Rights: roles are bundles of scopes, for people (by Django's groups) and for API tokens alike.

Access is closed by default: an account without one of the groups may do nothing, a superuser everything. A submitter
sees, reads and cancels the jobs of its own account; to it, other jobs do not exist. To read the payload of jobs
(parameters, result, log, files) is a separate right, because the payload holds other people's data.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import Any, Protocol

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser

from esteira.errors import EsteiraError
from esteira_web.server.rarely import Rarely

log = Rarely(logging.getLogger("esteira_web.accounts"))

GROUP_PREFIX = "esteira-"
PAYLOADS_GROUP = f"{GROUP_PREFIX}payloads"


class Scope(StrEnum):
    """One right."""

    OWN = "jobs:read:own"
    READ = "jobs:read"
    SUBMIT = "jobs:submit"
    OPERATE = "jobs:operate"
    QUEUES = "queues:operate"
    PAYLOADS = "payloads:read"


class Role(StrEnum):
    """A bundle of rights. An operator has all; viewer and submitter share only the right to see their own jobs."""

    VIEWER = "viewer"
    SUBMITTER = "submitter"
    OPERATOR = "operator"


SCOPES: dict[Role, frozenset[Scope]] = {
    Role.VIEWER: frozenset({Scope.OWN, Scope.READ}),
    Role.SUBMITTER: frozenset({Scope.OWN, Scope.SUBMIT}),
    Role.OPERATOR: frozenset(Scope),
}
#: Groups of submitters that may submit some job types only, such as esteira-submitter:email.*
LIMITED_PREFIX = f"{GROUP_PREFIX}{Role.SUBMITTER}:"
ROLE_HELP = "Ask an administrator to put your account into one of the groups " + ", ".join(
    f"{GROUP_PREFIX}{role}" for role in Role
)


class Forbidden(EsteiraError):
    """The account or token lacks a right."""

    code = "forbidden"
    status = 403

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope=scope, help=ROLE_HELP)


class ForbiddenType(EsteiraError):
    """The account or token may submit, but not jobs of this type."""

    code = "forbidden-type"
    problem = Forbidden.code
    status = 403

    def __init__(self, name: str, limit: Iterable[str]) -> None:
        super().__init__(allowed=sorted(limit), name=name[:130])


class Submitted(Protocol):
    """The one field of a job that decides about rights: the account that submitted it, or None."""

    account: str | None


@dataclass(frozen=True, kw_only=True)
class Access:
    """The rights of a recognised caller: `by` is the name in events, `key` identifies the account or token.

    `account` is the same for a person and all their tokens, and does not change when the account is renamed. A job type
    to submit must match a pattern in each of the `limits`.
    """

    by: str
    key: str
    account: str
    scopes: frozenset[Scope]
    limits: tuple[frozenset[str], ...] = ()

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes

    def need(self, scope: Scope) -> Access:
        """Return this access; raises Forbidden if it lacks the right."""
        if scope not in self.scopes:
            log.warning("%s of %s was refused: it lacks the right %s", self.key, self.account, scope)
            raise Forbidden(scope)
        return self

    def need_type(self, name: str) -> None:
        """Raise ForbiddenType for a job type that this account or token may not submit."""
        for limit in self.limits:
            if not matches(name, limit):
                log.warning(
                    "%s of %s was refused: it may not submit jobs of this type", self.key, self.account
                )
                raise ForbiddenType(name, limit)

    @property
    def only_account(self) -> str | None:
        """The account to which lists of jobs are limited; None if the caller may see all jobs."""
        return None if self.may(Scope.READ) else self.account

    def owns(self, job: Submitted) -> bool:
        return job.account is not None and job.account == self.account

    def sees(self, job: Submitted) -> bool:
        """Return whether the caller may see that this job exists."""
        return self.may(Scope.READ) or (self.may(Scope.OWN) and self.owns(job))

    def reads(self, job: Submitted) -> bool:
        """Return whether the caller may read the job's parameters, result, log and files."""
        return self.may(Scope.PAYLOADS) or (self.may(Scope.SUBMIT) and self.owns(job))

    def cancels(self, job: Submitted) -> bool:
        return self.may(Scope.OPERATE) or (self.may(Scope.SUBMIT) and self.owns(job))


def scopes_of(superuser: bool, groups: Iterable[str]) -> frozenset[Scope]:
    """Return the rights of an account in these groups."""
    if superuser:
        return frozenset(Scope)
    names = set(groups)
    found: set[Scope] = {Scope.PAYLOADS} if PAYLOADS_GROUP in names else set()
    for role in Role:
        if f"{GROUP_PREFIX}{role}" in names:
            found |= SCOPES[role]
    if any(name.startswith(LIMITED_PREFIX) for name in names):
        found |= SCOPES[Role.SUBMITTER]
    return frozenset(found)


def limits_of(superuser: bool, groups: Iterable[str]) -> tuple[frozenset[str], ...]:
    """Return the job types to which these groups limit submits; no limit if one of the groups allows all types."""
    names = set(groups)
    allow_all = {f"{GROUP_PREFIX}{role}" for role in (Role.SUBMITTER, Role.OPERATOR)}
    patterns = frozenset(n.removeprefix(LIMITED_PREFIX) for n in names if n.startswith(LIMITED_PREFIX))
    return () if superuser or names & allow_all or not patterns else (patterns,)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Return whether the name of a job type is one of these, or matches one with asterisks, such as email.*."""
    return any(fnmatchcase(name, one.replace("[", "[[]").replace("?", "[?]")) for one in patterns)


def of_session(user: AbstractBaseUser | AnonymousUser) -> Access | None:
    """Return the rights of the signed-in user; None without a sign-in."""
    account: Any = user
    if not account.is_authenticated:
        return None
    groups = () if account.is_superuser else list(account.groups.values_list("name", flat=True))
    key = account_key(account.pk)
    return Access(
        by=account.get_username(),
        key=key,
        account=key,
        scopes=scopes_of(account.is_superuser, groups),
        limits=limits_of(account.is_superuser, groups),
    )


def account_key(user_id: object) -> str:
    """Return the identifier of an account. Its name is not enough, because a name can pass to another account."""
    return f"user:{user_id}"
