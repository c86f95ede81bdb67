"""A program that submits over HTTP while web and its database come and go: it repeats what got no answer."""

from __future__ import annotations

import http.client
import json
import threading
import time
import urllib.error
import urllib.request
from typing import Any

PAUSE_S = 0.1


class Answer:
    """One answer; `status` 0 means that there was none."""

    def __init__(self, status: int, headers: Any = None, body: bytes = b"") -> None:
        self.status, self.headers, self.body = status, headers or {}, body

    def json(self) -> Any:
        return json.loads(self.body)


class ApiClient:
    """Speaks to the API with a token; every submit carries a key, so that repeating it is safe."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url, token
        self.accepted: dict[str, str] = {}

    def request(self, path: str, body: Any = None, *, key: str = "", timeout: float = 5) -> Answer:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        if key:
            headers["Idempotency-Key"] = key
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(f"{self.url}{path}", data=data, headers=headers)
        try:
            with urllib.request.urlopen(asked, timeout=timeout) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.headers, error.read())
        except (OSError, http.client.HTTPException):
            return Answer(0)

    def submit(self, key: str, name: str, params: dict[str, Any], stop: threading.Event | None = None) -> str:
        """Submit until there is an answer, however often web is killed; return the id, or "" if stopped."""
        while not (stop and stop.is_set()):
            answer = self.request("/api/v1/jobs", {"type": name, "params": params}, key=key)
            if answer.status in (200, 201, 202):
                self.accepted[key] = str(answer.json()["id"])
                return self.accepted[key]
            assert answer.status in (0, 409, 503), (answer.status, answer.body)
            time.sleep(PAUSE_S)
        return ""
