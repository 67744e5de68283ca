"""A post: one name that a child fills, over all its restarts. It remembers what the children themselves forget."""

from __future__ import annotations

from dataclasses import dataclass, field

from etl_supervisor.exits import code_of
from etl_supervisor.ipc.messages import ChildStatus
from etl_supervisor.policy import DIRECTIVES, Directive
from etl_supervisor.supervision.breaker import Breaker, State
from etl_supervisor.supervision.intensity import Intensity
from etl_supervisor.supervision.spawn import Child
from etl_supervisor.supervision.spec import ChildSpec

# Exit codes after which starting again at once can't help.
NEEDS_A_PERSON = frozenset(code_of(kind) for kind, what in DIRECTIVES.items() if what is Directive.PERSON)


@dataclass(slots=True)
class Post:
    """`start_at` is when the next child is due (monotonic seconds; None: none is wanted)."""

    spec: ChildSpec
    intensity: Intensity = field(default_factory=Intensity)
    breaker: Breaker = field(default_factory=Breaker)
    child: Child | None = None
    start_at: float | None = 0.0
    restarts: int = 0

    def may_start(self, now: float) -> bool:
        """True when a child is wanted, due, and the breaker lets it."""
        due = self.child is None and self.start_at is not None and now >= self.start_at
        return due and self.breaker.trial(now)

    def ready(self) -> None:
        """The child has booted."""
        if self.child is not None:
            self.child.ready = True
        if self.breaker.state is not State.OPEN:
            self.breaker.ready()

    def ended(self, code: int, now: float, chance: float) -> None:
        """The child is gone and should not be: decide when the next one may start."""
        self.child = None
        self.restarts += 1
        delay = self.intensity.ended(now, chance)
        if code in NEEDS_A_PERSON or delay is None or self.breaker.state is State.HALF_OPEN:
            self.breaker.trip(now)
            self.intensity.forget()
            self.start_at = self.breaker.retry_at
        else:
            self.start_at = now + delay

    def status(self) -> ChildStatus:
        """For the metrics."""
        return ChildStatus(self.spec.name, self.child is not None, self.restarts, self.breaker.state.value)

    def due_at(self) -> float:
        """When something may have to be done by time alone."""
        if self.child is not None:
            return self.child.kill_at
        return float("inf") if self.start_at is None else self.start_at
