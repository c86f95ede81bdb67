"""Secrets of an installation in Kubernetes, made once: what `project.keys` is for compose, with a Secret for its store.

The Secret stands in k8s/ without any key. What somebody set stays; each key that is missing is made now, in one patch
that names the version it read: if another pod was faster, it is refused and everything is read again. Containers wait
for their keys by themselves (secretKeyRef). Needs no Django, and of Kubernetes only `get` and `patch` of this one name.
"""

from __future__ import annotations

import base64
import sys
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from project.cluster_api import Api, NotAnswered
from project.keys import SECRETS

NAME = "esteira"
PAUSE_S, TRIES = 1.0, 60
#: What trying again does not change.
FINAL = (HTTPStatus.BAD_REQUEST, HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


class NotFilled(Exception):
    """The Secret could not be read or patched; the message says why."""


def main() -> None:
    try:
        made = fill(Api())
    except (NotFilled, NotAnswered) as error:
        sys.exit(str(error))
    print(f"made {', '.join(made)}" if made else "every key is there", flush=True)


def fill(api: Api) -> list[str]:
    """Add what is missing and return the names of it; raises NotFilled after a minute of trying."""
    refused = told = ""
    for _ in range(TRIES):
        if refused != told:
            print(refused, file=sys.stderr, flush=True)
            told = refused
        try:
            secret = api.get(f"secrets/{NAME}")
            if not (missing := missing_of(secret, namespace=api.namespace)):
                return []
            api.patch(
                f"secrets/{NAME}",
                {
                    "metadata": {"resourceVersion": secret["metadata"]["resourceVersion"]},
                    "data": {name: _encoded(value) for name, value in missing.items()},
                },
            )
            return sorted(missing)
        except NotAnswered as error:
            refused = str(error)
            if error.status in FINAL:
                break
        time.sleep(PAUSE_S)
    raise NotFilled(refused)


def missing_of(secret: Mapping[str, Any], *, namespace: str = "") -> dict[str, str]:
    """Make what a Secret lacks; addresses are made of the passwords that are there or made here."""
    there = {name: base64.b64decode(value).decode() for name, value in (secret.get("data") or {}).items()}
    there = {name: value for name, value in there.items() if value}
    made = {one.name: one.make() for one in SECRETS if one.name not in there}
    passwords = {name: quote(value, safe="") for name, value in {**there, **made}.items()}
    # With its namespace, because KEDA reads this address too (k8s/keda), and asks from a namespace of its own.
    postgres = f"postgres.{namespace}.svc" if namespace else "postgres"
    addresses = {
        "database_url": f"postgresql://esteira:{passwords['postgres_password']}@{postgres}:5432/esteira",
        "redis_url": f"redis://esteira:{passwords['redis_password']}@redis:6379/0",
    }
    return made | {name: value for name, value in addresses.items() if name not in there}


def _encoded(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


if __name__ == "__main__":
    main()
