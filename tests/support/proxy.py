"""A proxy that cuts a connection to PostgreSQL before a chosen statement, or before its answer."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from project.local.embedded import free_port

PATIENCE_S = 10.0


class Proxy:
    """Forwards every connection to a port of this machine.

    Armed, it cuts the next connection whose client sends all the given words, one after the other, at the
    last of them. With `after`, that statement still reaches the server and is executed; its answer is lost.
    With `half`, only the client learns that the connection is cut; the server goes on waiting.
    """

    def __init__(self, target: int) -> None:
        self.target, self.port = target, free_port()
        self.cuts = 0
        self._words: list[bytes] = []
        self._after = self._half = False
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._server = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, daemon=True).start()

    def arm(self, *words: str, after: bool = False, half: bool = False) -> None:
        with self._lock:
            self._words, self._after, self._half = [word.encode() for word in words], after, half

    def close(self) -> None:
        self._closed.set()
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(("127.0.0.1", self.target)) as server:
            try:
                if self._forward(client, server) and self._half:
                    client.shutdown(socket.SHUT_RDWR)
                    self._closed.wait()
            finally:
                server.shutdown(socket.SHUT_RDWR)  # a close alone says nothing while the other thread reads

    def _forward(self, client: socket.socket, server: socket.socket) -> bool:
        """Forward until the client is gone, or the moment has come: then return True."""
        answered, mute = threading.Event(), threading.Event()
        threading.Thread(target=_answers, args=(server, client, mute, answered), daemon=True).start()
        seen: list[bytes] = []
        while data := client.recv(65536):
            cut, after = self._is_the_moment(data, seen)
            if not cut:
                server.sendall(data)
                continue
            if after:
                mute.set()
                server.sendall(data)
                answered.wait(PATIENCE_S)
            return True
        return False

    def _is_the_moment(self, data: bytes, seen: list[bytes]) -> tuple[bool, bool]:
        with self._lock:
            wanted = self._words[len(seen) :]
            while wanted and wanted[0] in data:
                data = data.split(wanted[0], 1)[1]
                seen.append(wanted.pop(0))
            if not self._words or len(seen) < len(self._words):
                return False, False
            self._words = []
            self.cuts += 1
            return True, self._after


def _answers(
    server: socket.socket, client: socket.socket, mute: threading.Event, answered: threading.Event
) -> None:
    with suppress(OSError):
        while data := server.recv(65536):
            if mute.is_set():
                answered.set()
                break
            client.sendall(data)
    with suppress(OSError):
        client.shutdown(socket.SHUT_RDWR)
