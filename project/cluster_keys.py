"""Secrets of an installation in Kubernetes, made once: what `project.keys` is for compose, with a Secret for its store.

The Secret stands in k8s/ without any key. What somebody set stays; each key that is missing is made now, in one patch
that names the version it read: if another pod was faster, it is refused and everything is read again. Containers wait
for their keys by themselves (secretKeyRef). Needs no Django, and of Kubernetes only `get` and `patch` of this one name.
"""

from __future__ import annotations

import base64
import json
import os
import ssl
import sys
import time
import urllib.request
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote

from project.keys import SECRETS

NAME = "esteira"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT_S, PAUSE_S, TRIES = 5.0, 1.0, 60
MERGE = "application/merge-patch+json"


class NotFilled(Exception):
    """The Secret could not be read or patched; the message says why."""


def main() -> None:
    try:
        made = fill(Api())
    except NotFilled as error:
        sys.exit(str(error))
    print(f"made {', '.join(made)}" if made else "every key is there", flush=True)


class Api:
    """One Secret of Kubernetes' API, as this pod's service account may use it."""

    def __init__(self) -> None:
        host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ.get("KUBERNETES_SERVICE_PORT", "443")
        address = f"[{host}]" if ":" in host else host
        namespace = (ACCOUNT / "namespace").read_text().strip()
        self._url = f"https://{address}:{port}/api/v1/namespaces/{namespace}/secrets/{NAME}"
        self._trust = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))

    def get(self) -> dict[str, Any]:
        return self._ask("GET")

    def patch(self, body: Mapping[str, object]) -> dict[str, Any]:
        return self._ask("PATCH", json.dumps(body).encode())

    def _ask(self, method: str, body: bytes | None = None) -> dict[str, Any]:
        request = urllib.request.Request(self._url, body, method=method)
        request.add_header("Authorization", f"Bearer {(ACCOUNT / 'token').read_text().strip()}")
        if body is not None:
            request.add_header("Content-Type", MERGE)
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=self._trust) as answer:
            return dict(json.load(answer))


def fill(api: Api) -> list[str]:
    """Add what is missing and return the names of it; raises NotFilled after a minute of trying."""
    refused = ""
    for _ in range(TRIES):
        try:
            secret = api.get()
            if not (missing := missing_of(secret)):
                return []
            api.patch(
                {
                    "metadata": {"resourceVersion": secret["metadata"]["resourceVersion"]},
                    "data": {name: _encoded(value) for name, value in missing.items()},
                }
            )
            return sorted(missing)
        except HTTPError as error:
            refused = f"Kubernetes answers {error.code} for the Secret {NAME}: {_reason(error)}"
            if error.code in (HTTPStatus.FORBIDDEN, HTTPStatus.UNAUTHORIZED, HTTPStatus.BAD_REQUEST):
                break
        except (URLError, TimeoutError, ConnectionError) as error:
            refused = f"Kubernetes does not answer: {error}"
        time.sleep(PAUSE_S)
    raise NotFilled(refused)


def missing_of(secret: Mapping[str, Any]) -> dict[str, str]:
    """Make what a Secret lacks; addresses are made of the passwords that are there or made here."""
    there = {name: base64.b64decode(value).decode() for name, value in (secret.get("data") or {}).items()}
    there = {name: value for name, value in there.items() if value}
    made = {one.name: one.make() for one in SECRETS if one.name not in there}
    passwords = {name: quote(value, safe="") for name, value in {**there, **made}.items()}
    addresses = {
        "database_url": f"postgresql://esteira:{passwords['postgres_password']}@postgres:5432/esteira",
        "redis_url": f"redis://esteira:{passwords['redis_password']}@redis:6379/0",
    }
    return made | {name: value for name, value in addresses.items() if name not in there}


def _encoded(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


def _reason(error: HTTPError) -> str:
    try:
        return str(json.load(error)["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)


if __name__ == "__main__":
    main()
