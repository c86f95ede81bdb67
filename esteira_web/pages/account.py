"""Signing in and out."""

from __future__ import annotations

from django.conf import settings
from django.contrib.auth.views import LoginView, LogoutView
from django.shortcuts import resolve_url


class LogIn(LoginView):
    """Sign in, then redirect to the address that the user asked for."""

    template_name = "esteira_web/login.html"
    next_page = "esteira-jobs"


class LogOut(LogoutView):
    """Sign out, by POST only."""

    def get_default_redirect_url(self) -> str:
        return resolve_url(settings.LOGOUT_REDIRECT_URL or "esteira-jobs")
