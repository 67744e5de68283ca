"""How often a child may be restarted: N in T seconds, with exponential back-off and jitter. Pure: clock and chance are passed in."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

RESTARTS_MAX = 6  # in WINDOW_SECONDS; a child that dies more often is not cured by starting it
WINDOW_SECONDS = 120.0
FIRST_DELAY_SECONDS = 0.1  # the first restart is nearly at once: most deaths are singular
DELAY_GROWTH = 2.0  # gentle: the breaker ends a row of short lives, and what broke off from outside is back soon
DELAY_SECONDS_MAX = 5.0
STEADY_SECONDS = (
    5.0  # after so long the delay begins anew: it did not die of starting, and a poisonous batch kills sooner
)


@dataclass(slots=True)
class Intensity:
    """The recent restarts of one child."""

    restarts_max: int = RESTARTS_MAX
    window_seconds: float = WINDOW_SECONDS
    _ends: deque[float] = field(default_factory=deque)
    _in_a_row: int = 0  # of them after short lives

    def ended(self, now: float, chance: float, *, steady: bool = False) -> float | None:
        """The child ended at `now`: seconds to wait before the restart, or None when the intensity is exceeded.

        `chance` in [0, 1) spreads the restarts of children that died together over half of the delay. After a `steady` life the delay is the first
        again; all ends count for the intensity.
        """
        while self._ends and self._ends[0] <= now - self.window_seconds:
            self._ends.popleft()
        self._in_a_row = 1 if steady or not self._ends else self._in_a_row + 1
        self._ends.append(now)
        if len(self._ends) > self.restarts_max:
            return None
        delay = min(DELAY_SECONDS_MAX, FIRST_DELAY_SECONDS * DELAY_GROWTH ** (self._in_a_row - 1))
        return delay * (0.5 + chance / 2)

    def forget(self) -> None:
        """The breaker has taken over: count anew after it."""
        self._ends.clear()
