"""Signing in and out."""

from __future__ import annotations

from django.contrib.auth.views import LoginView, LogoutView


class LogIn(LoginView):
    """Sign in, then redirect to the address that the user asked for."""

    template_name = "esteira_web/login.html"


class LogOut(LogoutView):
    """Sign out, by POST only."""
