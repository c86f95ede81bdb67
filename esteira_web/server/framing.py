"""Refuse request heads that this server and a proxy could read differently: the host, and the end of the request.

gunicorn refuses most ambiguous heads by itself (a test lists them). It leaves two cases to the application: a request
without a host, for which RFC 9112 (3.2) requires 400, and a body with a transfer coding other than `chunked`, which
this server cannot decode (6.1: 501). Both end their connection (`esteira_web.server.connections`).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

#: The characters of a name or an address with its port (RFC 3986, 3.2.2).
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]*")


def fault(headers: Sequence[tuple[bytes, bytes]], version: str) -> tuple[int, str] | None:
    """Return status and detail for a head that is refused, else None. The names of headers are in lower case."""
    hosts = [value for name, value in headers if name == b"host"]
    codings = b",".join(value for name, value in headers if name == b"transfer-encoding")
    if not hosts and version == "1.1":
        return 400, "Host: is missing; HTTP/1.1 requires this header with the name of the server."
    if len(hosts) > 1:
        return 400, f"Host: is given {len(hosts)} times; send it once."
    if hosts and not _HOST.fullmatch(hosts[0]):
        return 400, "Host: must be a name or an address, with or without a port."
    if codings.strip().lower() not in (b"", b"chunked"):
        said = codings.decode("latin1")[:80]
        return (
            501,
            f"Transfer-Encoding: {said} is not supported; send the body chunked or with Content-Length.",
        )
    return None
