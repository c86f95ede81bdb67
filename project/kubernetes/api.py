"""Kubernetes' API as one pod asks it: one namespace, the token of its service account, the standard library.

Address, token and authority are what Kubernetes puts into every pod whose manifest says automountServiceAccountToken.
Token and authority are read again for each request, because the kubelet replaces both while the pod runs. Whatever
goes wrong is a `NotAnswered` with a sentence for its message. Needs no Django; nothing is tried twice here.
"""

from __future__ import annotations

import json
import os
import ssl
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT_S = 5.0
JSON, MERGE = "application/json", "application/merge-patch+json"


class NotAnswered(Exception):
    """Kubernetes did not do what it was asked; the message says why. `status` is 0 if there was no answer at all."""

    def __init__(self, sentence: str, status: int = 0) -> None:
        super().__init__(sentence)
        self.status = status


class Api:
    """The objects of this pod's namespace, as its service account may use them; paths begin below the namespace."""

    def __init__(self) -> None:
        try:
            host, port = (
                os.environ["KUBERNETES_SERVICE_HOST"],
                os.environ.get("KUBERNETES_SERVICE_PORT", "443"),
            )
            self.namespace = (ACCOUNT / "namespace").read_text().strip()
        except (KeyError, OSError) as error:
            raise NotAnswered(
                f"This is no pod that may ask Kubernetes ({error}): its manifest needs a serviceAccountName and "
                "automountServiceAccountToken: true."
            ) from None
        address = f"[{host}]" if ":" in host else host
        self._url = f"https://{address}:{port}/api/v1/namespaces/{self.namespace}"

    def get(self, path: str, *, accept: str = JSON) -> dict[str, Any]:
        return self._ask("GET", path, {"Accept": accept})

    def patch(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        """Merge `body` into what is there."""
        return self._ask("PATCH", path, {"Accept": JSON, "Content-Type": MERGE}, json.dumps(body).encode())

    def _ask(
        self, method: str, path: str, headers: dict[str, str], body: bytes | None = None
    ) -> dict[str, Any]:
        what = path.partition("?")[0]
        try:
            token = (ACCOUNT / "token").read_text().strip()
            headers["Authorization"] = f"Bearer {token}"
            request = urllib.request.Request(f"{self._url}/{path}", body, headers, method=method)
            with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=_trust()) as answer:
                return dict(json.load(answer))
        except HTTPError as error:
            raise NotAnswered(
                f"Kubernetes answers {error.code} to {method} {what}: {_reason(error)}", error.code
            ) from None
        except (OSError, HTTPException) as error:
            raise NotAnswered(
                f"Kubernetes does not answer to {method} {what}: {getattr(error, 'reason', error)}"
            ) from None
        except (ValueError, TypeError) as error:
            raise NotAnswered(
                f"Kubernetes answers {method} {what} with something else than JSON: {error}"
            ) from None


def _trust() -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    # On by default since Python 3.13, and more than clusters hold to: certificates of EKS have no key identifiers.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _reason(error: HTTPError) -> str:
    try:
        return str(json.load(error)["message"])
    except (ValueError, KeyError, TypeError, OSError, HTTPException):
        return str(error.reason)
