"""Who may do what: roles are bundles of scopes, for people (by Django's groups) and for API tokens alike.

Closed by default: an account without one of the groups may do nothing, a superuser everything. A submitter sees, reads
and cancels what its own account submitted; for it, other jobs do not exist. What a job was given and what it produced
(parameters, result, log, files) is a right of its own beyond that, because it holds other people's data.
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
    """A bundle of rights. An operator has those of the other two, which share the right to see their own jobs only."""

    VIEWER = "viewer"
    SUBMITTER = "submitter"
    OPERATOR = "operator"


SCOPES: dict[Role, frozenset[Scope]] = {
    Role.VIEWER: frozenset({Scope.OWN, Scope.READ}),
    Role.SUBMITTER: frozenset({Scope.OWN, Scope.SUBMIT}),
    Role.OPERATOR: frozenset(Scope),
}
#: Groups of submitters of some job types: esteira-submitter:email.* and the like.
LIMITED_PREFIX = f"{GROUP_PREFIX}{Role.SUBMITTER}:"
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


class ForbiddenType(EsteiraError):
    """The account or token may submit, but not jobs of this type."""

    code = "forbidden"
    status = 403

    def __init__(self, name: str, limit: Iterable[str]) -> None:
        super().__init__(
            f"This account or token may submit jobs of {', '.join(sorted(limit))} only, and not of {name[:130]!r}."
        )


class Submitted(Protocol):
    """What is looked at of a job: which account submitted it, None if none did."""

    account: str | None


@dataclass(frozen=True, kw_only=True)
class Access:
    """Somebody who was recognised: `by` is what events show, `key` tells accounts and tokens apart.

    `account` is the same for a person and all of their tokens, and stays when the account is renamed. A type to submit
    must match a pattern of each of the `limits`.
    """

    by: str
    key: str
    account: str
    scopes: frozenset[Scope]
    limits: tuple[frozenset[str], ...] = ()

    def may(self, scope: Scope) -> bool:
        return scope in self.scopes

    def need(self, scope: Scope) -> Access:
        """Return itself; raises Forbidden without the right."""
        if scope not in self.scopes:
            log.warning("%s of %s was refused: it lacks %s", self.key, self.account, scope)
            raise Forbidden(scope)
        return self

    def need_type(self, name: str) -> None:
        """Raises ForbiddenType for a job type that this account or token may not submit."""
        for limit in self.limits:
            if not matches(name, limit):
                log.warning(
                    "%s of %s was refused: it may not submit jobs of such a type", self.key, self.account
                )
                raise ForbiddenType(name, limit)

    @property
    def only_account(self) -> str | None:
        """The account whose jobs a list may show them, None if it may show all."""
        return None if self.may(Scope.READ) else self.account

    def owns(self, job: Submitted) -> bool:
        return job.account is not None and job.account == self.account

    def sees(self, job: Submitted) -> bool:
        """Whether this job exists for them."""
        return self.may(Scope.READ) or (self.may(Scope.OWN) and self.owns(job))

    def reads(self, job: Submitted) -> bool:
        """Whether they may see what the job was given and what it produced."""
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
    """Return to which job types these groups limit an account's submits; no limit if one of them allows all."""
    names = set(groups)
    allow_all = {f"{GROUP_PREFIX}{role}" for role in (Role.SUBMITTER, Role.OPERATOR)}
    patterns = frozenset(n.removeprefix(LIMITED_PREFIX) for n in names if n.startswith(LIMITED_PREFIX))
    return () if superuser or names & allow_all or not patterns else (patterns,)


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a job type's name is one of these, or fits one with stars, such as email.*."""
    return any(fnmatchcase(name, one.replace("[", "[[]").replace("?", "[?]")) for one in patterns)


def of_session(user: AbstractBaseUser | AnonymousUser) -> Access | None:
    """Return what the signed-in user may do, None if nobody is signed in."""
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
    """Return what stands for an account wherever its name would not do, because a name can change hands."""
    return f"user:{user_id}"
