"""Make the secrets of an installation in Kubernetes, as `project.keys` does for compose; they are stored in a Secret.

The Secret is in k8s/ without any key. This process checks it every few seconds. It keeps the keys that exist and makes
the missing ones, in one patch with the resource version that it read: if another pod was faster, Kubernetes refuses the
patch and this process reads the Secret again. So to get a new password, remove its key. Containers wait for their keys
by themselves (secretKeyRef). This process needs no Django, and of Kubernetes only the rights `get` and `patch` for this
one name. It is ready while every key exists; if it is killed, the patch was made completely or not at all.
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
#: The pause after a refusal; it doubles after each further one.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 20.0


def main() -> None:
    signal.signal(signal.SIGTERM, _end)
    (RUN_DIR / "keys.ready").unlink(missing_ok=True)  # from an earlier container
    try:
        keys = Keys(Api())
    except NotAnswered as error:
        sys.exit(str(error))
    while True:
        time.sleep(keys.look())


def _end(*_: object) -> NoReturn:
    """Exit at SIGTERM: without a handler, the first process of a container ignores it."""
    sys.exit(0)


class Keys:
    """Checks the Secret repeatedly; remembers the last error that was printed, and the pause after the next one."""

    def __init__(self, api: Api) -> None:
        self._api, self._pause_s = api, FIRST_PAUSE_S
        self._printed: str | None = None

    def look(self) -> float:
        """Make the missing keys, print them, and return the seconds until the next check."""
        (RUN_DIR / "keys.alive").touch()
        try:
            made = fill(self._api)
        except NotAnswered as error:
            # The Secret was changed in between, which is no error: the next check reads the change.
            return FIRST_PAUSE_S if error.status == HTTPStatus.CONFLICT else self._refused(str(error))
        if made:
            print(f"made {', '.join(made)}", flush=True)
        elif self._printed != "":
            print("all keys exist", flush=True)
        self._printed, self._pause_s = "", FIRST_PAUSE_S
        (RUN_DIR / "keys.ready").touch()
        return LOOK_S

    def _refused(self, why: str) -> float:
        (RUN_DIR / "keys.ready").unlink(missing_ok=True)
        if why != self._printed:
            print(why, file=sys.stderr, flush=True)
        pause, self._pause_s = self._pause_s, min(2 * self._pause_s, LONGEST_PAUSE_S)
        self._printed = why
        return pause


def fill(api: Api) -> list[str]:
    """Add the missing keys and return their names; if it raises NotAnswered, nothing was added."""
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
    """Return new values for the keys that a Secret lacks; addresses contain the existing or the new passwords."""
    data = (secret.get("data") or {}).items()
    there = {name: base64.b64decode(value).decode(errors="replace") for name, value in data if value}
    made = {one.name: one.make() for one in SECRETS if one.name not in there}
    passwords = {name: quote(value, safe="") for name, value in {**there, **made}.items()}
    # The host has the namespace, because KEDA uses this address too (k8s/keda), from a namespace of its own.
    postgres = f"postgres.{namespace}.svc" if namespace else "postgres"
    addresses = {
        "database_url": f"postgresql://esteira_app:{passwords['postgres_app_password']}@{postgres}:5432/esteira",
        "redis_url": f"redis://esteira:{passwords['redis_password']}@redis:6379/0",
        "flower_redis_url": f"redis://flower:{passwords['redis_flower_password']}@redis:6379/0",
    }
    if "database_url" not in there:  # an external server has only the role in its address
        owner = f"postgresql://esteira:{passwords['postgres_password']}@{postgres}:5432/esteira"
        addresses["database_owner_url"] = owner
    return made | {name: value for name, value in addresses.items() if name not in there}


def _encoded(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


if __name__ == "__main__":
    main()
