"""Rows that may have killed an actor are tried alone: nothing else is sent while they are on their way.

    free ──a desk's next rows are on trial──► claimed: no other desk begins ──all others' rows are durable──► alone ──its rows are durable──► free

A claim lasts ALONE_SECONDS_MAX: a destination that does not answer, be it the desk's own or another's, must not hold all the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from workers.snowflake.desk import Desk

ALONE_SECONDS_MAX = 60.0  # Snowflake commits 5 to 10 s after an append


class Solitude:
    """One trial at a time, over all publishers of an actor. `desks` gives all of its desks."""

    def __init__(self, desks: Callable[[], Iterable[Desk]], clock: Callable[[], float] = time.monotonic) -> None:
        self._desks, self._clock = desks, clock
        self._desk: Desk | None = None
        self._life, self._until = 0, 0.0

    def allows(self, desk: Desk) -> bool:
        """Whether this desk's next rows may be sent now."""
        if self._desk is not None and (self._desk.life != self._life or self._desk.channel.idle):
            self._desk = None
        if self._desk is None and desk.channel.waiting[0][0].trial:
            self._desk, self._life, self._until = desk, desk.life, self._clock() + ALONE_SECONDS_MAX
        if self._desk is None or self._clock() >= self._until:
            return True
        return self._desk is desk and not any(other.under_way for other in self._desks())
