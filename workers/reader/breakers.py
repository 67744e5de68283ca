"""A breaker per destination: while it does not answer, or refuses us, one table knocks now and then, and the others wait (pure).

    CLOSED ──FAILURES_MAX failures without a success, or one that needs a person──► OPEN ──pause over: one table tries──► HALF_OPEN
      ▲                                                                              ▲  ▲                                  │ │
      ├──── something became durable or was applied, by whichever table ─────────────┘  └──── it failed: a longer pause ───┘ │
      └──── the table is open, and it was opening that had failed before ────────────────────────────────────────────────────┘

The transitions are those of a child's breaker (`etl_supervisor.supervision.breaker`). Tables that are open are left alone: what works, works. When
the breaker closes, all that wait are tried at once. Other destinations of the source go on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import structlog

from etl_supervisor.errors import Kind
from etl_supervisor.ipc.messages import Applied, Durable, Failed, TableOpened
from etl_supervisor.policy import Directive, directive
from etl_supervisor.supervision.breaker import Breaker, State
from workers.reader.follower import Follower

FAILURES_MAX = 3  # one lost answer is no outage
PAUSE_SECONDS, PAUSE_SECONDS_MAX = 2.0, 60.0  # doubled with each trial that fails; its end is noticed within a minute
PERSON_SECONDS = 15.0  # the first pause where a person has to do something: many a refused login are no use, nor is a wait after the remedy
TRIAL_SECONDS_MAX = 120.0  # a trial that tells nothing (its table is gone) has failed
_OF_DESTINATION = frozenset({Kind.DESTINATION_UNREACHABLE, Kind.DESTINATION_AUTH})

log = structlog.get_logger()


@dataclass(slots=True)
class _Destination:
    name: str
    breaker: Breaker = field(default_factory=lambda: Breaker(cool_down_seconds=PAUSE_SECONDS))
    failures: int = 0
    rows_fail: bool = False  # tables can be opened, but their rows do not get through
    trial_until: float = 0.0


class Breakers:
    """The destinations of one source, by their ids. Times are seconds of the monotonic clock."""

    def __init__(self) -> None:
        self._known: dict[int, _Destination] = {}

    @property
    def states(self) -> dict[str, str]:
        """Name -> closed, open or half_open."""
        return {one.name: one.breaker.state.value for one in self._known.values()}

    def note(self, follower: Follower, message: object, others: Iterable[Follower], now: float) -> None:
        """What an actor has said of a table, before that takes it in. `others` are all tables."""
        one = self._of(follower)
        match message:
            case Failed(kind=kind) if kind in _OF_DESTINATION:
                one.rows_fail = follower.open
                self._failed(one, directive(kind) is Directive.PERSON, now)
            case Durable() | Applied():
                one.failures = 0
                self._close(one, others, now)
            case TableOpened() if one.breaker.state is State.HALF_OPEN and not one.rows_fail:
                self._close(one, others, now)
            case _:
                pass

    def allow(self, follower: Follower, now: float) -> bool:
        """Whether a table may be tried now; one that may not is told when to come again."""
        one = self._of(follower)
        if one.breaker.state is State.HALF_OPEN and now >= one.trial_until:
            self._trip(one, now)
        if one.breaker.state is State.CLOSED:
            return True
        if one.breaker.trial(now):
            one.trial_until = now + TRIAL_SECONDS_MAX
            log.info("destination_tried", destination=one.name, table=str(follower.table.name))
            return True
        follower.retry_at = max(one.breaker.retry_at, now + PAUSE_SECONDS)
        return False

    def _of(self, follower: Follower) -> _Destination:
        there = follower.pipeline.destination
        return self._known.setdefault(there.id, _Destination(there.name))

    def _failed(self, one: _Destination, needs_a_person: bool, now: float) -> None:
        one.failures += 1
        if one.breaker.state is State.HALF_OPEN:
            self._trip(one, now)
        elif one.breaker.state is State.CLOSED and (needs_a_person or one.failures >= FAILURES_MAX):
            one.breaker.cool_down_seconds = PERSON_SECONDS if needs_a_person else PAUSE_SECONDS
            one.breaker.trip(now)
            log.error("destination_breaker_opened", destination=one.name, failures=one.failures)

    def _trip(self, one: _Destination, now: float) -> None:
        one.breaker.cool_down_seconds = min(PAUSE_SECONDS_MAX, one.breaker.cool_down_seconds * 2)
        one.breaker.trip(now)

    def _close(self, one: _Destination, others: Iterable[Follower], now: float) -> None:
        if one.breaker.state is State.CLOSED:
            return
        one.breaker.ready()
        log.info("destination_breaker_closed", destination=one.name)
        for follower in others:
            if self._of(follower) is one and follower.retry_at is not None and follower.outages:
                follower.retry_at = now
