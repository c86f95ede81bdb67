"""The message of a task as kombu would push it into Redis: written when it is sent, read when it runs.

The row holds exactly these bytes, so typed values, stamps, custom headers, every serializer and compression work as
Celery and kombu implement them.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from kombu.compression import decompress
from kombu.serialization import loads, prepare_accept_content
from kombu.utils.encoding import str_to_bytes
from kombu.utils.json import dumps
from kombu.utils.json import loads as read_json

#: As kombu's transport for Redis encodes bodies, which may be binary.
BODY_ENCODING = "base64"


def envelope(
    body: str | bytes,
    *,
    content_type: str,
    content_encoding: str,
    headers: dict[str, Any],
    properties: dict[str, Any],
) -> bytes:
    """Return a message in the format of kombu's virtual transports."""
    packed = {
        "body": base64.b64encode(str_to_bytes(body)).decode(),
        "content-encoding": content_encoding,
        "content-type": content_type,
        "headers": headers,
        "properties": {**properties, "body_encoding": BODY_ENCODING, "delivery_tag": str(uuid4())},
    }
    text: str = dumps(packed)
    return text.encode()


@dataclass(frozen=True, kw_only=True, slots=True)
class Received:
    """A stored message, with its body still encoded."""

    body: bytes
    content_type: str
    content_encoding: str
    headers: dict[str, Any]
    properties: dict[str, Any]

    def payload(self, accept: Any) -> tuple[Any, Any, Any]:
        """Return the arguments and the embedded signatures; raises errors of decoding, and ContentDisallowed."""
        body = self.body
        if compression := self.headers.get("compression"):
            body = decompress(body, compression)
        args, kwargs, embed = loads(
            body, self.content_type, self.content_encoding, accept=prepare_accept_content(accept)
        )
        return args, kwargs, embed

    def request(self, *, hostname: str, redelivered: bool) -> dict[str, Any]:
        """Return what Celery's worker hands to the tracer, without the payload."""
        where = self.properties.get("delivery_info") or {}
        return {
            **self.headers,
            "properties": self.properties,
            "reply_to": self.properties.get("reply_to"),
            "correlation_id": self.properties.get("correlation_id"),
            "hostname": hostname,
            "is_eager": False,
            "delivery_info": {
                "exchange": where.get("exchange"),
                "routing_key": where.get("routing_key"),
                "priority": self.properties.get("priority"),
                "redelivered": redelivered,
            },
        }


def read(message: bytes) -> Received:
    """Read a stored message."""
    packed = read_json(message)
    properties = packed.get("properties") or {}
    body = packed.get("body") or ""
    if properties.get("body_encoding") == BODY_ENCODING:
        body = base64.b64decode(body)
    return Received(
        body=str_to_bytes(body),
        content_type=packed.get("content-type"),
        content_encoding=packed.get("content-encoding"),
        headers=packed.get("headers") or {},
        properties=properties,
    )
