"""The tokens that this process has accepted in the last two seconds: a busy client needs one look-up for many requests.

Another process may have changed a token or its account meanwhile. So for KEPT_S at most, this process accepts a token
that was revoked there, a token of an account that was closed, and rights that were removed. A change that this process
makes itself counts at once, and a token's end counts to the moment. Only checksums are kept, and only of tokens that
were accepted: a refused token is looked up each time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.db import transaction
from django.db.models.signals import m2m_changed, post_delete, post_save

from esteira_web.accounts.roles import Access
from esteira_web.accounts.tokens import ApiToken, TokenAccess, access_by, checksum

#: The time from the beginning of a look-up until its answer no longer counts.
KEPT_S = 2.0
#: The number of tokens that are kept at once.
MOST = 1_000


class Accepted:
    """The rights of accepted tokens, by checksum; safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: For each token the moment until which its rights count; the oldest look-up comes first.
        self._of: dict[str, tuple[float, TokenAccess]] = {}
        self._changes = 0

    def access_by(self, secret: str, source: Callable[[], str]) -> Access | None:
        """Return the rights of a token as they were at most KEPT_S ago; None if it is refused."""
        key, now, changes = checksum(secret), time.monotonic(), self._changes
        until, access = self._of.get(key, (now, None))
        if now < until:
            return access
        found = access_by(secret, source=source())
        if found is not None:
            self._keep(key, now + min(KEPT_S, found.life_s), found, changes)
        return found

    def forget(self, **_: Any) -> None:
        """Look every token up again: this process has changed a token or an account."""
        with self._lock:
            self._changes += 1
            self._of.clear()

    def _keep(self, key: str, until: float, access: TokenAccess, changes: int) -> None:
        with self._lock:
            if changes != self._changes:
                return  # the answer may be older than the change
            self._of.pop(key, None)
            if len(self._of) >= MOST:
                del self._of[next(iter(self._of))]
            self._of[key] = until, access


accepted = Accepted()


def watch_changes() -> None:
    """Forget the accepted tokens when this process changes a token, an account or a group."""
    user: Any = get_user_model()
    member = user._meta.get_field("groups").remote_field.through
    for model in (ApiToken, user, Group):
        for signal in (post_save, post_delete):
            signal.connect(_changed, sender=model, dispatch_uid="esteira_web.accounts.accepted")
    m2m_changed.connect(_changed, sender=member, dispatch_uid="esteira_web.accounts.accepted")


def _changed(**_: Any) -> None:
    """Forget now, for the answers of this transaction, and after its commit, for those of the others."""
    accepted.forget()
    transaction.on_commit(accepted.forget)
