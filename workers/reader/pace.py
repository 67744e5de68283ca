"""Keeps work that grows with the number of tables to a share of the loop's time.

Looking at 5,000 tables takes some 20 ms: done in every turn of a loop that wakes for each message it would take all of it. So after such work there
is a pause of some times its length, which nobody notices where tables are few.
"""

from __future__ import annotations

PAUSE_FACTOR = 9  # a tenth of the time


class Pace:
    """Of one work (pure). Times are seconds of one clock."""

    def __init__(self) -> None:
        self._not_before = self._due = self._began = 0.0
        self._skipped = False

    def begin(self, now: float) -> bool:
        """Whether it is to be done now; `end` follows."""
        self._began, self._skipped = now, now < self._not_before
        return not self._skipped

    def end(self, now: float, due: float) -> None:
        """It was done, and is due again at `due` unless something happens before."""
        self._not_before, self._due = now + PAUSE_FACTOR * (now - self._began), due

    @property
    def due_at(self) -> float:
        """When it is to be done again: as soon as may be, if it was asked for in the pause."""
        return self._not_before if self._skipped else max(self._due, self._not_before)
