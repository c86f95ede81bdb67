"""Callers of the pages and the API: accounts with a role, tokens, signed-in browsers."""

from __future__ import annotations

import json
from functools import cache
from typing import Annotated, Any

from django.contrib.auth import get_user_model
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import Group
from django.test import Client
from pydantic import Field

from esteira import Context, Secret, job
from esteira_web.accounts.tokens import create_token

KNOWN = {"type": "t.note", "params": {"text": "hello"}}
PASSWORD = "correct horse battery staple"


def account(name: str, *groups: str, superuser: bool = False, staff: bool = False) -> Any:
    """Make an account in groups such as "operator", without their prefix."""
    user = get_user_model().objects.create(
        username=name, password=hashed(), is_superuser=superuser, is_staff=staff
    )
    for group in groups:
        user.groups.add(Group.objects.get_or_create(name=f"esteira-{group}")[0])
    return user


@cache
def hashed() -> str:
    """Return what is stored of the password; it takes long to compute, which is its purpose."""
    return make_password(PASSWORD)


def bearer(role: str = "operator", *, user: Any = None, **options: Any) -> Client:
    """A program with a token of this role, of an account with the same."""
    _, secret = create_token(user or account(f"{role}-of-token", role), "test", role=role, **options)
    return Client(headers={"Authorization": f"Bearer {secret}"})


def browser(role: str = "operator", **options: Any) -> Client:
    """A browser in which somebody with this role has signed in."""
    client = Client(**options)
    client.force_login(account(f"{role}-in-browser", *([role] if role else [])))
    return client


def post(client: Client, path: str, body: Any = None, **headers: str) -> Any:
    """POST JSON to the API."""
    content = "" if body is None else body if isinstance(body, str) else json.dumps(body)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post(f"/api/v1{path}", content, content_type="application/json", headers=named)


def get(client: Client, path: str, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.get(f"/api/v1{path}", headers=named)


def problem(response: Any) -> dict[str, Any]:
    """Return the problem document of an answer, after looking whether it is a proper one."""
    assert response.headers["Content-Type"] == "application/problem+json", response.content
    told: dict[str, Any] = json.loads(response.content)
    assert told["status"] == response.status_code
    assert told["type"].startswith("/problems/")
    assert told["title"]
    assert told["detail"]
    assert told["request_id"] == response.headers["X-Request-ID"]
    return told


def declare_types() -> None:
    """Two job types: an open one in the default queue, and one with a secret in a queue of its own."""

    @job(name="t.note")
    def note(ctx: Context, text: Annotated[str, Field(min_length=1, max_length=20)], times: int = 1) -> None:
        """Write a note."""

    @job(name="t.send", queue="mail", retries=0)
    def send(ctx: Context, to: str, password: Secret) -> None:
        """Send something."""
