"""Check that web can accept jobs: `/readyz` answers 200. Raw sockets, because an HTTP client is slower to import."""

import socket
import sys

with socket.create_connection(("127.0.0.1", 8000), timeout=4) as peer:
    peer.sendall(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")
    answer = b""
    while part := peer.recv(4096):
        answer += part
head, _, body = answer.partition(b"\r\n\r\n")
print(body.decode(errors="replace"))
sys.exit(0 if head.split(b" ")[1:2] == [b"200"] else 1)
