"""Memory that nobody needs goes back to the kernel.

A session that ended is a few hundred Python objects in cycles that hold megabytes of OpenSSL's memory: Python, which counts objects, would look
for them after hours. And what is free between two things in use stays with the process, in the many arenas of glibc's malloc: an actor grew by
2 MB a minute without a leak. So once a minute both are looked for. What was imported is left out of the search (`supervision.spawn`).

What still grows (the SDK keeps 65 KB of each client that was closed) ends with the process: one that has lived for hours and holds too much is
renewed, as if it had been asked to stop. Its channels are closed in order, and its successor is there in a moment.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

TIDY_SECONDS = 60.0  # it takes tens of milliseconds, in which the actor's other threads wait
RENEW_BYTES = 512 << 20  # after tidying: an actor at work holds 100 to 200 MB
RENEW_SECONDS_MIN = (
    21600.0  # of life: where more is needed for what is open, it is renewed four times a day, which nobody notices
)
_STATUS = Path("/proc/self/status")


class Heap:
    """The heap of this process, which `began` then. Other C libraries than glibc have no trim, and are left alone."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._next = 0.0

    def give_back(self, now: float) -> bool:
        """Once a minute, however often it is called; True when the process is to be renewed. Seconds of the monotonic clock."""
        if now < self._next:
            return False
        self._next = now + TIDY_SECONDS
        gc.collect()
        if self._trim is not None:
            self._trim(0)
        return now >= self._began + RENEW_SECONDS_MIN and held_bytes() > RENEW_BYTES


def held_bytes() -> int:
    """Anonymous memory of this process; shared memory is its readers'."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) << 10
