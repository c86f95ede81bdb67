"""What a request's head must say for its reader and every proxy before it to agree: whom it asks, and where it ends.

gunicorn refuses most that is ambiguous by itself (a test holds which). It leaves two things to the application: a
request without a name, which RFC 9112 (3.2) wants answered with 400, and a body in a coding beside `chunked`, which
nobody here undoes (6.1: 501). Both end their connection (`esteira_web.server.connections`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

#: The characters of a name or an address with its port (RFC 3986, 3.2.2).
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]*")


def fault(headers: Sequence[tuple[bytes, bytes]], version: str) -> tuple[int, str] | None:
    """Return the status and the sentence for a head that is refused; None for others. Names are in small letters."""
    hosts = [value for name, value in headers if name == b"host"]
    codings = b",".join(value for name, value in headers if name == b"transfer-encoding")
    if not hosts and version == "1.1":
        return 400, "Host: is missing; HTTP/1.1 wants the name that the request is for in this header."
    if len(hosts) > 1:
        return 400, f"Host: is given {len(hosts)} times; send it once."
    if hosts and not _HOST.fullmatch(hosts[0]):
        return 400, "Host: is no name or address, with or without a port."
    if codings.strip().lower() not in (b"", b"chunked"):
        said = codings.decode("latin1")[:80]
        return (
            501,
            f"Transfer-Encoding: {said} is not read; send the body as it is, chunked or with Content-Length.",
        )
    return None
