"""API tokens in Django's admin: who has which, when it was used last, and a way to delete it.

They are made with `manage.py jobs token`, because a secret is shown once and a form would show it to the next page too.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from web.tokens import ApiToken


@admin.register(ApiToken)
class ApiTokenAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    list_display = (
        "name",
        "user",
        "prefix",
        "role",
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
