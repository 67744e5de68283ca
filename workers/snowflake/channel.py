"""The books of one channel: pure, no I/O.

    waiting ──(filter, append)──► underway ──(committed token reached)──┬─ no new error ──────────────────────► durable
                                                                        └─ error counter rose: sifted first ──►

`committed` is Snowflake's token, `appended` the last token that need not be sent again in this life; every segment is filtered against the larger of
the two, not only after an open: a publisher that connects again sends again what was in flight. Rows of a segment stand in position order, so
the filter is a number of leading rows.

`handed` is the last token that the SDK was given. It stays behind `appended` when the last rows of a segment went to the dead letter: there is no
append without rows, so the segment is durable as soon as `handed` is committed.

A row that Snowflake refuses leaves no trace but the error counter, and the token passes it. So the counter is a question to the segments
that the token has reached: *sifting* (see `rejected`) finds their refused rows and brings them to the dead letter; only then are they durable.

* `errors` counts the refusals that are accounted for. It rises by what sifting finds, not to what the counter says: the counter may already
  speak of rows whose token has not been reached. Once nothing is underway, everything has been looked at, and it takes the counter's word.
* `doubt`: when the counter at an open is not the baseline that the publisher knows, rows were refused while nobody looked. They are at or
  before the token committed then, and after the confirmed position, so the publisher sends them again: segments that begin at or before
  `doubt` are always sifted, and the publisher keeps its old baseline until one beyond it is durable.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from etl_supervisor.ipc.messages import Segment
from etl_supervisor.model.position import Position


@dataclass(frozen=True, slots=True)
class ChannelStatus:
    """What Snowflake says of a channel. `errors` counts refused rows since it was created; `message`, of the last one, may repeat a value.

    `handed`, at an open: rows up to it are in Snowflake's hands already, and will be committed (None: those that are committed). `newest`: rows
    up to it may have been committed, or refused, before an open (None: as `committed`).
    """

    committed: str | None
    errors: int
    valid: bool
    message: str = field(default="", repr=False)
    handed: str | None = None
    newest: str | None = None


@dataclass(frozen=True, slots=True)
class Underway:
    """A segment whose rows are with the SDK or in the dead letter; durable once `needs` is committed. `fd` is an oversize segment's;
    `since` is when its first row was committed in the source (Unix seconds; None: a copy's rows, or none of it was sent), `at` when it was taken
    (monotonic seconds)."""

    segment: Segment
    fd: int | None
    needs: str
    since: float | None = None
    at: float = 0.0


@dataclass(slots=True)
class Channel:
    """Tokens, baseline, and the segments on their way. Tokens are None before the first row."""

    committed: str | None = None
    appended: str | None = None
    handed: str | None = None
    errors: int = 0
    known: int = 0  # the publisher's baseline while in doubt
    doubt: str = ""
    waiting: deque[tuple[Segment, int | None]] = field(default_factory=deque)  # with the descriptor of an oversize one
    undurable: deque[Underway] = field(default_factory=deque)  # in order
    durable_seq: int = 0
    accepted_seq: int = 0
    moved_at: float = 0.0  # when the committed token last rose (monotonic seconds)

    @property
    def reached(self) -> str:
        """Rows at or before this token need not be sent again."""
        return max(self.committed or "", self.appended or "")

    @property
    def idle(self) -> bool:
        """True when every segment is durable."""
        return not self.waiting and not self.undurable

    @property
    def baseline(self) -> int:
        """The error counter up to which every refused row is accounted for, for the publisher to keep."""
        return self.known if self.doubt else self.errors

    def opened(self, status: ChannelStatus, known: int) -> None:
        """The channel was opened: what was appended and neither committed nor `handed` is gone. Segments may wait already. `known` is the publisher's
        baseline. What was committed before a rest stays so, also when Snowflake has forgotten the channel since."""
        assert self.appended is None, "nothing is appended to a channel that is not open"
        self.committed, self.appended = max(self.committed or "", status.committed or "") or None, status.handed
        self.handed = status.handed or self.committed
        self.errors, self.known = status.errors, known
        self.doubt = (status.newest or status.committed or "") if status.errors != known else ""

    def rest(self) -> None:
        """The channel is closed until the next row; everything is durable."""
        assert not self.undurable
        self.committed, self.appended, self.handed = self.reached or None, None, None

    def took(self, handed: str, since: float | None = None, now: float = 0.0) -> Underway:
        """The next waiting segment is with the SDK (or was before), or in the dead letter; `handed` is the SDK's token now ("": none)."""
        segment, fd = self.waiting.popleft()
        self.handed = max(self.handed or "", handed) or None
        self.appended = max(self.appended or "", segment.last)
        self.accepted_seq = segment.seq
        taken = Underway(segment, fd, min(segment.last, handed), since, now)
        self.undurable.append(taken)
        return taken

    def told(self, committed: str | None, now: float = 0.0) -> list[Underway]:
        """Snowflake's word: the oldest segments, which have come through with it. They are to be sifted (`suspicious`) or settled."""
        if (committed or "") > (self.committed or ""):
            self.committed, self.moved_at = committed, now
        return [item for item in self.undurable if item.needs <= (self.committed or "")]

    def stalled_seconds(self, now: float) -> float:
        """For how long Snowflake has had rows and committed none of them."""
        return now - max(self.moved_at, self.undurable[0].at) if self.undurable else 0.0

    def suspicious(self, items: list[Underway], errors: int) -> bool:
        """Whether rows of these may have been refused."""
        return errors != self.errors or any(item.segment.first <= self.doubt for item in items)

    def settled(self, items: list[Underway]) -> None:
        """These, the oldest, are durable."""
        for item in items:
            taken = self.undurable.popleft()
            assert taken is item, "segments become durable in order"
            self.durable_seq = item.segment.seq
            if item.segment.last > self.doubt:
                self.doubt = ""

    def sifted(self, items: list[Underway], found: int, errors: int) -> None:
        """These have been looked at: `found` rows of this life were refused; `errors` is the counter of the status that asked for it."""
        self.errors += found
        self.settled(items)
        if not self.undurable:
            self.errors = errors


def unsent(batch: pa.RecordBatch, reached: str, generation: int) -> pa.RecordBatch:
    """The rows after `reached`: a slice, because rows stand in position order."""
    if not reached:
        return batch
    _, commit, lsn, ordinal = Position.parse(reached)
    commits, lsns, ordinals = (batch.column(number).to_numpy() for number in (1, 2, 3))
    done = (commits < commit) | ((commits == commit) & ((lsns < lsn) | ((lsns == lsn) & (ordinals <= ordinal))))
    assert generation == Position.parse(reached).generation, "a channel belongs to one generation"
    return batch.slice(int(np.count_nonzero(done)))
