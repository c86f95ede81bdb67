"""Changing one's own password: the old one is asked for, and guessed no more often than at the sign-in.

Whoever finds somebody else's session must not learn the password with it.
"""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.contrib.admin.forms import AdminPasswordChangeForm
from django.contrib.auth.views import PasswordChangeView
from django.http import HttpRequest, HttpResponse
from django.urls import reverse_lazy

from esteira_web.accounts.login import Try, counted


class ChangePassword(PasswordChangeView):
    """The admin's page for it, which is the only one."""

    form_class = AdminPasswordChangeForm
    template_name = "registration/password_change_form.html"
    success_url = reverse_lazy("admin:password_change_done")
    this: Try

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        with counted(request, str(request.user.get_username())) as self.this:
            return super().post(request, *args, **kwargs)

    def form_invalid(self, form: Any) -> HttpResponse:
        self.this.failed = "old_password" in form.errors
        return super().form_invalid(form)

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        return {**super().get_context_data(**kwargs), **admin.site.each_context(self.request)}
