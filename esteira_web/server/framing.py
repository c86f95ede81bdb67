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


#: The status of an answer, and the code and the values of its sentence.
Fault = tuple[int, str, dict[str, object]]


def fault(headers: Sequence[tuple[bytes, bytes]], version: str) -> Fault | None:
    """Return the reason why a head is refused, else None. The names of headers are in lower case."""
    hosts = [value for name, value in headers if name == b"host"]
    codings = b",".join(value for name, value in headers if name == b"transfer-encoding")
    if not hosts and version == "1.1":
        return 400, "no-host", {}
    if len(hosts) > 1:
        return 400, "several-hosts", {"count": len(hosts)}
    if hosts and not _HOST.fullmatch(hosts[0]):
        return 400, "not-a-host", {}
    if codings.strip().lower() not in (b"", b"chunked"):
        return 501, "other-transfer-coding", {"coding": codings.decode("latin1")[:80]}
    return None
