"""Django's system checks of Esteira's settings: each finding names the setting and a correct value.

The checks do not use the database, so `manage.py check` works without one. They never see a job package that cannot be
imported, because that stops the start. `check --deploy` adds findings that matter only where mail is really sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, register
from django.core.management import get_commands

from esteira.broker.hint import MARKER, UNACKED, UNACKED_INDEX, UNACKED_MUTEX
from esteira.defaults import DEFAULTS, PREFIX
from esteira.files import MAX_BYTES
from esteira.job_types.registry import registry
from esteira.values.bounds import LEASE

QUEUE_NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")
#: The heartbeats of beat and of releases, and the flags of publishing, need turns at least this often.
KEEPER_MOST_S = 0.5
#: Keys that the Redis transport and the keeper use beside the lists of the queues.
TAKEN_QUEUE_NAMES = frozenset({UNACKED, UNACKED_INDEX, UNACKED_MUTEX, MARKER})
NOWHERE = ("console", "dummy", "filebased", "locmem")
HERE = ("", "localhost", "127.0.0.1", "::1")
Findings = Iterator[CheckMessage]


@register("esteira")
def check_settings(app_configs: Any = None, **_: Any) -> list[CheckMessage]:
    """Check everything that a process needs to start and to keep its promises."""
    unclear = list(_names())
    if any(finding.is_serious() for finding in unclear):
        return unclear
    groups = (
        unclear,
        _database(),
        _redis(),
        _celery(),
        _durations(),
        _limits(),
        _queues(),
        _job_types(),
        _mail(),
        _migrate(),
    )
    return [finding for group in groups for finding in group]


@register("esteira", deploy=True)
def check_deployment(app_configs: Any = None, **_: Any) -> list[CheckMessage]:
    """Check what is allowed on a laptop but not on a server."""
    return list(_mail_arrives())


def _error(number: int, message: str, fix: str) -> CheckMessage:
    return checks.Error(message, hint=fix, id=f"esteira.E{number:03}")


def _warning(number: int, message: str, fix: str) -> CheckMessage:
    return checks.Warning(message, hint=fix, id=f"esteira.W{number:03}")


def _names() -> Findings:
    """Find settings that are missing, that Esteira does not know, or that are a text in the place of a list."""
    if not settings.ESTEIRA_REDIS_URL:
        fix = (
            "Write the address of the Redis that Celery uses: ESTEIRA_REDIS_URL = 'redis://127.0.0.1:6379/0'."
        )
        yield _error(1, "ESTEIRA_REDIS_URL is not set.", fix)
    for name in ("ESTEIRA_JOB_PACKAGES", "ESTEIRA_JOB_QUEUES"):
        if isinstance(getattr(settings, name), str):
            yield _error(17, f"{name} is a text.", "Write a list of texts, also for one name.")
    known = {PREFIX + name for name in DEFAULTS}
    for name in sorted({one for one in dir(settings) if one.startswith(PREFIX)} - known):
        near = get_close_matches(name, known, n=1)
        fix = f"Write {near[0]}, or remove it." if near else "Remove it; esteira.defaults has all settings."
        yield _warning(12, f"{name} is no setting of Esteira.", fix)


def _database() -> Findings:
    main = settings.DATABASES["default"]
    if main.get("ENGINE") != "django.db.backends.postgresql":
        yield _error(
            2, f"DATABASES['default'] uses {main.get('ENGINE')}.", "Use django.db.backends.postgresql."
        )
    if main.get("OPTIONS", {}).get("pool"):
        fix = "Leave it out: the worker forks, and a pool's threads do not survive that."
        yield _error(3, "DATABASES['default']['OPTIONS'] configures a connection pool.", fix)
    if not settings.USE_TZ:
        yield _error(4, "USE_TZ is off.", "Write USE_TZ = True: every stored time has a time zone.")


def _redis() -> Findings:
    scheme = urlsplit(settings.ESTEIRA_REDIS_URL).scheme
    if scheme not in ("redis", "rediss"):
        fix = "Begin it with redis:// or, for TLS, rediss://; Sentinel and Cluster are not used."
        yield _error(5, f"ESTEIRA_REDIS_URL begins with {scheme or 'no scheme'}.", fix)
    broker = getattr(settings, "CELERY_BROKER_URL", None)  # the usual name in a project that has Celery
    if broker and broker != settings.ESTEIRA_REDIS_URL:
        fix = "Write the same address for both: workers read hints from Celery's broker."
        yield _error(18, "CELERY_BROKER_URL and ESTEIRA_REDIS_URL differ.", fix)


def _celery() -> Findings:
    wanted = str(settings.ESTEIRA_CONCURRENCY)
    if wanted != "auto" and not (wanted.isascii() and wanted.isdigit() and int(wanted) > 0):
        yield _error(
            6, f"ESTEIRA_CONCURRENCY is {wanted!r}.", "Write auto, or how many jobs a worker runs at a time."
        )
    for name, least in (("ESTEIRA_MAX_JOBS_PER_CHILD", 1), ("ESTEIRA_MAX_MEMORY_PER_CHILD_MB", 100)):
        value = getattr(settings, name)
        if value < least:
            fix = f"Write {least} or more: a pool process that is replaced after every job is slow."
            yield _error(7, f"{name} is {value}.", fix)


def _durations() -> Findings:
    lease, drain, keeper = (
        settings.ESTEIRA_LEASE_SECONDS,
        settings.ESTEIRA_DRAIN_SECONDS,
        settings.ESTEIRA_KEEPER_SECONDS,
    )
    if not LEASE.least <= lease <= LEASE.most:
        fix = f"Write {LEASE.least:g} to {LEASE.most:g}: shorter leases end during ordinary pauses."
        yield _error(8, f"ESTEIRA_LEASE_SECONDS is {lease:g}.", fix)
    if not 0 < keeper <= KEEPER_MOST_S:
        fix = f"Write {KEEPER_MOST_S:g} or less: the keeper looks for lost jobs and due schedules this often."
        yield _error(9, f"ESTEIRA_KEEPER_SECONDS is {keeper:g}.", fix)
    if drain <= 0:
        yield _error(
            10,
            f"ESTEIRA_DRAIN_SECONDS is {drain:g}.",
            "Write how long a stopping worker waits for its jobs: 25.",
        )
    elif drain <= lease:
        fix = (
            f"Write {lease * 2.5:g} or more: a stopping worker can then wait until a short outage of the "
            "database is over, and still hand its jobs back."
        )
        yield _warning(
            1, f"ESTEIRA_DRAIN_SECONDS ({drain:g}) is not longer than ESTEIRA_LEASE_SECONDS ({lease:g}).", fix
        )


def _limits() -> Findings:
    if settings.ESTEIRA_RETENTION_DAYS <= 0:
        fix = "Write how many days ended jobs are kept; 0.1 is short, 30 the default."
        yield _error(12, f"ESTEIRA_RETENTION_DAYS is {settings.ESTEIRA_RETENTION_DAYS:g}.", fix)
    if settings.ESTEIRA_WINDOW < 1:
        yield _error(
            13,
            f"ESTEIRA_WINDOW is {settings.ESTEIRA_WINDOW}.",
            "Write how many hints wait in Redis for each queue: 1000.",
        )
    if settings.ESTEIRA_FILES_MAX_TOTAL < MAX_BYTES:
        fix = f"Write {MAX_BYTES} bytes or more: one file may be as large."
        yield _warning(2, f"ESTEIRA_FILES_MAX_TOTAL is {settings.ESTEIRA_FILES_MAX_TOTAL}.", fix)
    if settings.ESTEIRA_FILES_MAX_PER_ACCOUNT < MAX_BYTES:
        fix = f"Write {MAX_BYTES} bytes or more: one upload may be as large."
        yield _warning(2, f"ESTEIRA_FILES_MAX_PER_ACCOUNT is {settings.ESTEIRA_FILES_MAX_PER_ACCOUNT}.", fix)


def _queues() -> Findings:
    for name in settings.ESTEIRA_JOB_QUEUES:
        if not QUEUE_NAME.fullmatch(name):
            fix = "Use letters, digits, '-' and '_', at most 60, and commas between the names."
            yield _error(14, f"ESTEIRA_JOB_QUEUES holds {name!r}.", fix)
    places = [(name, "ESTEIRA_JOB_QUEUES") for name in settings.ESTEIRA_JOB_QUEUES]
    places += [(job_type.queue, f"{job_type.name}, {job_type.where}") for job_type in registry.all()]
    for name, where in places:
        if name in TAKEN_QUEUE_NAMES:
            fix = "Choose another: the Redis transport and the keeper use a Redis key of this name."
            yield _error(15, f"A queue has the name {name!r} ({where}).", fix)


def _job_types() -> Findings:
    modules = [job_type.fn.__module__ for job_type in registry.all()]
    for package in settings.ESTEIRA_JOB_PACKAGES:
        if not any(name == package or name.startswith(f"{package}.") for name in modules):
            fix = "Declare a job type in it with @job, or remove it."
            yield _warning(3, f"ESTEIRA_JOB_PACKAGES names {package!r}, which declares no job type.", fix)
    if not modules:
        fix = "Declare one with @job in the module jobs.py of an installed app."
        yield _warning(4, "There is no job type: workers have nothing to run.", fix)


def _mail() -> Findings:
    if not hasattr(
        settings, "EMAIL_URL"
    ):  # the project's own settings of mail, about which Django has its checks
        return
    tls, ssl = settings.EMAIL_USE_TLS, settings.EMAIL_USE_SSL
    if tls and ssl:
        yield _error(
            16, "EMAIL_USE_TLS and EMAIL_USE_SSL are both on.", "Use smtp+tls:// or smtp+ssl:// in EMAIL_URL."
        )
    elif settings.EMAIL_PORT == 465 and not ssl:
        fix = "Begin EMAIL_URL with smtp+ssl://; on this port servers expect TLS from the first byte."
        yield _warning(5, "EMAIL_URL names port 465 without SSL.", fix)
    elif settings.EMAIL_HOST_PASSWORD and not (tls or ssl) and settings.EMAIL_HOST not in HERE:
        fix = "Begin EMAIL_URL with smtp+tls:// (port 587) or smtp+ssl:// (port 465)."
        yield _warning(6, f"EMAIL_URL sends its password to {settings.EMAIL_HOST} unencrypted.", fix)
    if not settings.EMAIL_TIMEOUT:
        fix = "Write 20: otherwise an unresponsive mail server blocks a job until its time limit."
        yield _warning(7, "EMAIL_TIMEOUT (EMAIL_TIMEOUT_SECONDS) is not set.", fix)


def _migrate() -> Findings:
    owner = get_commands()["migrate"]
    if owner != "esteira":
        fix = "Put 'esteira' above it in INSTALLED_APPS."
        yield _warning(
            8, f"`migrate` comes from {owner}: several runs at once would change the same tables.", fix
        )


def _mail_arrives() -> Findings:
    if not hasattr(settings, "EMAIL_URL"):
        return
    backend = settings.EMAIL_BACKEND
    if any(f".{name}." in backend for name in NOWHERE):
        yield _warning(
            9, f"EMAIL_URL delivers no mail ({backend}).", "Write smtp+tls://user:password@host:587."
        )
    elif settings.EMAIL_URL == "":
        fix = "Write smtp+tls://user:password@host:587 into EMAIL_URL."
        yield _warning(10, "EMAIL_URL is not set: jobs that send mail fail at once.", fix)
    if _domain(settings.DEFAULT_FROM_EMAIL) in ("", "localhost"):
        fix = "Write an address that your mail server may send from."
        yield _warning(11, f"DEFAULT_FROM_EMAIL is {settings.DEFAULT_FROM_EMAIL}.", fix)


def _domain(address: str) -> str:
    return address.rpartition("@")[2].rstrip(">").strip()
