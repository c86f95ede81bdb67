"""Change one's own password: the form asks for the old password, with the same limits on failures as at the sign-in.

A person who finds an open session must not be able to guess the password with it.
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
    """The admin's page for the password change; there is no other page for it."""

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
