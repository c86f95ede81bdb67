"""Somebody's program that submits jobs: asked by lines of JSON, it answers each with what was accepted.

{"type": …, "many": [params, …], "options": {…}} submits in slices; with "each": true one by one, and then
every id is written down as soon as it is accepted, so that a kill cannot take an acknowledgement back.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import django
from django.db import close_old_connections


def main() -> None:
    django.setup()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        close_old_connections()
        for answer in each(asked) if asked.get("each") else [many(asked)]:
            print(json.dumps(answer), flush=True)


def many(asked: dict[str, Any]) -> dict[str, Any]:
    started = time.monotonic()
    try:
        accepted = [str(one) for one in chosen(asked).submit_many(asked["many"])]
    except Exception as error:  # whatever it was, nothing of it was acknowledged
        return {"ids": [], "error": f"{type(error).__name__}: {error}", "seconds": [], "end": True}
    return {"ids": accepted, "seconds": [time.monotonic() - started], "end": True}


def each(asked: dict[str, Any]) -> Any:
    for params in asked["many"]:
        started = time.monotonic()
        try:
            accepted = chosen(asked).submit(**params)
        except Exception as error:  # whatever it was, this one was not acknowledged
            close_old_connections()
            yield {"ids": [], "error": f"{type(error).__name__}: {error}", "seconds": []}
        else:
            yield {"ids": [str(accepted.id)], "seconds": [time.monotonic() - started]}
    yield {"ids": [], "seconds": [], "end": True}


def chosen(asked: dict[str, Any]) -> Any:
    from esteira.registry import registry  # after django.setup()

    return registry.get(asked["type"]).options(**asked.get("options", {}))


if __name__ == "__main__":
    main()
