"""Foreign messages in a real worker's list: each is dropped, and the hints behind it run."""

from __future__ import annotations

import base64
import json
from typing import Any
from uuid import uuid4

from tests.support.process_stack import ProcessStack
from tests.support.waiting import until

KNOWN, UNKNOWN = "celery.backend_cleanup", "shop.refund"


def message(body: Any, **headers: Any) -> str:
    text = body if isinstance(body, str) else json.dumps(body)
    return json.dumps(
        {
            "body": base64.b64encode(text.encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {key: value for key, value in headers.items() if value is not None},
            "properties": {
                "body_encoding": "base64",
                "delivery_tag": str(uuid4()),
                "delivery_info": {"exchange": "", "routing_key": "default"},
            },
        }
    )


def headers(task: Any, **more: Any) -> dict[str, Any]:
    return {"lang": "py", "task": task, "id": str(uuid4()), **more}


STRANGE = [
    message([[5], {}, {}], **headers(UNKNOWN)),
    message([[None], {}, {}], **headers(UNKNOWN)),
    message([5, {}, {}], **headers(UNKNOWN)),
    message("[" * 50_000, **headers(UNKNOWN)),
    message([[str(uuid4()), str(uuid4())], {}, {}], **headers(UNKNOWN)),
    message([[], {}, {}], **headers(["no", "name"])),
    message({"task": ["no", "name"], "id": "1"}),
    message({"task": KNOWN}),
    message([[], {}, {}], **headers(KNOWN, id=None)),
    message([[], {}, {}], **headers(KNOWN, expires={"a": 1})),
    message([[], {}], **headers(KNOWN)),
    message([5], **headers(UNKNOWN)),
]


def test_a_strangers_message_holds_up_nobody(stack: ProcessStack) -> None:
    for one in STRANGE:
        stack.redis.rpush("esteira:default", one)
    worker = stack.worker("w1")
    stack.beat()

    (job,) = stack.submit("effects.work", 1)
    until(lambda: stack.db.counts([job]) == {"succeeded": 1}, "the job behind them has run")

    until(lambda: stack.redis.llen("esteira:default") == 0, "they are gone")
    assert stack.redis.hlen("esteira:unacked") == 0, "none comes back"
    assert worker.output().count("connecting again") == 0, worker.output()
    assert worker.output().count("Connection to broker lost") == 0, worker.output()
