"""The proxies of deploy/proxy before a real web: people sign in by https, and nobody lies to web through them.

Names, ports and certificates are the test's; all else is the file as it is handed out. Traefik is in no package that
the tests could take, so its file is only read.
"""

from __future__ import annotations

import os
import re
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from esteira.files import MAX_BYTES
from esteira_web.accounts.login import LoginFailure
from project.local.embedded import free_port
from tests.support.browser import Browser
from tests.support.certificates import make_certificate
from tests.support.clients import PASSWORD, account
from tests.support.documents import printed
from tests.support.forks import ROOT, environment
from tests.support.processes import Process
from tests.support.waiting import until

pytestmark = pytest.mark.usefixtures("database")
FOLDER = ROOT / "deploy" / "proxy"


@dataclass(frozen=True, kw_only=True)
class Proxied:
    """Web behind a proxy: where people find it, and whom they trust."""

    url: str
    trust: ssl.SSLContext

    def browser(self) -> Browser:
        return Browser(self.url, trust=self.trust)


@pytest.fixture(params=["nginx", "caddy"])
def proxied(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Proxied]:
    name: str = request.param
    path = f"{os.environ.get('PATH', '')}:/usr/sbin"
    program = shutil.which(name, path=path)
    if not program and not os.environ.get("CI"):
        pytest.skip(f"{name} is not here, so nothing goes through it")
    assert program, f"{name} is missing"
    port, web_port = free_port(), free_port()
    certificate, key = make_certificate(tmp_path)
    (tmp_path / "logs").mkdir()
    line = printed("docs/operations.md", "WEB_URL=https://", {"jobs.example.com": f"localhost:{port}"})
    url = line.strip().partition("=")[2]
    web = _web(web_port, url, tmp_path)
    web.start()
    command = {"nginx": _nginx, "caddy": _caddy}[name](tmp_path, port, web_port, certificate, key)
    with (tmp_path / "logs" / "proxy.log").open("wb") as log:
        env = {"PATH": path, "HOME": str(tmp_path)}
        proxy = subprocess.Popen([program, *command], env=env, stdout=log, stderr=log, cwd=tmp_path)
    trust = ssl.create_default_context(cafile=str(certificate))
    trust.verify_flags &= ~ssl.VERIFY_X509_STRICT
    try:
        until(lambda: _answers(Browser(url, trust=trust)), f"web answers through {name}", timeout=30)
        yield Proxied(url=url, trust=trust)
    finally:
        proxy.terminate()
        proxy.wait(20)
        web.stop()


def _web(port: int, url: str, folder: Path) -> Process:
    env = environment(WEB_URL=url, METRICS_PORT="0", WEB_THREADS="4")
    bind = ["--bind", f"127.0.0.1:{port}", "--workers", "1", "--no-control-socket"]
    return Process(
        "web",
        ["gunicorn", "project.asgi", "-k", "esteira_web.server.connections.Worker", *bind],
        env,
        folder / "logs",
    )


def _nginx(folder: Path, port: int, web_port: int, certificate: Path, key: Path) -> list[str]:
    site = (FOLDER / "nginx.conf").read_text()
    for old, new in {
        "listen 80;": f"listen 127.0.0.1:{free_port()};",
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "127.0.0.1:8000": f"127.0.0.1:{web_port}",
        "/etc/ssl/esteira/fullchain.pem": str(certificate),
        "/etc/ssl/esteira/privkey.pem": str(key),
        "jobs.example.com": "localhost",
    }.items():
        assert old in site
        site = site.replace(old, new)
    temporary = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"pid {folder}/nginx.pid; error_log {folder}/logs/error.log; daemon off; master_process off; events {{}}\n"
        f"http {{ access_log off; {temporary}\n{site}\n}}\n"
    )
    return ["-p", str(folder), "-c", str(folder / "nginx.conf")]


def _caddy(folder: Path, port: int, web_port: int, certificate: Path, key: Path) -> list[str]:
    site = (FOLDER / "Caddyfile").read_text().replace("127.0.0.1:8000", f"127.0.0.1:{web_port}")
    named = f"https://localhost:{port} {{\n\ttls {certificate} {key}\n"
    site, replaced = re.subn(r"^jobs\.example\.com \{\n", lambda _: named, site, flags=re.MULTILINE)
    assert replaced == 1
    site = site.replace("flower.example.com {", f"http://flower.example.com:{free_port()} {{")
    (folder / "Caddyfile").write_text(f"{{\n\tadmin off\n\tauto_https off\n}}\n{site}")
    return ["run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


def _answers(browser: Browser) -> bool:
    try:
        return browser.get("/readyz").status == 200
    except OSError:
        return False


def test_people_sign_in_and_send_forms_by_https(proxied: Proxied) -> None:
    account("ana", "operator")
    browser = proxied.browser()

    page = browser.sign_in("ana", PASSWORD)

    assert page.status == 200
    assert b"Sign out" in page.body
    assert "max-age" in page.headers["Strict-Transport-Security"]
    assert all(cookie.secure for cookie in browser.cookies)


def test_what_a_client_says_of_its_address_and_scheme_reaches_nobody(proxied: Proxied) -> None:
    browser = proxied.browser()
    browser._headers |= {"X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "http"}

    page = browser.sign_in("nobody", "not the password")

    assert b"Sign out" not in page.body
    assert page.status == 200, "the form came by https, whatever the client says"
    assert [one.address for one in LoginFailure.objects.all()] == ["127.0.0.1"]


def test_each_file_lets_the_largest_upload_through_and_little_more() -> None:
    limits = {
        "nginx.conf": int(found(r"client_max_body_size (\d+)m;", "nginx.conf")) * 1024**2,
        "Caddyfile": int(found(r"max_size (\d+)MiB", "Caddyfile")) * 1024**2,
        "traefik.yaml": yaml.safe_load((FOLDER / "traefik.yaml").read_text())["http"]["middlewares"]["size"][
            "buffering"
        ]["maxRequestBodyBytes"],
    }

    assert set(limits.values()) == {MAX_BYTES + 1024**2}


def found(pattern: str, name: str) -> str:
    match = re.search(pattern, (FOLDER / name).read_text())
    assert match, name
    return match[1]
