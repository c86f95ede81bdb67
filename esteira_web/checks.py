"""Django's system checks of what the pages and the API need of a project: each names the setting and a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.conf import settings
from django.contrib.auth import get_user_model
from django.core import checks
from django.core.checks import CheckMessage, register
from django.core.exceptions import FieldDoesNotExist

APPS = (
    "django.contrib.auth",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
)
MIDDLEWARE = (
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
)


@register("esteira")
def check_web(app_configs: Any = None, **_: Any) -> list[CheckMessage]:
    """Check the apps, the middleware, the templates and the user model."""
    return [*_apps(), *_templates(), *_user()]


def _apps() -> Iterator[CheckMessage]:
    for name in APPS:
        if not apps.is_installed(name):
            fix = f"Add {name!r} to INSTALLED_APPS, or remove 'esteira_web': the core runs jobs without it."
            yield _error(1, f"esteira_web needs the app {name}.", fix)
    for name in MIDDLEWARE:
        if not any(_is(one, name) for one in settings.MIDDLEWARE):
            yield _error(
                2, f"esteira_web needs the middleware {name}.", "Add it, or a subclass, to MIDDLEWARE."
            )


def _is(path: str, wanted: str) -> bool:
    """Return whether a middleware is this one, or has the same name: a project may have a subclass of its own."""
    return path == wanted or path.rpartition(".")[2] == wanted.rpartition(".")[2]


def _templates() -> Iterator[CheckMessage]:
    for one in settings.TEMPLATES:
        if one.get("BACKEND") == "django.template.backends.django.DjangoTemplates":
            options: Any = one.get("OPTIONS", {})
            if one.get("APP_DIRS") or "loaders" in options:
                return
            break
    fix = "Add Django's template backend with APP_DIRS = True to TEMPLATES."
    yield _error(3, "The pages cannot find their templates.", fix)


def _user() -> Iterator[CheckMessage]:
    """Roles are groups, so a user model needs them."""
    user: Any = get_user_model()._meta
    for name in ("groups", "is_superuser", "is_active"):
        try:
            user.get_field(name)
        except FieldDoesNotExist:
            fix = "Let it inherit PermissionsMixin and have is_active: the roles of the pages and the API are groups."
            yield _error(4, f"The user model {user.label} has no field {name}.", fix)


def _error(number: int, message: str, fix: str) -> CheckMessage:
    return checks.Error(message, hint=fix, id=f"esteira_web.E{number:03}")
