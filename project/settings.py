"""Every setting, from the environment; `.env.example` mirrors the headings and the order.

Any variable may come from a file instead: `SECRET_KEY_FILE=/run/secrets/key`. While `make run` runs, the addresses of
its embedded servers are read from `.esteira/env`, so that `manage.py` needs no settings. Durations have their unit in
the name. Settings that begin with `ESTEIRA_` are those of the apps; `esteira.defaults` has them all.
The variables in `jobs.env` are for the jobs: they never change a setting.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, ClassVar

import environ
from django.conf import global_settings
from django.core.exceptions import ImproperlyConfigured

from project.addresses import checked, not_set
from project.jobs_env import load_jobs_env
from project.public import public, yes

BASE_DIR = Path(__file__).resolve().parent.parent


class Env(environ.FileAwareEnv):
    """Reads NAME_FILE too; the newline at the end of a file is not part of a secret. Records the names it read."""

    asked: ClassVar[set[str]] = set()

    def get_value(self, var, cast=None, default=environ.Env.NOTSET, parse_default=False):  # type: ignore[no-untyped-def]
        self.asked.update((var, f"{var}_FILE"))
        value = super().get_value(var, cast, default, parse_default)
        return value.strip() if isinstance(value, str) else value


env = Env()


def _read(file: Path) -> None:
    """Load the variables of a file that the environment does not set."""
    if os.access(file, os.R_OK):
        env.read_env(str(file), overwrite=False)


# --- Core -------------------------------------------------------------------------------------------------------------
_read(BASE_DIR / ".env")
ESTEIRA_DATA_DIR = Path(env.str("DATA_DIR", default=str(BASE_DIR / ".esteira")))
ESTEIRA_RUN_DIR = Path(env.str("RUN_DIR", default=str(ESTEIRA_DATA_DIR / "run")))
_read(ESTEIRA_DATA_DIR / "env")

DEBUG = env.bool("DEBUG", default=False)
ESTEIRA_MANAGE_COMMAND = env.str("MANAGE_COMMAND", default="manage.py")
ESTEIRA_MIGRATE_COMMAND = env.str("MIGRATE_COMMAND", default="") or f"{ESTEIRA_MANAGE_COMMAND} migrate"
SECRET_KEY = env.str("SECRET_KEY", default="")
if not SECRET_KEY:
    raise ImproperlyConfigured(not_set("SECRET_KEY"))
TIME_ZONE = "UTC"
USE_TZ = True
LANGUAGE_CODE = "en"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "esteira",
    "esteira_web",
]
MIDDLEWARE = [
    "esteira_web.server.middleware.EdgeMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "esteira_web.server.middleware.ClosedByDefaultMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "esteira_web.accounts.login.SignInMiddleware",
    "esteira_web.accounts.idle.IdleMiddleware",
]
ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
AUTHENTICATION_BACKENDS = ["esteira_web.accounts.login.ThrottledBackend"]
MESSAGE_STORAGE = "django.contrib.messages.storage.cookie.CookieStorage"
PASSWORD_HASHERS = ["esteira_web.accounts.hashing.BesideRequests", *global_settings.PASSWORD_HASHERS[1:]]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]

# --- Database ---------------------------------------------------------------------------------------------------------
DATABASE_URL = checked("DATABASE_URL", env.str("DATABASE_URL", default=""))
if not DATABASE_URL:
    raise ImproperlyConfigured(not_set("DATABASE_URL"))
# The role that owns the tables and migrates, if it differs from the role that works with the rows.
DATABASE_OWNER_URL = checked("DATABASE_OWNER_URL", env.str("DATABASE_OWNER_URL", default=""))


def _database(name: str, url: str) -> dict[str, Any]:
    found = dict(env.db_url_config(url))
    if found["ENGINE"] != "django.db.backends.postgresql":
        raise ImproperlyConfigured(f"{name} must begin with postgresql://; Esteira supports PostgreSQL only.")
    return {**found, "OPTIONS": {"connect_timeout": 3, **found.get("OPTIONS", {})}}


DATABASES = {
    "default": {
        **_database("DATABASE_URL", DATABASE_URL),
        "CONN_MAX_AGE": env.int("DATABASE_MAX_AGE_SECONDS", default=60),
        "CONN_HEALTH_CHECKS": True,
    }
}
ESTEIRA_DATABASE_OWNER = _database("DATABASE_OWNER_URL", DATABASE_OWNER_URL) if DATABASE_OWNER_URL else {}

# --- Redis ------------------------------------------------------------------------------------------------------------
ESTEIRA_REDIS_URL = checked("REDIS_URL", env.str("REDIS_URL", default="redis://127.0.0.1:6379/0"))
ESTEIRA_REDIS_PREFIX = env.str("REDIS_PREFIX", default="esteira:")

# --- Celery -----------------------------------------------------------------------------------------------------------
ESTEIRA_CONCURRENCY = env.str("CONCURRENCY", default="auto")
ESTEIRA_CELERY_EVENTS = env.bool("CELERY_EVENTS", default=True)
ESTEIRA_CELERY_CONTROL = env.str("CELERY_CONTROL", default="read")
ESTEIRA_MAX_JOBS_PER_CHILD = env.int("MAX_JOBS_PER_CHILD", default=20_000)
ESTEIRA_MAX_MEMORY_PER_CHILD_MB = env.int("MAX_MEMORY_PER_CHILD_MB", default=300)
if ESTEIRA_CELERY_CONTROL not in {"read", "all", "off"}:
    raise ImproperlyConfigured("CELERY_CONTROL must be read, all or off: the rights of remote control.")

# --- Jobs -------------------------------------------------------------------------------------------------------------
ESTEIRA_JOB_PACKAGES = env.list("JOB_PACKAGES", default=["jobs"])
ESTEIRA_JOB_QUEUES = env.list("JOB_QUEUES", default=[])
ESTEIRA_LEASE_SECONDS = env.float("LEASE_SECONDS", default=10.0)
ESTEIRA_DRAIN_SECONDS = env.float("DRAIN_SECONDS", default=25.0)
ESTEIRA_KEEPER_SECONDS = env.float("KEEPER_SECONDS", default=0.5)
ESTEIRA_WINDOW = env.int("WINDOW", default=1000)
ESTEIRA_RETENTION_DAYS = env.float("RETENTION_DAYS", default=30.0)
ESTEIRA_FILES_MAX_TOTAL = env.int("FILES_MAX_TOTAL", default=10 * 1024**3)
ESTEIRA_FILES_MAX_PER_ACCOUNT = env.int("FILES_MAX_PER_ACCOUNT", default=2 * 1024**3)
if not 1 <= ESTEIRA_LEASE_SECONDS <= 86_400:
    raise ImproperlyConfigured(
        "LEASE_SECONDS must be 1 to 86400: shorter leases end in ordinary pauses, and lost jobs wait for a whole lease."
    )

# --- HTTP -------------------------------------------------------------------------------------------------------------
# Compose may give a range of ports: use the first one.
ESTEIRA_WEB_URL = re.sub(r"(:\d+)-\d+$", r"\1", env.str("WEB_URL", default=""))
FOUND = public(ESTEIRA_WEB_URL)
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"]) + FOUND.hosts
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[]) + FOUND.origins
ESTEIRA_BEHIND_TLS = yes(env.str("BEHIND_TLS", default=""), otherwise=FOUND.tls)
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = ESTEIRA_BEHIND_TLS
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if ESTEIRA_BEHIND_TLS else None
SECURE_HSTS_SECONDS = 31_536_000 if ESTEIRA_BEHIND_TLS else 0
CSRF_FAILURE_VIEW = "esteira_web.server.middleware.csrf_failure"
X_FRAME_OPTIONS = "DENY"
LOGIN_URL = "/login/"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "/login/"
SESSION_COOKIE_AGE = env.int("SESSION_IDLE_SECONDS", default=28_800)
if SESSION_COOKIE_AGE < 60:
    raise ImproperlyConfigured(
        "SESSION_IDLE_SECONDS must be at least 60: people read a page for longer than that."
    )
ESTEIRA_WEB_THREADS = env.int("WEB_THREADS", default=8)
ESTEIRA_METRICS_PORT = env.int("METRICS_PORT", default=9090)
ESTEIRA_FLOWER_URL = env.str("FLOWER_URL", default="")
DATA_UPLOAD_MAX_MEMORY_SIZE = 8 * 1024**2

# --- Static -----------------------------------------------------------------------------------------------------------
STATIC_URL = "/static/"
STATIC_ROOT = Path(env.str("STATIC_ROOT", default=str(ESTEIRA_DATA_DIR / "static")))
SERVESTATIC_USE_FINDERS = True
SERVESTATIC_AUTOREFRESH = DEBUG
SERVESTATIC_ALLOW_ALL_ORIGINS = False  # static files are for the pages of this site only

# --- Mail -------------------------------------------------------------------------------------------------------------
EMAIL_URL = env.str("EMAIL_URL", default="")
if EMAIL_URL:
    vars().update(env.email_url_config(checked("EMAIL_URL", EMAIL_URL)))
else:
    EMAIL_BACKEND = "project.email_backend.NoServer"
EMAIL_TIMEOUT = env.int("EMAIL_TIMEOUT_SECONDS", default=20)
DEFAULT_FROM_EMAIL = env.str("DEFAULT_FROM_EMAIL", default="esteira@localhost")

# --- Logging ----------------------------------------------------------------------------------------------------------
LOG_LEVEL = env.str("LOG_LEVEL", default="INFO").upper()
if LOG_LEVEL not in {"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"}:
    raise ImproperlyConfigured(f"LOG_LEVEL must be DEBUG, INFO, WARNING, ERROR or CRITICAL, not {LOG_LEVEL}.")
LOG_FORMAT = env.str("LOG_FORMAT", default="text")
LOGGING_CONFIG = None  # project.logging configures logging in every process

NOT_FOR_JOBS = load_jobs_env(BASE_DIR / "jobs.env", env.asked)
