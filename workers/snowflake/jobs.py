"""Threads for what may block, and a bell that wakes the loop when a result is there.

    loop ──start──► pool of (destination, lane) ──► result ──► queue + bell ──► loop: `take` calls what waits for it

Each destination has a small pool of its own for each lane, so a destination that hangs holds only its own threads, and long applies never keep
rows waiting. Threads are started as they are needed. A job that hangs is left to the end of the process.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from queue import Empty, SimpleQueue
from typing import Any

THREADS_PER_LANE = 6  # of one destination; jobs wait on the network most of the time, a table has at most one per lane
THREADS_FOR_STATUSES = 16  # a question costs nothing but its thread
_BELL_BYTES = 4096


class Lane(StrEnum):
    """Kinds of jobs that must not wait for each other."""

    OPEN = "open"  # ensure or alter the objects: seconds; at a start for thousands of tables
    CHANNEL = "channel"  # open a channel: a second, or until it is given up
    STREAM = "stream"  # append, close: milliseconds
    STATUS = "status"  # what is committed: up to a second, in which the SDK renews what it knows
    FILES = "files"  # the same by files: seconds to minutes
    APPLY = "apply"  # the apply block: seconds to minutes


def forgotten(_: Any) -> None:
    """What becomes of most results that come too late."""


@dataclass(frozen=True, slots=True)
class Errand:
    """A job for a desk. In the loop, `then` takes its result, or `late` does when the desk has begun another life."""

    operation: str
    lane: Lane
    job: Callable[[], Any]
    then: Callable[[Any], None]
    late: Callable[[Any], None] = forgotten


class Jobs:
    """For one loop: `start` and `take` belong to its thread."""

    def __init__(self) -> None:
        self._pools: dict[tuple[int, Lane], ThreadPoolExecutor] = {}
        self._ended: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._ours, self._theirs = socket.socketpair()
        for end in (self._ours, self._theirs):
            end.setblocking(False)

    def fileno(self) -> int:
        """Readable when `take` has something to do; for selectors."""
        return self._ours.fileno()

    def start(
        self, destination: int, lane: Lane, job: Callable[[], Any], then: Callable[[Future[Any]], None]
    ) -> Future[Any]:
        """Run `job` in a thread of this destination (its id) and lane; `take` calls `then` with its outcome."""
        pool = self._pools.get((destination, lane))
        if pool is None:
            threads = THREADS_FOR_STATUSES if lane is Lane.STATUS else THREADS_PER_LANE
            pool = ThreadPoolExecutor(threads, thread_name_prefix=f"{lane}-{destination}")
            self._pools[destination, lane] = pool
        future = pool.submit(job)
        future.add_done_callback(lambda ended: self._ring(lambda: then(ended)))
        return future

    def take(self) -> None:
        """Call what waits for the jobs that have ended."""
        with contextlib.suppress(BlockingIOError):
            self._ours.recv(_BELL_BYTES)
        with contextlib.suppress(Empty):
            while True:
                self._ended.get_nowait()()

    def stop(self) -> None:
        """No more jobs; nobody waits for those that run."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    def _ring(self, outcome: Callable[[], None]) -> None:
        self._ended.put(outcome)
        with contextlib.suppress(OSError):  # a full bell rings already
            self._theirs.send(b"!")
