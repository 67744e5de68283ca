"""Who is told: a real HTTP server and a small mail server, that keep what they get and refuse when they are told to."""

from __future__ import annotations

import contextlib
import http.server
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson


@dataclass
class Received:
    """What came; `answers` are statuses for the next requests, then 200 for all; `refused` are addresses that get no mail."""

    port: int = 0
    answers: list[int] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    mails: list[str] = field(default_factory=list)
    refused: list[bytes] = field(default_factory=list)


@contextlib.contextmanager
def http_receiver() -> Iterator[Received]:
    """An HTTP server on a free port."""
    received = Received()

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status = received.answers.pop(0) if received.answers else 200
            if status == 200:
                received.bodies.append(orjson.loads(body))
                received.headers.append(dict(self.headers))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    with _serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver), received):
        yield received


@contextlib.contextmanager
def mail_receiver() -> Iterator[Received]:
    """A mail server without TLS on a free port."""
    received = Received()

    class Receiver(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 here\r\n")
            while line := self.rfile.readline():
                word = line.strip().upper()
                if word == b"DATA":
                    self.wfile.write(b"354 go on\r\n")
                    lines: list[bytes] = []
                    while (line := self.rfile.readline()) != b".\r\n":
                        lines.append(line)
                    received.mails.append(b"".join(lines).decode())
                no = word.startswith(b"RCPT") and any(address.upper() in word for address in received.refused)
                self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"550 no\r\n" if no else b"250 yes\r\n")
                if word == b"QUIT":
                    return

    with _serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Receiver), received):
        yield received


@contextlib.contextmanager
def _serving(server: socketserver.TCPServer, received: Received) -> Iterator[None]:
    received.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
