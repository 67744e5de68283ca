"""A tiny HTTP proxy that only knows CONNECT, and remembers where to."""

from __future__ import annotations

import contextlib
import socket
import threading

from tests.support.listener import Listener

_READ_BYTES = 1 << 16


class Tunnel(Listener):
    """Listens on 127.0.0.1; `asked` are the targets, `host:port`. What `elsewhere` names is led to another place."""

    def __init__(self, elsewhere: dict[str, tuple[str, int]] | None = None) -> None:
        self.asked: list[str] = []
        self._elsewhere = elsewhere or {}
        super().__init__()
        self.url = f"http://127.0.0.1:{self.port}"

    def serve(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += near.recv(_READ_BYTES)
            verb, target, _ = head.decode().split(" ", 2)
            self.asked.append(target)
            if verb != "CONNECT":
                near.sendall(b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n")
                return
            host, _, port = target.rpartition(":")
            with socket.create_connection(self._elsewhere.get(target, (host, int(port)))) as far:
                near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=_pass, args=(far, near), daemon=True)
                back.start()
                _pass(near, far)
                back.join()


def _pass(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_READ_BYTES):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)
