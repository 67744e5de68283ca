"""Signals as bytes on a socket: handlers only enqueue, the loop takes them when it is ready."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterable

_READ_BYTES = 512


class SignalInbox:
    """While open, the given signals arrive here instead of ending the process."""

    def __init__(self, wanted: Iterable[signal.Signals]) -> None:
        self._ours, self._theirs = socket.socketpair()
        for end in (self._ours, self._theirs):
            end.setblocking(False)
        self._before = {number: signal.signal(number, lambda *_: None) for number in wanted}
        self._wakeup_before = signal.set_wakeup_fd(self._theirs.fileno(), warn_on_full_buffer=False)

    def fileno(self) -> int:
        """For selectors."""
        return self._ours.fileno()

    def take(self) -> list[signal.Signals]:
        """The signals that came."""
        with contextlib.suppress(BlockingIOError):
            return [signal.Signals(number) for number in self._ours.recv(_READ_BYTES)]
        return []

    def close(self) -> None:
        """As it was before."""
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self.close_in_child()

    def close_in_child(self) -> None:
        """Only the sockets; the child sets its own handlers."""
        self._ours.close()
        self._theirs.close()
