"""Rows that may have killed an actor are tried alone: nothing else is sent while they are on their way.

free ──a desk's next rows are on trial──► claimed: no other desk begins ──all others' rows are durable──► alone ──its rows are durable──► free
"""

from __future__ import annotations

from collections.abc import Iterable

from workers.snowflake.desk import Desk


class Solitude:
    """One trial at a time, over all publishers of an actor."""

    def __init__(self) -> None:
        self._desk: Desk | None = None
        self._life = 0

    def allows(self, desk: Desk, desks: Iterable[Desk]) -> bool:
        """Whether this desk's next rows may be sent now; `desks` are all of the actor."""
        if self._desk is not None and (self._desk.life != self._life or self._desk.channel.idle):
            self._desk = None
        on_trial = desk.channel.waiting[0][0].trial
        if self._desk is None and on_trial:
            self._desk, self._life = desk, desk.life
        if self._desk is None:
            return True
        return self._desk is desk and not any(other.under_way for other in desks)
