"""A client for Kubernetes' API inside a pod: one namespace, the token of its service account, the standard library.

Kubernetes puts address, token and CA certificate into every pod whose manifest has automountServiceAccountToken. Token
and certificate are read again for each request, because the kubelet replaces both while the pod runs. Every error is a
`NotAnswered` with a sentence as its message. This module needs no Django, and does not retry.
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
    """A request to Kubernetes failed; the message explains why. `status` is 0 if there was no answer at all."""

    def __init__(self, sentence: str, status: int = 0) -> None:
        super().__init__(sentence)
        self.status = status


class Api:
    """The objects in this pod's namespace, with the rights of its service account; paths begin below the namespace."""

    def __init__(self) -> None:
        try:
            host, port = (
                os.environ["KUBERNETES_SERVICE_HOST"],
                os.environ.get("KUBERNETES_SERVICE_PORT", "443"),
            )
            self.namespace = (ACCOUNT / "namespace").read_text().strip()
        except (KeyError, OSError) as error:
            raise NotAnswered(
                f"This process cannot use Kubernetes' API ({error}): its pod needs a serviceAccountName and "
                "automountServiceAccountToken: true."
            ) from None
        address = f"[{host}]" if ":" in host else host
        self._url = f"https://{address}:{port}/api/v1/namespaces/{self.namespace}"

    def get(self, path: str, *, accept: str = JSON) -> dict[str, Any]:
        return self._ask("GET", path, {"Accept": accept})

    def patch(self, path: str, body: Mapping[str, object]) -> dict[str, Any]:
        """Merge `body` into the object."""
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
                f"Kubernetes answered {method} {what} with {error.code}: {_reason(error)}", error.code
            ) from None
        except (OSError, HTTPException) as error:
            raise NotAnswered(
                f"Kubernetes did not answer {method} {what}: {getattr(error, 'reason', error)}"
            ) from None
        except (ValueError, TypeError) as error:
            raise NotAnswered(
                f"Kubernetes answered {method} {what} with something other than JSON: {error}"
            ) from None


def _trust() -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    # On by default since Python 3.13, but too strict for some clusters: EKS certificates have no key identifiers.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return context


def _reason(error: HTTPError) -> str:
    try:
        return str(json.load(error)["message"])
    except (ValueError, KeyError, TypeError, OSError, HTTPException):
        return str(error.reason)
