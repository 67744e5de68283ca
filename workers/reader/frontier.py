"""How far a source is durable: pure bookkeeping, no I/O.

Batches are numbered as they are sealed. A batch has segments (one per table and pipeline) and, if it holds a Commit, the end of its
last transaction. A position may be confirmed when no row at or before it is still open:

    batch      1         2            3          4
    ends       100       -            180        260          "-": in the middle of a large transaction
    open                 a:7                     a:9, b:3
               ^durable = 100: the last end before the oldest open segment

`fence` is the same for one table: how far *its* rows are complete, so that one slow table does not hold back the others' targets. A table that is
held (stopped with an error) pins the source at its last complete position: PostgreSQL keeps its WAL until it is healed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class Frontier:
    """Which positions are complete. LSNs are ends of transactions (exclusive: every commit_lsn below is complete)."""

    def __init__(self, confirmed: int) -> None:
        self._base = confirmed  # the end before everything in `_ends`
        self._ends: deque[tuple[int, int]] = deque()  # (batch number, end of its last transaction)
        self._number = 0
        self._open: dict[int, deque[tuple[int, int]]] = {}  # handle -> (batch number, seq), oldest first
        self._pins: dict[int, int] = {}

    @property
    def decoded(self) -> int:
        """The end of the last transaction that was sealed."""
        return self._ends[-1][1] if self._ends else self._base

    @property
    def in_flight(self) -> bool:
        """True while a segment is not durable."""
        return any(self._open.values())

    @property
    def durable(self) -> int:
        """Everything below is durable at every destination."""
        return min([self._end_before(self._oldest()), *self._pins.values()])

    def sealed(self, end_lsn: int | None, segments: Iterable[tuple[int, int]]) -> None:
        """A batch was sealed: its segments (handle, seq), and the end of its last transaction if it has one."""
        self._number += 1
        for handle, seq in segments:
            if handle not in self._pins:
                self._open.setdefault(handle, deque()).append((self._number, seq))
        if end_lsn is not None:
            assert end_lsn >= self.decoded, (end_lsn, self.decoded)
            self._ends.append((self._number, end_lsn))
        self._forget()

    def completed(self, handle: int, seq: int) -> None:
        """Every segment of this handle up to `seq` is durable."""
        queue = self._open.get(handle)
        while queue and queue[0][1] <= seq:
            queue.popleft()
        self._forget()

    def idle(self, wal_end: int) -> None:
        """The walsender has nothing before `wal_end` for us, and nothing is in flight."""
        assert not self.in_flight
        self._base = max(self.decoded, wal_end)
        self._ends.clear()

    def fence(self, handle: int) -> int:
        """Every row of this table below is durable."""
        if handle in self._pins:
            return self._pins[handle]
        queue = self._open.get(handle)
        return self._end_before(queue[0][0]) if queue else self.decoded

    def oldest(self, handles: Iterable[int]) -> int | None:
        """The number of the oldest batch in which one of these tables has rows in flight; None without any, 0 when one is held."""
        found = [0 if handle in self._pins else self._open[handle][0][0] for handle in handles if self._waits(handle)]
        return min(found, default=None)

    def hold(self, handle: int) -> None:
        """This table stops here: nothing after its last complete position may be confirmed."""
        self._pins.setdefault(handle, self.fence(handle))
        self._open.pop(handle, None)
        self._forget()

    def forget(self, handle: int) -> None:
        """This handle's rows need not become durable any more."""
        self._pins.pop(handle, None)
        self._open.pop(handle, None)
        self._forget()

    def _waits(self, handle: int) -> bool:
        return handle in self._pins or bool(self._open.get(handle))

    def _oldest(self) -> int:
        return min((queue[0][0] for queue in self._open.values() if queue), default=self._number + 1)

    def _end_before(self, number: int) -> int:
        found = self._base
        for batch, end in self._ends:
            if batch >= number:
                break
            found = end
        return found

    def _forget(self) -> None:
        """Drop the ends that no question can be about any more."""
        oldest = self._oldest()
        while self._ends and self._ends[0][0] < oldest:
            self._base = self._ends.popleft()[1]
