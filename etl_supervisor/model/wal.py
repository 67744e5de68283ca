"""The WAL that slots keep on their sources: a measurement, and where things go from there (pure).

`retained_bytes` is what the server can't drop for this slot: the end of the WAL minus restart_lsn, not the size of the WAL directory.

The growth is the slope of the straight line through the last measurements; at it `safe_wal_bytes` are used up at a moment that can be told. The
lag in seconds is read from the measurements, too: when did the WAL end where the slot is confirmed now? Between two measurements it is taken
to have grown evenly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import pairwise

SAMPLES_MAX = 288  # of one slot: a day of them, at one in five minutes; how far back a lag can be told
SAMPLES_OF_GROWTH = (
    6  # half an hour, at one in five minutes: an hour-old calm does not hide that a slot stands still now
)


class Level(StrEnum):
    """How bad it is, from good to bad."""

    OK = "OK"
    WARNING = "WARNING"
    DANGER = "DANGER"
    LOST = "LOST"


@dataclass(frozen=True, slots=True)
class SourceState:
    """How a source is, what people know of it, and since when it is not OK."""

    level: Level = Level.OK
    told: Level = Level.OK
    trouble_since: datetime | None = None


@dataclass(frozen=True, slots=True)
class SlotMeasure:
    """A slot now. `current` and `confirmed` are LSNs; `safe_wal_bytes` is None where the server has no limit."""

    slot: str
    current: int
    confirmed: int
    retained_bytes: int
    wal_status: str
    safe_wal_bytes: int | None = None
    lost: str | None = None

    @property
    def lag_bytes(self) -> int:
        """WAL that we have not confirmed."""
        return max(0, self.current - self.confirmed)


@dataclass(frozen=True, slots=True)
class Sample:
    """An older measurement: Unix seconds, end of the WAL (LSN), bytes."""

    at: float
    current: int
    retained_bytes: int


@dataclass(frozen=True, slots=True)
class Outlook:
    """Where a slot goes: seconds of lag, bytes per second (negative: it shrinks), seconds until it is lost. None: can't be told, or never."""

    lag_seconds: float | None
    growth_bytes_per_second: float | None
    dies_in_seconds: float | None


def outlook(measure: SlotMeasure, before: Sequence[Sample], now: float) -> Outlook:
    """By the samples before, the oldest first."""
    samples = [*before, Sample(now, measure.current, measure.retained_bytes)]
    growth = _slope(samples[-SAMPLES_OF_GROWTH:])
    return Outlook(_age(samples, measure.confirmed, now), growth, _dies_in(measure, growth))


def _slope(samples: Sequence[Sample]) -> float | None:
    """Least squares; None for fewer than two moments."""
    middle = sum(sample.at for sample in samples) / len(samples)
    spread = sum((sample.at - middle) ** 2 for sample in samples)
    if spread == 0:
        return None
    return sum((sample.at - middle) * sample.retained_bytes for sample in samples) / spread


def _dies_in(measure: SlotMeasure, growth: float | None) -> float | None:
    if measure.lost:
        return 0.0
    if measure.safe_wal_bytes is None or growth is None or growth <= 0:
        return None
    return max(0.0, measure.safe_wal_bytes / growth)


def _age(samples: Sequence[Sample], confirmed: int, now: float) -> float | None:
    """How long ago the WAL ended at `confirmed`; None when that was before the first sample."""
    if confirmed >= samples[-1].current:
        return 0.0
    for earlier, later in reversed(list(pairwise(samples))):
        if earlier.current <= confirmed < later.current:
            part = (confirmed - earlier.current) / (later.current - earlier.current)
            return max(0.0, now - (earlier.at + part * (later.at - earlier.at)))
    return None
