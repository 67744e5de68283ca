"""Channels: continuation tokens, fencing, what is pending and what is committed. Pure but for `Commit`, which the caller carries out.

An open raises the channel's sequencer: an append with an older continuation token is refused, which fences the older owner. Appended rows are pending
until their commit is due; committed token and rows become visible together. Pending rows die with the server, as they do with a re-open.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field, replace

COMMIT_BYTES_MAX = 16 << 20  # DuckDB reads a commit in one go
ChannelKey = tuple[str, str, str, str]  # database, schema, pipe, channel, normalised
CLOSED = "ERR_CHANNEL_MUST_BE_REOPENED"  # the answer to an append, and the status, of a channel that an earlier server had open


@dataclass(slots=True)
class Piece:
    """NDJSON of one flush (or one fragment of a file) and the tokens that it begins and ends with. `rows` is what the client says, if it does."""

    lines: bytes
    first: str | None
    last: str | None
    rows: int | None = None


@dataclass(slots=True)
class Pending:
    """Appended rows and the token they end with; in the counting mode their number is all that is left of them."""

    lines: bytes
    token: str | None
    due: float
    rows: int = 0


@dataclass(slots=True)
class Channel:
    """One channel. Counters are since its creation."""

    key: ChannelKey
    created_ms: int
    committed: str | None = None
    sequencer: int = 0
    appends: int = 0
    rows_parsed: int = 0
    rows_inserted: int = 0
    rows_error: int = 0
    error_offset: str | None = None
    error_message: str | None = None
    error_ms: int | None = None
    pending: deque[Pending] = field(default_factory=deque)
    last_request: str = ""

    @property
    def continuation(self) -> str:
        """What the next append must bring."""
        return f"{self.sequencer}_{self.appends}"

    def open(self, offset_token: str | None) -> None:
        """A new owner: older continuation tokens are stale, uncommitted rows are gone."""
        self.sequencer, self.appends, self.last_request = self.sequencer + 1, 0, ""
        self.pending.clear()
        if offset_token is not None:
            self.committed = offset_token

    @property
    def reached(self) -> str:
        """The token of the last row that was appended in this life or committed before it."""
        return max(self.committed or "", *(item.token or "" for item in self.pending), "")

    def append(self, pieces: list[Pending], request: str) -> None:
        """Take rows."""
        self.pending.extend(pieces)
        self.appends, self.last_request = self.appends + 1, request

    def due(self, now: float) -> list[Pending]:
        """What is to be committed now, in order, as much as is committed at once."""
        found: list[Pending] = []
        size = 0
        for item in self.pending:
            if item.due > now or (found and size + len(item.lines) > COMMIT_BYTES_MAX):
                break
            found.append(item)
            size += len(item.lines)
        return found

    def committed_rows(self, items: list[Pending], parsed: int, inserted: int) -> None:
        """These were committed."""
        for _ in items:
            self.pending.popleft()
        tokens = [item.token for item in items if item.token is not None]
        self.committed = tokens[-1] if tokens else self.committed
        self.rows_parsed += parsed
        self.rows_inserted += inserted
        if parsed > inserted:
            self.rows_error += parsed - inserted
            self.error_offset, self.error_message = self.committed, "a value does not fit its column"
            self.error_ms = int(time.time() * 1000)

    def after(self, items: list[Pending], parsed: int, inserted: int) -> Channel:
        """What the channel will be once these are committed; nothing is pending in it."""
        later = replace(self, pending=deque(items))
        later.committed_rows(items, parsed, inserted)
        return later

    def status(self, code: str = "SUCCESS") -> dict[str, object]:
        """As the protocol spells it."""
        database, schema, pipe, name = self.key
        return {
            "database_name": database,
            "schema_name": schema,
            "pipe_name": pipe,
            "channel_name": name,
            "channel_status_code": code,
            "last_committed_offset_token": self.committed,
            "created_on_ms": self.created_ms,
            "rows_inserted": self.rows_inserted,
            "rows_parsed": self.rows_parsed,
            "rows_error_count": self.rows_error,
            "last_error_offset_upper_bound": self.error_offset,
            "last_error_message": self.error_message,
            "last_error_timestamp_ms": self.error_ms,
            "snowflake_avg_processing_latency_ms": 100,
        }
