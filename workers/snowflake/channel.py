"""The books of one channel: pure, no I/O.

    waiting ──(filter, append)──► appended ──(committed token reached, no new error)──► durable

`committed` is Snowflake's token, `appended` the last token handed to the SDK; every segment is filtered against the larger of the two, not only
after an open: a publisher that connects again sends again what was in flight. Rows of a segment stand in position order, so the filter is a
number of leading rows. A segment that is wholly filtered is durable as soon as the committed token has reached its end.

An error counter above its baseline stops the channel: nothing after it is ever called durable.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from etl_supervisor.ipc.messages import Segment
from etl_supervisor.model.position import Position


@dataclass(slots=True)
class Channel:
    """Tokens, baseline, and the segments on their way. Tokens are None before the first row."""

    committed: str | None = None
    appended: str | None = None
    errors: int = 0
    waiting: deque[tuple[Segment, int | None]] = field(default_factory=deque)  # with the descriptor of an oversize one
    undurable: deque[tuple[int, str]] = field(default_factory=deque)  # (seq, last token), in order
    durable_seq: int = 0
    accepted_seq: int = 0

    @property
    def reached(self) -> str:
        """Rows at or before this token need not be sent again."""
        return max(self.committed or "", self.appended or "")

    @property
    def idle(self) -> bool:
        """True when every segment is durable."""
        return not self.waiting and not self.undurable

    def opened(self, committed: str | None, errors: int) -> None:
        """The channel was opened: what was appended and not committed is gone. Segments may wait already."""
        assert self.appended is None, "books are made anew for every open"
        self.committed, self.errors = committed, errors

    def took(self, segment: Segment) -> None:
        """The SDK has the rows of this segment (or had them before)."""
        self.appended = max(self.appended or "", segment.last)
        self.accepted_seq = segment.seq
        self.undurable.append((segment.seq, segment.last))

    def told(self, committed: str | None, errors: int) -> bool:
        """Snowflake's word. True when more has become durable; `rejected` tells whether it refused rows."""
        if errors > self.errors:
            return False
        self.committed = max(self.committed or "", committed or "") or None
        before = self.durable_seq
        while self.undurable and self.undurable[0][1] <= (self.committed or ""):
            self.durable_seq = self.undurable.popleft()[0]
        return self.durable_seq > before

    def rejected(self, errors: int) -> int:
        """How many rows Snowflake refused since the baseline."""
        return max(0, errors - self.errors)


def unsent(batch: pa.RecordBatch, reached: str, generation: int) -> pa.RecordBatch:
    """The rows after `reached`: a slice, because rows stand in position order."""
    if not reached:
        return batch
    _, commit, lsn, ordinal = Position.parse(reached)
    commits, lsns, ordinals = (batch.column(number).to_numpy() for number in (1, 2, 3))
    done = (commits < commit) | ((commits == commit) & ((lsns < lsn) | ((lsns == lsn) & (ordinals <= ordinal))))
    assert generation == Position.parse(reached).generation, "a channel belongs to one generation"
    return batch.slice(int(np.count_nonzero(done)))
