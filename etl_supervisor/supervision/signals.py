"""Signals as bytes on a socket: handlers only enqueue, the loop takes them when it is ready.

A fork copies handlers and socket. A signal that reaches the child before it has put its own in place would be written to the parent's socket
(Ctrl-C goes to the whole group: the parent would count it twice) and be lost to the child. So signals wait (`held`) over the fork, until
the child is itself.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterable, Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)  # what the supervisor listens to
_READ_BYTES = 512


@contextlib.contextmanager
def held(numbers: Iterable[signal.Signals]) -> Iterator[None]:
    """While inside, these signals wait; then they arrive."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
