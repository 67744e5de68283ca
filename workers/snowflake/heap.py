"""Memory that nobody needs goes back to the kernel.

A session that ended is a few hundred Python objects in cycles that hold megabytes of OpenSSL's memory: Python, which counts objects, would look
for them after hours. And what is free between two things in use stays with the process, in the many arenas of glibc's malloc: an actor grew by
2 MB a minute without a leak. So once a minute both are looked for. What was imported is left out of the search (`supervision.spawn`).
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable

TIDY_SECONDS = 60.0  # it takes tens of milliseconds, in which the actor's other threads wait


class Heap:
    """The heap of this process. Other C libraries than glibc have no trim, and are left alone."""

    def __init__(self) -> None:
        self._trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._next = 0.0

    def give_back(self, now: float) -> None:
        """Once a minute, however often it is called. `now` is of the monotonic clock, in seconds."""
        if now < self._next:
            return
        self._next = now + TIDY_SECONDS
        gc.collect()
        if self._trim is not None:
            self._trim(0)
