"""`jobs tokens`: list the tokens of the API, with owner and expiry; `jobs tokens revoke TOKEN` revokes one."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import Any

from django.db.models import Q

from esteira.errors import NotFound
from esteira.models import ClockTimestamp
from esteira_web.accounts.tokens import ApiToken
from esteira_web.cli import display
from esteira_web.cli.errors import OK, Usage
from esteira_web.cli.out import Out
from esteira_web.read.as_json import moment
from esteira_web.read.durations import ago
from esteira_web.read.find import Ambiguous

HELP = "list the tokens of the API, or revoke one"
REVOKE = "revoke"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", nargs="?", choices=[REVOKE], metavar=REVOKE, help="revoke a token now and permanently"
    )
    parser.add_argument(
        "token", nargs="?", metavar="TOKEN", help="its number, or its first characters, as in the list"
    )


def run(out: Out, options: dict[str, Any]) -> int:
    if options["what"] != REVOKE:
        _list(out)
        return OK
    if not options["token"]:
        raise Usage("usage.token")
    token = _found(options["token"])
    said = _facts(token)
    token.delete()
    if out.as_json:
        out.data(said)
    else:
        out.say(f"Revoked {said['name']} ({said['prefix']}…) of {said['user']}.")
    return OK


def _tokens() -> Any:
    return ApiToken.objects.annotate(db_now=ClockTimestamp()).select_related("user")


def _found(ref: str) -> Any:
    """Return the one token for a number or prefix; raises NotFound or Ambiguous."""
    which = Q(prefix__startswith=ref.replace("\0", "")[:100])
    if ref.isascii() and ref.isdigit() and len(ref) <= 18:
        which = Q(pk=int(ref))
    found = list(_tokens().filter(which)[:4])
    if not found:
        raise NotFound("token", ref[:100])
    if len(found) > 1:
        raise Ambiguous("ambiguous.token", ref=ref, numbers=[str(one.pk) for one in found])
    return found[0]


def _list(out: Out) -> None:
    tokens = list(_tokens().order_by("user_id", "pk"))
    if out.as_json:
        for one in tokens:
            out.data(_facts(one))
    elif tokens:
        table = display.grid("", "begins", "name", "account", "role", "made", "ends", "last used")
        for one in tokens:
            now: datetime = one.db_now
            ends = ago(one.expires_at, now) if one.expires_at else "never"
            role = f"{one.role} of {', '.join(one.types)}" if one.types else one.role
            user = one.user.get_username() + ("" if one.user.is_active else " (closed)")
            used = ago(one.last_used_at, now) or "never"
            table.add_row(str(one.pk), one.prefix, one.name, user, role, ago(one.created_at, now), ends, used)
        out.show(table)
    else:
        out.say("There are no tokens.")


def _facts(token: Any) -> dict[str, Any]:
    return {
        "id": token.pk,
        "prefix": token.prefix,
        "name": token.name,
        "user": token.user.get_username(),
        "active": token.user.is_active,
        "role": token.role,
        "types": token.types,
        "sees_all": token.sees_all,
        "sees_payloads": token.sees_payloads,
        "created_at": moment(token.created_at),
        "expires_at": moment(token.expires_at),
        "last_used_at": moment(token.last_used_at),
    }
