"""One address of the pages, and what follows from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from django.core.exceptions import ImproperlyConfigured

from project.public import public
from tests.support.forks import ROOT


@pytest.mark.parametrize(
    ("url", "hosts", "origins", "tls"),
    [
        ("", [], [], False),
        ("https://jobs.example.com", ["jobs.example.com"], ["https://jobs.example.com"], True),
        ("https://Jobs.example.com:8443/", ["jobs.example.com"], ["https://Jobs.example.com:8443"], True),
        ("http://127.0.0.1:8000", ["127.0.0.1"], ["http://127.0.0.1:8000"], False),
        ("http://[::1]:8000", ["[::1]"], ["http://[::1]:8000"], False),
    ],
)
def test_an_address_says_host_origin_and_tls(
    url: str, hosts: list[str], origins: list[str], tls: bool
) -> None:
    assert public(url) == (hosts, origins, tls)


@pytest.mark.parametrize(
    "url",
    [
        "jobs.example.com",
        "ftp://jobs.example.com",
        "https://",
        "https://jobs.example.com/esteira",
        "https://me@jobs.example.com",
        "https://jobs.example.com:none",
        "https://[::1",
        "http://127.0.0.1:8000-8001",
    ],
)
def test_what_is_no_address_of_pages_is_refused_with_the_setting_s_name(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="WEB_URL must be the address"):
        public(url)


@pytest.mark.parametrize(
    ("given", "tls", "hosts"),
    [
        (
            {"WEB_URL": "https://jobs.example.com"},
            True,
            ["localhost", "127.0.0.1", "[::1]", "jobs.example.com"],
        ),
        (
            {"WEB_URL": "https://jobs.example.com", "BEHIND_TLS": "False", "ALLOWED_HOSTS": "web"},
            False,
            ["web"],
        ),
        ({"WEB_URL": "http://127.0.0.1:8000", "BEHIND_TLS": ""}, False, ["localhost"]),
        ({"WEB_URL": "", "BEHIND_TLS": "True"}, True, ["localhost"]),
    ],
)
def test_settings_follow_from_the_address_unless_they_are_said(
    given: dict[str, str], tls: bool, hosts: list[str]
) -> None:
    asked = "import json; from project import settings as s; print(json.dumps([s.ESTEIRA_BEHIND_TLS, s.ALLOWED_HOSTS]))"
    needed = {
        "SECRET_KEY": "x" * 50,
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
        "DATA_DIR": "/none",
    }
    env = {"PATH": os.environ["PATH"], **needed, **given}
    told = subprocess.run(
        [sys.executable, "-c", asked], env=env, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout

    found_tls, found_hosts = json.loads(told)
    assert found_tls is tls
    assert set(hosts) <= set(found_hosts)
