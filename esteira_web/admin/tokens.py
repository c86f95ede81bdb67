"""API tokens in Django's admin: owner, rights and last use of each, and a way to delete it.

Tokens are made with `manage.py jobs token`, because a secret is shown once and a form would show it on the next page
too. Accounts and groups have Django's own pages, with one change: their lists accept only the filters they offer.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.http import HttpRequest

from esteira_web.accounts.tokens import ApiToken
from esteira_web.admin.asked import OnlyWhatIsOffered

for model in (get_user_model(), Group):
    # Another app may have registered its own page; the subclass keeps its behaviour.
    if page := admin.site._registry.get(model):
        admin.site.unregister(model)
        admin.site.register(model, type(type(page).__name__, (OnlyWhatIsOffered, type(page)), {}))


@admin.register(ApiToken)
class ApiTokenAdmin(OnlyWhatIsOffered):
    list_display = (
        "name",
        "user",
        "prefix",
        "role",
        "types",
        "sees_all",
        "sees_payloads",
        "created_at",
        "expires_at",
        "last_used_at",
    )
    list_filter = ("role",)
    list_select_related = ("user",)
    search_fields = ("name", "prefix", "user__username")
    exclude = ("sha256",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
