"""The warnings of `manage.py check` about settings; it needs no database."""

from __future__ import annotations

from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.checks import CheckMessage

from esteira import Context, job
from esteira.checks import check_deployment, check_settings


def numbers(findings: list[CheckMessage]) -> list[str]:
    return [str(finding.id).removeprefix("esteira.") for finding in findings]


def test_the_shipped_settings_have_no_findings() -> None:
    assert check_settings() == []


@pytest.mark.parametrize(
    ("name", "value", "number"),
    [
        ("USE_TZ", False, "E004"),
        ("REDIS_URL", "sentinel://127.0.0.1", "E005"),
        ("REDIS_URL", "localhost", "E005"),
        ("CONCURRENCY", "many", "E006"),
        ("CONCURRENCY", "0", "E006"),
        ("MAX_JOBS_PER_CHILD", 0, "E007"),
        ("MAX_MEMORY_PER_CHILD_MB", 10, "E007"),
        ("KEEPER_SECONDS", 0, "E009"),
        ("KEEPER_SECONDS", 0.6, "E009"),
        ("KEEPER_SECONDS", 9, "E009"),
        ("DRAIN_SECONDS", 0, "E010"),
        ("DRAIN_SECONDS", 10, "W001"),
        ("RETENTION_DAYS", 0, "E012"),
        ("WINDOW", 0, "E013"),
        ("FILES_MAX_TOTAL", 1024, "W002"),
        ("JOB_QUEUES", ["mail", "wei rd"], "E014"),
        ("JOB_QUEUES", ["unacked"], "E015"),
        ("JOB_QUEUES", ["filled"], "E015"),
        ("JOB_PACKAGES", [], "W004"),
        ("JOB_PACKAGES", ["jobs", "json"], "W003"),
        ("EMAIL_TIMEOUT", None, "W007"),
    ],
)
def test_a_wrong_setting_is_named(settings: Any, name: str, value: Any, number: str) -> None:
    setattr(settings, name, value)

    findings = check_settings()

    assert numbers(findings) == [number]
    assert name in findings[0].msg or name in str(findings[0].hint)
    assert findings[0].hint


def test_a_short_lease_is_refused(settings: Any) -> None:
    settings.LEASE_SECONDS, settings.KEEPER_SECONDS = 0.5, 0.2

    assert numbers(check_settings()) == ["E008"]


def test_a_missing_setting_is_the_only_finding(settings: Any) -> None:
    del settings.LEASE_SECONDS
    settings.WINDOW = 0

    [finding] = check_settings()

    assert finding.id == "esteira.E001"
    assert "LEASE_SECONDS" in finding.msg


@pytest.mark.filterwarnings("ignore:Overriding setting DATABASES")
@pytest.mark.parametrize(
    ("changes", "number"),
    [({"ENGINE": "django.db.backends.sqlite3"}, "E002"), ({"OPTIONS": {"pool": True}}, "E003")],
)
def test_the_database_must_be_postgresql_without_a_pool(
    settings: Any, changes: dict[str, Any], number: str
) -> None:
    settings.DATABASES = {"default": {**django_settings.DATABASES["default"], **changes}}

    assert numbers(check_settings()) == [number]


def test_a_job_type_with_a_bad_queue_is_named_with_its_place(job_types: None) -> None:
    @job(name="checks.hasty", queue="unacked")
    def hasty(ctx: Context) -> None: ...

    [finding] = check_settings()

    assert finding.id == "esteira.E015"
    assert "checks.hasty" in finding.msg
    assert "test_checks.py" in finding.msg


@pytest.mark.parametrize(
    ("changes", "number"),
    [
        ({"EMAIL_USE_TLS": True, "EMAIL_USE_SSL": True}, "E016"),
        ({"EMAIL_HOST": "mail.example.org", "EMAIL_PORT": 465}, "W005"),
        ({"EMAIL_HOST": "mail.example.org", "EMAIL_HOST_PASSWORD": "x", "EMAIL_PORT": 587}, "W006"),
    ],
)
def test_mail_that_cannot_or_should_not_be_sent_so(
    settings: Any, changes: dict[str, Any], number: str
) -> None:
    for name, value in changes.items():
        setattr(settings, name, value)

    assert numbers(check_settings()) == [number]


@pytest.mark.parametrize(
    ("backend", "url", "sender", "found"),
    [
        ("django.core.mail.backends.console.EmailBackend", "consolemail://", "a@example.org", ["W009"]),
        ("project.email_backend.NoServer", "", "a@example.org", ["W010"]),
        ("django.core.mail.backends.smtp.EmailBackend", "smtp://host", "Me <me@localhost>", ["W011"]),
        ("django.core.mail.backends.smtp.EmailBackend", "smtp://host", "Me <me@example.org>", []),
    ],
)
def test_a_deployment_sends_its_mail(
    settings: Any, backend: str, url: str, sender: str, found: list[str]
) -> None:
    settings.EMAIL_BACKEND, settings.EMAIL_URL, settings.DEFAULT_FROM_EMAIL = backend, url, sender

    assert numbers(check_deployment()) == found


def test_another_apps_migrate_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("esteira.checks.get_commands", lambda: {"migrate": "tenants"})

    [finding] = check_settings()

    assert finding.id == "esteira.W008"
    assert "tenants" in finding.msg
