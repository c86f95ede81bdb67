"""A server that stands for Kubernetes' API: pods and one Secret of one namespace, over HTTPS, for one account.

It answers as the real one does: 401 without the account's token, 415 for a patch of another content type, 409 for a
patch of a version that is not the newest, 404 for what is not there; lists by labels, whole or as metadata only.
"""

from __future__ import annotations

import json
import ssl
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trustme

NAMESPACE = "jobs"
HOME = f"/api/v1/namespaces/{NAMESPACE}/"
WORKER = {"app.kubernetes.io/name": "worker", "app.kubernetes.io/part-of": "esteira"}
COST = "controller.kubernetes.io/pod-deletion-cost"
Answer = tuple[int, Any]


class KubernetesApi:
    """The API, and the folder that its account has in a pod."""

    def __init__(self, account: Path) -> None:
        self.account = account
        self.pods: dict[str, dict[str, Any]] = {}
        self.secret: dict[str, Any] | None = {"metadata": {"name": "esteira", "resourceVersion": "1"}}
        self.asked: list[str] = []
        #: What it says before it looks at anything, if that is something; called with method and path.
        self.instead: Callable[[str, str], Answer | None] = lambda method, path: None
        self.lock, self.token = threading.Lock(), ""
        account.mkdir()
        (account / "namespace").write_text(NAMESPACE)
        self.rotate_token("first-token")
        authority, tls = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
        authority.cert_pem.write_to_path(str(account / "ca.crt"))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("ForUs", (_Handler,), {"api": self}))
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients may break off
        self._server.socket = tls.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()

    @property
    def env(self) -> dict[str, str]:
        """What Kubernetes puts into each pod's environment."""
        host, port = self._server.server_address[:2]
        return {"KUBERNETES_SERVICE_HOST": str(host), "KUBERNETES_SERVICE_PORT": str(port)}

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def rotate_token(self, token: str) -> None:
        self.token = token
        (self.account / "token").write_text(token)

    def trust_another(self) -> None:
        """Give the account an authority that did not sign the server's certificate."""
        trustme.CA().cert_pem.write_to_path(str(self.account / "ca.crt"))

    def add_pod(self, name: str, *, labels: dict[str, str] = WORKER, **metadata: Any) -> None:
        self.pods[name] = {
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels, **metadata},
            "spec": {"containers": [{"name": "worker"}]},
        }

    def costs(self) -> dict[str, str | None]:
        """Return each pod's annotation."""
        return {name: pod["metadata"].get("annotations", {}).get(COST) for name, pod in self.pods.items()}

    def patched(self) -> list[str]:
        """Return what was patched so far, in order."""
        return [line.removeprefix("PATCH ") for line in self.asked if line.startswith("PATCH ")]

    @property
    def keys(self) -> dict[str, str]:
        """What the Secret holds, in plain."""
        assert self.secret is not None
        return {name: b64decode(value).decode() for name, value in self.secret.get("data", {}).items()}

    def set_keys(self, **keys: str) -> None:
        assert self.secret is not None
        self.secret["data"] = {name: b64encode(value.encode()).decode() for name, value in keys.items()}

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        address = urlsplit(path)
        what = address.path.removeprefix(HOME)
        self.asked.append(f"{method} {what}")
        if headers.get("authorization") != f"Bearer {self.token}":
            return refusal(401, "Unauthorized")
        if (said := self.instead(method, what)) is not None:
            return said
        with self.lock:
            return self._look(method, what, parse_qs(address.query), headers, body)

    def _look(
        self, method: str, what: str, query: dict[str, list[str]], headers: dict[str, str], body: bytes
    ) -> Answer:
        match method, what.split("/"):
            case "GET", ["pods"]:
                return self._list(query, headers.get("accept", ""))
            case "GET", ["secrets", "esteira"] if self.secret:
                return 200, self.secret
            case "PATCH", [kind, name] if found := self._find(kind, name):
                if headers.get("content-type") != "application/merge-patch+json":
                    return refusal(415, "the body of the request was in an unknown format")
                return _patch(found, json.loads(body))
        return refusal(404, f"{what} not found")

    def _find(self, kind: str, name: str) -> dict[str, Any] | None:
        return self.pods.get(name) if kind == "pods" else self.secret if name == "esteira" else None

    def _list(self, query: dict[str, list[str]], accept: str) -> Answer:
        wanted = [pair.split("=") for one in query.get("labelSelector", []) for pair in one.split(",")]
        found = [
            pod
            for pod in self.pods.values()
            if all(pod["metadata"]["labels"].get(label) == value for label, value in wanted)
        ]
        if "as=PartialObjectMetadataList" in accept:
            return 200, {
                "kind": "PartialObjectMetadataList",
                "items": [{"metadata": pod["metadata"]} for pod in found] or None,
            }
        return 200, {"kind": "PodList", "items": found}


def refusal(code: int, message: str) -> Answer:
    return code, {"kind": "Status", "status": "Failure", "code": code, "message": message}


def _patch(found: dict[str, Any], patch: dict[str, Any]) -> Answer:
    version = patch.get("metadata", {}).pop("resourceVersion", None)
    metadata = found["metadata"]
    if version not in (None, metadata.get("resourceVersion")):
        return refusal(409, "the object has been modified; please apply your changes to the latest version")
    _merge(found, patch)
    metadata["resourceVersion"] = str(int(metadata.get("resourceVersion", 0)) + 1)
    return 200, found


def _merge(into: dict[str, Any], patch: dict[str, Any]) -> None:
    for name, value in patch.items():
        if isinstance(value, dict):
            _merge(into.setdefault(name, {}), value)
        else:
            into[name] = value


class _Handler(BaseHTTPRequestHandler):
    api: KubernetesApi

    def _do(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        code, said = self.api.answer(self.command, self.path, headers, body)
        content = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PATCH = _do  # noqa: N815  # the names that http.server calls

    def log_message(self, *_: object) -> None:
        """Say nothing: tests look at `asked`."""
