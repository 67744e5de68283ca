"""A listener on 127.0.0.1 with a thread for each connection: what the proxies of the tests have in common."""

from __future__ import annotations

import contextlib
import socket
import threading
from abc import ABC, abstractmethod


class Listener(ABC):
    """Listens from its making on, at `port`."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """No more connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    @abstractmethod
    def serve(self, near: socket.socket) -> None:
        """One connection, in its thread."""

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                threading.Thread(target=self.serve, args=(near,), daemon=True).start()
