"""SIGTERM, heard over all lives of one reader process.

while it begins       nothing has been read: it ends at once, wherever it waits (`beat` raises)
while it streams      it drains (`process`)
between two lives     the next one does not begin
"""

from __future__ import annotations

import signal

from etl_supervisor.ipc.heartbeat import Heartbeat
from etl_supervisor.supervision.signals import SignalInbox


class EndsEarly(Exception):  # noqa: N818 - a request, not an error
    """The reader was told to end, and has nothing to drain."""


class Ending:
    """While open, SIGTERM arrives here. A selector can watch it."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self._heartbeat = heartbeat
        self._inbox = SignalInbox((signal.SIGTERM,))
        self._asked = False

    def fileno(self) -> int:
        """For selectors."""
        return self._inbox.fileno()

    def asked(self) -> bool:
        """Whether SIGTERM has come."""
        self._asked |= signal.SIGTERM in self._inbox.take()
        return self._asked

    def beat(self) -> None:
        """A sign of life where nothing is to be drained: EndsEarly when the process is to end."""
        self._heartbeat.beat()
        if self.asked():
            raise EndsEarly

    def close(self) -> None:
        """Signals do again what they did before."""
        self._inbox.close()
