"""Which WAL alert is told, and when: a transition table (pure).

A source is as bad as the worst of its slots: OK below WARNING_WAL, WARNING, DANGER from DANGER_WAL on, LOST when PostgreSQL has given a slot up.
`told` is what people know. From it and what is now follows whether they are told:

    told       now OK     now WARNING   now DANGER   now LOST
    -------    -------    -----------   ----------   --------
    OK         -          lasting       lasting      at once
    WARNING    at once    -             at once      at once
    DANGER     at once    -             -            at once
    LOST       at once    at once       at once      -

*Lasting*: after TIME_CHECK_NOTIFICATION of trouble; the clock runs from the end of OK, so what worsens meanwhile is not told later. What gets better
without being good is not told, and what it falls back to is known already. A slot that is lost does not get better by waiting; what comes
after it is a new slot.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum, auto
from typing import TYPE_CHECKING, Self

from etl_supervisor.model.wal import Level, SlotMeasure, SourceState

if TYPE_CHECKING:
    from etl_supervisor.repository.alerting import Alerting

MB = 1 << 20  # as PostgreSQL counts in max_slot_wal_keep_size


class When(Enum):
    """When a level is told."""

    NEVER = auto()
    LASTING = auto()
    AT_ONCE = auto()


_ORDER = {level: place for place, level in enumerate(Level)}
_ROWS = {
    Level.OK: (When.NEVER, When.LASTING, When.LASTING, When.AT_ONCE),
    Level.WARNING: (When.AT_ONCE, When.NEVER, When.AT_ONCE, When.AT_ONCE),
    Level.DANGER: (When.AT_ONCE, When.NEVER, When.NEVER, When.AT_ONCE),
    Level.LOST: (When.AT_ONCE, When.AT_ONCE, When.AT_ONCE, When.NEVER),
}
TELLING = {(told, now): when for told, row in _ROWS.items() for now, when in zip(Level, row, strict=True)}


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Retained WAL in MB, as PostgreSQL counts them (MiB)."""

    warning_mb: int
    danger_mb: int

    @classmethod
    def between(cls, alerting: Alerting, warning_mb: int | None, danger_mb: int | None) -> Self:
        """A source's own, where it has them, else those in force; danger is never below warning."""
        warning = warning_mb or alerting.warning_wal
        return cls(warning, max(warning, danger_mb or alerting.danger_wal))

    def level_of(self, measure: SlotMeasure) -> Level:
        """How bad a slot is."""
        if measure.lost:
            return Level.LOST
        if measure.retained_bytes >= self.danger_mb * MB:
            return Level.DANGER
        return Level.WARNING if measure.retained_bytes >= self.warning_mb * MB else Level.OK

    def of(self, level: Level) -> int:
        """The threshold that a level is about; of OK the one below which it is."""
        return self.warning_mb if level in (Level.OK, Level.WARNING) else self.danger_mb


@dataclass(frozen=True, slots=True)
class Alert:
    """What is told: how bad it is, and how long it has lasted (of a recovery: how long the trouble has)."""

    level: Level
    lasted: timedelta


def worst(measures: Iterable[SlotMeasure], thresholds: Thresholds) -> SlotMeasure | None:
    """The slot that the source's level is about; None without any."""
    return max(measures, key=lambda m: (_ORDER[thresholds.level_of(m)], m.retained_bytes), default=None)


def step(state: SourceState, level: Level, now: datetime, lasting: timedelta) -> tuple[SourceState, Alert | None]:
    """The state after a look, and what is to be told. A clock that went back counts as no time."""
    since = state.trouble_since
    began = since if since is not None else now
    lasted = max(timedelta(), now - began)
    after = replace(state, level=level, trouble_since=None if level is Level.OK else began)
    when = TELLING[state.told, level]
    if when is When.NEVER or (when is When.LASTING and lasted < lasting):
        return after, None
    return replace(after, told=level), Alert(level, lasted)
