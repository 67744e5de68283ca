"""How long rows need from their commit in the source into the target: durable segments wait here until an apply has come past them.

A segment counts once, with its oldest row. Of a table that is behind, the oldest `AWAITED_MAX` segments are measured and the others are not: an
apply that takes thousands at once is one sample's worth of news.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from etl_supervisor.model.position import Position
from etl_supervisor.monitor import metrics
from workers.snowflake.channel import Underway

AWAITED_MAX = 100  # per table; an actor may have thousands of tables


class Awaited:
    """The segments of one table that are durable and not applied: the commit_lsn of each one's last row, and since when it waits (Unix seconds)."""

    def __init__(self) -> None:
        self._segments: deque[tuple[int, float]] = deque()

    def durable(self, items: Iterable[Underway]) -> None:
        """These have become durable."""
        for item in items:
            if item.since is not None and len(self._segments) < AWAITED_MAX:
                self._segments.append((Position.parse(item.segment.last).commit_lsn, item.since))

    def applied(self, pipeline: str, fence: int) -> None:
        """Every row before `fence` is in the target."""
        through = []
        while self._segments and self._segments[0][0] < fence:
            through.append(self._segments.popleft()[1])
        metrics.observe_since(metrics.APPLIED_SECONDS.labels(pipeline), through)
