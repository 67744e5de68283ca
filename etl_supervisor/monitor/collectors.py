"""Metrics that are read from what the monitor knows at the moment somebody asks: a child, source or slot that is gone has none any more."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from etl_supervisor.ipc.messages import Supervised
from etl_supervisor.model.child import BREAKER_LEVELS
from etl_supervisor.model.wal import Level, Outlook, SlotMeasure

if TYPE_CHECKING:
    from etl_supervisor.monitor.wal import SourceWal

_LEVELS = {level: float(place) for place, level in enumerate(Level)}

Reading = Callable[[SlotMeasure, Outlook], float | None]
_OF_SLOTS: dict[tuple[str, str], Reading] = {
    ("etl_wal_retained_bytes", "WAL that the server can't drop for our slot"): lambda slot, _: slot.retained_bytes,
    ("etl_wal_lag_bytes", "WAL between what our slot has confirmed and the end"): lambda slot, _: slot.lag_bytes,
    (
        "etl_wal_lag_seconds",
        "How long ago the WAL ended where our slot is confirmed; absent when that was before the first measurement",
    ): lambda _, view: view.lag_seconds,
    (
        "etl_wal_growth_bytes_per_second",
        "Growth of etl_wal_retained_bytes over the last measurements",
    ): lambda _, view: view.growth_bytes_per_second,
    (
        "etl_wal_slot_dies_in_seconds",
        "When the slot is lost at this rate, 0 when it is; +Inf when it never is",
    ): lambda _, view: math.inf if view.dies_in_seconds is None else view.dies_in_seconds,
}


class SupervisedCollector(Collector):
    """What the parent told last: it has no metrics of its own, as it may not have threads."""

    def __init__(self) -> None:
        self.told = Supervised(())

    def collect(self) -> Iterable[Metric]:
        """Restarts, liveness and breaker of each child."""
        up = GaugeMetricFamily("etl_child_up", "1 while the child runs", labels=["child"])
        restarts = GaugeMetricFamily("etl_child_restarts", "Restarts since the supervisor started", labels=["child"])
        breaker = GaugeMetricFamily(
            "etl_child_breaker_state", "0 closed, 1 half-open (one trial runs), 2 open", labels=["child"]
        )
        for child in self.told.children:
            up.add_metric([child.name], float(child.running))
            restarts.add_metric([child.name], child.restarts)
            breaker.add_metric([child.name], BREAKER_LEVELS[child.breaker])
        return [up, restarts, breaker]


class WalCollector(Collector):
    """What the WAL monitor has measured last; `newest` gives it, by the source's name."""

    def __init__(self, newest: Callable[[], Mapping[str, SourceWal]]) -> None:
        self._newest = newest

    def collect(self) -> Iterable[Metric]:
        """Each slot, and how bad each source is."""
        newest = self._newest()
        families: list[Metric] = []
        for (name, meaning), reading in _OF_SLOTS.items():
            family = GaugeMetricFamily(name, meaning, labels=["source", "slot"])
            for source, wal in newest.items():
                for measure, view in wal.slots:
                    value = reading(measure, view)
                    if value is not None:
                        family.add_metric([source, measure.slot], value)
            families.append(family)
        level = GaugeMetricFamily(
            "etl_wal_level", "How bad the source is: 0 OK, 1 WARNING, 2 DANGER, 3 LOST", labels=["source"]
        )
        measured = GaugeMetricFamily(
            "etl_wal_measured_timestamp_seconds", "When the source was measured last, Unix time", labels=["source"]
        )
        for source, wal in newest.items():
            level.add_metric([source], _LEVELS[wal.level])
            measured.add_metric([source], wal.measured_at.timestamp())
        return [*families, level, measured]
