"""A TCP proxy that a test can cut: what a broken network does to a connection."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

_READ_BYTES = 1 << 16
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of 0 seconds: close sends a reset


class Proxy:
    """Listens on 127.0.0.1:`port` and passes everything on to `target`."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.cuts = 0
        self._open = threading.Event()
        self._open.set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> int:
        """Reset every connection; how many there were."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    end.shutdown(socket.SHUT_RDWR)
                    end.close()
        self.cuts += len(pairs)
        return len(pairs)

    def hold(self) -> None:
        """Pass nothing on and say nothing: what a network does that swallows packets."""
        self._open.clear()

    def release(self) -> None:
        """Pass on again, also what was held."""
        self._open.set()

    def close(self) -> None:
        """No more connections."""
        self._open.set()
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(self._target)
                except OSError:
                    near.close()
                    continue
                self._pairs.append((near, far))
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=_pass, args=(source, sink, self._open), daemon=True).start()


def _pass(source: socket.socket, sink: socket.socket, opened: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(_READ_BYTES):
            opened.wait()
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
    source.close()
