"""The circuit breaker of one child, or of one destination (`workers.reader.breakers`): it stops what can't help, and tries now and then by itself.

CLOSED ──too many, or a failure that needs a person──► OPEN ──cool-down over: one trial──► HALF_OPEN
  ▲                                                      ▲                                   │
  └──────────────────── the child says Ready ────────────┼───────────────────────────────────┤
                                                         └────────── the trial ended ────────┘
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

COOL_DOWN_SECONDS = 30.0  # a corrected configuration is noticed within half a minute


class State(Enum):
    """Where the breaker is."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Event(Enum):
    """What happens to it."""

    TRIPPED = "tripped"
    COOLED = "cooled"
    READY = "ready"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.CLOSED, Event.TRIPPED): State.OPEN,
    (State.CLOSED, Event.READY): State.CLOSED,
    (State.OPEN, Event.TRIPPED): State.OPEN,
    (State.OPEN, Event.COOLED): State.HALF_OPEN,
    (State.OPEN, Event.READY): State.CLOSED,  # a destination's: somebody else has got through
    (State.HALF_OPEN, Event.TRIPPED): State.OPEN,
    (State.HALF_OPEN, Event.READY): State.CLOSED,
}


@dataclass(slots=True)
class Breaker:
    """One breaker; `retry_at` is when the next trial is due while it is open (monotonic seconds)."""

    state: State = State.CLOSED
    cool_down_seconds: float = COOL_DOWN_SECONDS
    retry_at: float = 0.0

    def trip(self, now: float) -> None:
        """Open it; the next trial is due after the cool-down."""
        self._on(Event.TRIPPED)
        self.retry_at = now + self.cool_down_seconds

    def trial(self, now: float) -> bool:
        """True when the child may be started: always when closed, once per cool-down otherwise."""
        if self.state is State.OPEN and now >= self.retry_at:
            self._on(Event.COOLED)
            return True
        return self.state is State.CLOSED

    def ready(self) -> None:
        """The child has booted."""
        self._on(Event.READY)

    def _on(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state, event]
