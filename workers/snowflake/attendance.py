"""Which desks the loop looks at, and which channels it closes: thousands of tables have no rows most of the time.

    message, end of a job ──► awake ──looked at──┬─ has rows under way ──► awake
                                                 └─ otherwise ──► asleep until the next message or the next sweep

A sweep looks at every desk: for what becomes due by the clock alone (purges, channels that have been idle for long).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from workers.snowflake.desk import Desk
from workers.snowflake.guest import Guest

SWEEP_SECONDS = 2.0  # a thousand desks are looked at in some 10 ms


@dataclass(frozen=True, slots=True)
class Keeping:
    """How long an idle channel is kept open, and how many are kept; beyond it, idle ones are closed whatever their age. One whose rows are not
    committed is given up after `commit_seconds` without progress."""

    idle_seconds: float
    open_max: int
    commit_seconds: float


class Attendance:
    """The desks of one loop."""

    def __init__(self) -> None:
        self._awake: dict[int, tuple[Guest, Desk]] = {}
        self._sweep_at = 0.0

    def wake(self, guest: Guest, desk: Desk) -> None:
        """This one is looked at in this turn."""
        self._awake[id(desk)] = (guest, desk)

    def sweeps(self, now: float) -> bool:
        """Whether every desk is looked at now; True once in a while."""
        if now < self._sweep_at:
            return False
        self._sweep_at = now + SWEEP_SECONDS
        return True

    def take(self) -> list[tuple[Guest, Desk]]:
        """Those that are awake and whose publisher is still there; they are asleep afterwards."""
        awake, self._awake = self._awake, {}
        return [(guest, desk) for guest, desk in awake.values() if guest.desks.get(desk.opening.handle) is desk]

    def seconds_to_wait(self, now: float) -> float:
        """Until one that is awake is to be looked at again."""
        return min((desk.seconds_to_wait(now) for _, desk in self._awake.values()), default=SWEEP_SECONDS)


def to_close(desks: Iterable[Desk], now: float, keeping: Keeping) -> list[Desk]:
    """Desks that do without their channel from now on, the one that was used least recently first. Rows under way are waited for, so more than
    `open_max` may be open for a while: a destination that hangs must not keep others' tables from being opened."""
    open_ = [desk for desk in desks if desk.sdk is not None and desk.gathering is None]
    beyond = len(open_) - keeping.open_max
    idle = sorted((desk for desk in open_ if desk.may_rest), key=lambda desk: desk.used_at)
    return [desk for number, desk in enumerate(idle) if number < beyond or now - desk.used_at >= keeping.idle_seconds]
