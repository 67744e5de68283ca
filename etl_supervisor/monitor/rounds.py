"""Something that is done again and again, in a thread of its own, whatever happens to it once."""

from __future__ import annotations

import threading
from collections.abc import Callable

import structlog

from etl_supervisor.errors import EtlError
from etl_supervisor.monitor import logs

CLOSE_SECONDS_MAX = 1.0  # what is under way dies with the process: nothing is half written

log = structlog.get_logger()


class Rounds:
    """A round, a pause of `seconds`, the next round, until it is closed; the first one at once.

    A round that fails is logged as `event`; an EtlError once, until a round succeeds or fails otherwise.
    """

    def __init__(self, name: str, seconds: float, event: str, do: Callable[[], object]) -> None:
        self.ending = threading.Event()
        self._seconds = seconds
        self._event = event
        self._do = do
        self._said = ""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """End; what hangs is left to the process's end."""
        self.ending.set()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_SECONDS_MAX)

    def _run(self) -> None:
        while not self.ending.is_set():
            try:
                self._do()
                self._said = ""
            except EtlError as error:
                if error.line != self._said:
                    logs.error_line(log, self._event, error)
                self._said = error.line
            except Exception:
                log.exception(self._event)
            self.ending.wait(self._seconds)
