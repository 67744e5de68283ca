"""When the segments that wait become a file: pure. Nothing is copied meanwhile, the rows stay where they are in shared memory.

A file is due when its segments are large enough, when the oldest of them has waited long enough, or when somebody must not wait: the publisher
(`Hurry`: its memory is short, it drains, or the rows have come to their end), a change of shape, an orderly end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from etl_supervisor.ipc.messages import Segment

SHARE_OF_SLAB = 4  # a file takes at most this part of the publisher's memory: others fill while it is on its way


@dataclass(slots=True)
class Gathering:
    """What waits at one desk, the first of it since `since`. Sizes are of Arrow in memory, times monotonic seconds."""

    bytes_max: int
    seconds_max: float
    hurried: int = 0  # segments up to this seq must not wait
    since: float | None = None
    _bytes: int = 0
    _newest: int = 0

    def note(self, waiting: Iterable[tuple[Segment, int | None]], now: float) -> None:
        """What waits now, oldest first."""
        for segment, _ in waiting:
            if segment.seq > self._newest:
                self._newest, self._bytes = segment.seq, self._bytes + segment.length
                self.since = now if self.since is None else self.since

    def due(self, oldest: int, now: float) -> bool:
        """Whether a file is made now; `oldest` is the seq of the first segment that waits."""
        old = self.since is not None and now - self.since >= self.seconds_max
        return old or self._bytes >= self.bytes_max or oldest <= self.hurried

    def forget(self) -> None:
        """Nothing waits: what did comes again."""
        self._bytes, self._newest, self.since = 0, 0, None

    def taken(self, segments: Iterable[Segment], now: float) -> None:
        """These are in a file. What is left has waited for no longer than since now."""
        self._bytes = max(0, self._bytes - sum(segment.length for segment in segments))
        self.since = now if self._bytes else None
