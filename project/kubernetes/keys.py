"""Secrets of an installation in Kubernetes: what `project.keys` is for compose, with a Secret for its store.

The Secret stands in k8s/ without any key. This process looks at it every few seconds, as long as it runs. What somebody
set stays; each key that is missing is made, in one patch that names the version it read: if another pod was faster, it
is refused and everything is read again. So a key that is taken away, for a new password, is made again. Containers wait
for their keys by themselves (secretKeyRef). Needs no Django, and of Kubernetes only `get` and `patch` of this one name.
It is ready while every key is there; killed anywhere, it has patched or it has not.
"""

from __future__ import annotations

import base64
import os
import signal
import sys
import time
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

from project.keys import SECRETS
from project.kubernetes.api import Api, NotAnswered

NAME = "esteira"
RUN_DIR = Path(os.environ.get("RUN_DIR", "/run/esteira"))
LOOK_S = 5.0
#: After a refusal; twice as long after each further one.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 20.0


def main() -> None:
    signal.signal(signal.SIGTERM, _end)
    (RUN_DIR / "keys.ready").unlink(missing_ok=True)  # of a container before this one
    try:
        keys = Keys(Api())
    except NotAnswered as error:
        sys.exit(str(error))
    while True:
        time.sleep(keys.look())


def _end(*_: object) -> NoReturn:
    """As the first process of a container, Python is deaf to SIGTERM until it has a handler."""
    sys.exit(0)


class Keys:
    """One look after the other; remembers which trouble it has told of, and how long to rest after the next."""

    def __init__(self, api: Api) -> None:
        self._api, self._pause_s = api, FIRST_PAUSE_S
        self._told: str | None = None

    def look(self) -> float:
        """Make what is missing, say so once, and return the seconds until the next look."""
        (RUN_DIR / "keys.alive").touch()
        try:
            made = fill(self._api)
        except NotAnswered as error:
            # Somebody else wrote in between: what they wrote is read next, and is no trouble.
            return FIRST_PAUSE_S if error.status == HTTPStatus.CONFLICT else self._refused(str(error))
        if made:
            print(f"made {', '.join(made)}", flush=True)
        elif self._told != "":
            print("every key is there", flush=True)
        self._told, self._pause_s = "", FIRST_PAUSE_S
        (RUN_DIR / "keys.ready").touch()
        return LOOK_S

    def _refused(self, why: str) -> float:
        (RUN_DIR / "keys.ready").unlink(missing_ok=True)
        if why != self._told:
            print(why, file=sys.stderr, flush=True)
        pause, self._pause_s = self._pause_s, min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._told = why
        return pause


def fill(api: Api) -> list[str]:
    """Add what is missing and return the names of it; raises NotAnswered, and then nothing was added."""
    secret = api.get(f"secrets/{NAME}")
    missing = missing_of(secret, namespace=api.namespace)
    if missing:
        api.patch(
            f"secrets/{NAME}",
            {
                "metadata": {"resourceVersion": secret["metadata"]["resourceVersion"]},
                "data": {name: _encoded(value) for name, value in missing.items()},
            },
        )
    return sorted(missing)


def missing_of(secret: Mapping[str, Any], *, namespace: str = "") -> dict[str, str]:
    """Make what a Secret lacks; addresses are made of the passwords that are there or made here."""
    data = (secret.get("data") or {}).items()
    there = {name: base64.b64decode(value).decode(errors="replace") for name, value in data if value}
    made = {one.name: one.make() for one in SECRETS if one.name not in there}
    passwords = {name: quote(value, safe="") for name, value in {**there, **made}.items()}
    # With its namespace, because KEDA reads this address too (k8s/keda), and asks from a namespace of its own.
    postgres = f"postgres.{namespace}.svc" if namespace else "postgres"
    addresses = {
        "database_url": f"postgresql://esteira_app:{passwords['postgres_app_password']}@{postgres}:5432/esteira",
        "redis_url": f"redis://esteira:{passwords['redis_password']}@redis:6379/0",
        "flower_redis_url": f"redis://flower:{passwords['redis_flower_password']}@redis:6379/0",
    }
    if "database_url" not in there:  # somebody else's server has the one role that its address names
        owner = f"postgresql://esteira:{passwords['postgres_password']}@{postgres}:5432/esteira"
        addresses["database_owner_url"] = owner
    return made | {name: value for name, value in addresses.items() if name not in there}


def _encoded(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


if __name__ == "__main__":
    main()
