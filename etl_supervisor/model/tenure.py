"""Which sources are a supervisor's to run, and until when: the parent's side of the leases (`etl_supervisor.monitor.leases`).

    monitor    asks the database at `t`, is given n seconds by the database's clock, tells the parent: yours until t + n - FENCE_SECONDS
    parent     compares with its own clock in every turn: what has run out is killed, and nothing of it starts

`t` is taken before the question is sent, so ours ends before the database's does, however long the answer took. The clock counts while the machine
sleeps, and is the same for every process of it. A parent that stood still (SIGSTOP) finds its time over in its first turn.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass

FENCE_SECONDS = 1.0  # a kill takes milliseconds; the rest is for clocks that run apart and a machine that is busy


def clock() -> float:
    """Seconds since the machine was started, those included in which it slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Tenure:
    """`sources` (ids) are ours until `until`; `always`: there are no leases, every source is ours."""

    sources: Collection[int] = ()
    until: float = 0.0
    always: bool = False

    def holds(self, source_id: int, now: float) -> bool:
        """Whether a source is ours at this moment."""
        return self.always or (source_id in self.sources and now < self.until)

    def seconds_left(self, now: float) -> float:
        """Until something has to be killed, if nothing is told before; infinite when nothing is ours."""
        return self.until - now if self.sources and now < self.until and not self.always else float("inf")
