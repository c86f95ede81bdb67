"""API tokens in Django's admin: owner, rights and last use of each, and a way to delete it.

Tokens are made with `manage.py jobs token`, because a secret is shown once and a form would show it on the next page
too.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.http import HttpRequest

from esteira_web.accounts.tokens import ApiToken
from esteira_web.admin.asked import OnlyWhatIsOffered


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
    search_fields = ("name", "prefix", f"user__{get_user_model().USERNAME_FIELD}")
    exclude = ("sha256",)

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
