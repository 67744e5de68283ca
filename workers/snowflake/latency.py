"""How long rows need from their commit in the source into the target: durable segments wait here until an apply has come past them.

A segment counts once, with its oldest row. Of a table that is behind, the oldest `AWAITED_MAX` segments are measured and the others are not: an
apply that takes thousands at once is one sample's worth of news. Segments that a trace follows take the same way (`traces`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model.position import Position
from etl_supervisor.monitor import metrics
from workers.snowflake.channel import Underway
from workers.snowflake.traces import Followed

AWAITED_MAX = 100  # per table; an actor may have thousands of tables


class Awaited:
    """The segments of one table that are durable and not applied: the commit_lsn of each one's last row, and since when it waits (Unix seconds)."""

    def __init__(self) -> None:
        self._segments: deque[tuple[int, float]] = deque()
        self._followed = Followed()

    def took(self, item: Underway) -> None:
        """This has left for Snowflake."""
        self._followed.took(item)

    def durable(self, opening: OpenTable, items: Iterable[Underway]) -> None:
        """These have become durable."""
        commits = [(item.segment.last, item.since) for item in items if item.since is not None]
        metrics.observe_since(metrics.DURABLE_SECONDS.labels(opening.pipeline), [since for _, since in commits])
        for last, since in commits:
            if len(self._segments) < AWAITED_MAX:
                self._segments.append((Position.parse(last).commit_lsn, since))
        self._followed.durable(opening, items)

    def applied(self, opening: OpenTable, fence: int, began_ns: int) -> None:
        """Every row before `fence` is in the target, by an apply that began then (Unix nanoseconds)."""
        through = []
        while self._segments and self._segments[0][0] < fence:
            through.append(self._segments.popleft()[1])
        metrics.observe_since(metrics.APPLIED_SECONDS.labels(opening.pipeline), through)
        self._followed.applied(opening, fence, began_ns)
