"""`jobs token NAME`: create a bearer token for the API and show it once."""

from __future__ import annotations

import argparse
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AbstractBaseUser

from esteira.errors import InvalidOption, NotFound
from esteira.job_types.registry import registry
from esteira.values.bounds import TOKEN_LIFE
from esteira_web.accounts.roles import SCOPES, Role, Scope, matches, scopes_of
from esteira_web.accounts.tokens import LIFE, ApiToken, create_token
from esteira_web.cli.caller import who
from esteira_web.cli.errors import OK
from esteira_web.cli.hints import typed
from esteira_web.cli.list_jobs import ACCOUNT, given
from esteira_web.cli.out import Out
from esteira_web.read.durations import duration

HELP = "make a token for the API"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="NAME", help="the purpose of the token; people see this name where the token was used"
    )
    parser.add_argument("--role", choices=[str(role) for role in Role], default=str(Role.SUBMITTER))
    parser.add_argument(
        "--user", metavar="NAME", help="the owner of the token; required if there are several superusers"
    )
    parser.add_argument(
        "--expires",
        type=_life,
        default=LIFE.total_seconds(),
        metavar="TIME",
        help="the token is valid for this time: 12h, 30d (default: 90d); `never` means without end",
    )
    parser.add_argument(
        "--types",
        action="append",
        default=[],
        metavar="TYPE",
        help="submit jobs of this type only, or of types like email.*; repeat the option for several",
    )
    parser.add_argument(
        "--sees-all", action="store_true", help="see the jobs of all accounts, as a viewer does"
    )
    parser.add_argument(
        "--sees-payloads",
        action="store_true",
        help="read parameters, results, logs and files of all jobs that the token can see",
    )


def _life(text: str) -> float | None:
    return None if text == "never" else duration(text)


def run(out: Out, options: dict[str, Any]) -> int:
    user = _named(given("user", ACCOUNT, options)) if options["user"] is not None else _the_superuser()
    expires = options["expires"]
    if expires is not None:
        expires = timedelta(seconds=TOKEN_LIFE.check("expires", expires))
    token, secret = create_token(
        user,
        options["name"],
        role=options["role"],
        expires_in=expires,
        types=options["types"],
        sees_all=options["sees_all"],
        sees_payloads=options["sees_payloads"],
        by=who(),
    )
    if out.as_json:
        out.data({"name": token.name, "role": token.role, "user": user.get_username(), "token": secret})
    else:
        out.page.print(secret, soft_wrap=True)
        whose = f"For {token.name}, as {user.get_username()} with the role {token.role}"
        until = f"until {token.expires_at:%Y-%m-%d %H:%M} UTC" if token.expires_at else "without end"
        out.say(f"{whose}, {until}. The token is not shown again.", "dim")
    _warn_if_useless(out, user, token)
    return OK


def _named(name: str) -> AbstractBaseUser:
    users = get_user_model()
    user = users._default_manager.filter(**{users.USERNAME_FIELD: name, "is_active": True}).first()
    if user is None:
        raise NotFound("active-user", name)
    return user


def _the_superuser() -> AbstractBaseUser:
    """Return the one superuser of a small installation; raises InvalidOption if there is none, or more than one."""
    found = list(get_user_model()._default_manager.filter(is_superuser=True, is_active=True)[:2])
    if not found:
        raise InvalidOption("user", "no-superuser", command=settings.MANAGE_COMMAND)
    if len(found) > 1:
        raise InvalidOption("user", "several-superusers")
    return found[0]


def _warn_if_useless(out: Out, user: Any, token: ApiToken) -> None:
    """Warn about rights that the account lacks: a token never has more rights than its account."""
    role, names = Role(token.role), registry.names()
    for pattern in token.types:
        if not any(matches(name, [pattern]) for name in names):
            out.say(f"No job type matches {pattern}: see {typed('types')}.", "yellow")
    groups = list(user.groups.values_list("name", flat=True))
    wanted = SCOPES[role] | ({Scope.READ} if token.sees_all else set())
    lacking = wanted - scopes_of(user.is_superuser, groups)
    if lacking:
        said = ", ".join(sorted(lacking))
        out.say(
            f"{user.get_username()} lacks {said}, so this token lacks it too: see the group esteira-{role}.",
            "yellow",
        )
