"""A TCP proxy that a test can cut, slow down, hold and close to new connections: what a broken network does.

cut       every connection is reset
hold      nothing passes any more and nobody is told (a black hole); `release`: what waited arrives, as after a healed partition
slow      every piece waits before it passes on
refuse    new connections are reset at once
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

_READ_BYTES = 1 << 16
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 seconds: close sends a reset


class Proxy:
    """Listens at `host`:`port` (0: any) and passes everything on to `target`."""

    def __init__(self, target: tuple[str, int], host: str = "127.0.0.1", port: int = 0) -> None:
        self._target = target
        self._listener = socket.create_server((host, port))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._passing = threading.Event()
        self._passing.set()
        self.delay_seconds = 0.0
        self.refusing = False
        self.cuts = self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> int:
        """Reset every connection; how many there were."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                _reset(end)
        self.cuts += len(pairs)
        return len(pairs)

    def hold(self) -> None:
        """Let nothing pass, in either direction, until `release`."""
        self._passing.clear()

    def release(self) -> None:
        """Let everything pass again."""
        self._passing.set()

    def close(self) -> None:
        """No more connections."""
        self._listener.close()
        self.release()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self.refusing:
                    _reset(near)
                    continue
                try:
                    far = socket.create_connection(self._target)
                except OSError:
                    near.close()
                    continue
                self.connections += 1
                self._pairs = [pair for pair in self._pairs if pair[0].fileno() >= 0] + [(near, far)]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_READ_BYTES):
                self._passing.wait()
                if self.delay_seconds:
                    time.sleep(self.delay_seconds)
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
        source.close()


def _reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end.shutdown(socket.SHUT_RDWR)
        end.close()
