"""Several channels of one table as one: a hot table is not bound to what Snowflake takes from one channel.

    segment ──► rows by shard (`sharding`) ──► an append to each channel that has rows, all with the segment's last token

Committed is the last token up to which every channel has committed what it was given: a segment is durable when its rows are, in whatever channel.

TRUNCATE needs no barrier: rows are applied in the order of their positions, and only up to a fence below which every channel's rows are durable. So
rows that arrive after a later TRUNCATE are applied before it.

After a crash the channels stand at different tokens. A row at or before the newest of them may be landed or not, and its hash does not tell: what the
key is, the catalog says too, which may be another one by then. So the landing table is asked for the rows up to that token, all of which have been
committed or lost by the opens. Rows below the watermark are landed, and may be purged. The number of channels belongs to a generation: each open
fences every channel in which rows of it may be under way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from etl_supervisor.failpoints import failpoint
from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model.position import Position
from etl_supervisor.model.table import Table
from workers.snowflake import rejected
from workers.snowflake.channel import ChannelStatus, unsent
from workers.snowflake.failure import Saturated
from workers.snowflake.inquiry import Inquiries
from workers.snowflake.loading import Tools
from workers.snowflake.ndjson import encode
from workers.snowflake.sharding import shards_of
from workers.snowflake.streaming import ACCEPT_SECONDS_MAX, CLOSE_SECONDS, HELD, Lines, StreamingClient
from workers.snowflake.tagging import tag_of


@dataclass(slots=True)
class _Shard:
    """One channel of the SDK, the token up to which it was given rows in this life, and the first and last token of each append that is not committed
    yet."""

    channel: Any
    reached: str = ""
    underway: deque[tuple[str, str]] = field(default_factory=deque)


@dataclass(slots=True)
class Progress:
    """How far all channels are together (pure). Tokens of appends that every channel got its part of, and what is committed of them."""

    committed: str = ""
    whole: deque[str] = field(default_factory=deque)

    def advance(self, oldest: str | None) -> str | None:
        """What is committed, when some channel has not committed rows from `oldest` on (None: there are none)."""
        while self.whole and (oldest is None or self.whole[0] < oldest):
            self.committed = self.whole.popleft()
        return self.committed or None


class ShardedChannel:
    """A `LoadChannel` over channels of one client. `landed` tells two tokens: of the newest row in the landing table, and one below which every row
    is landed."""

    def __init__(
        self,
        client: StreamingClient,
        channels: dict[str, tuple[Any, ChannelStatus]],
        opening: OpenTable,
        tools: Tools,
        landed: tuple[str, str],
    ) -> None:
        """`channels`, by name, are open."""
        self._client, self._opening, self._tools = client, opening, tools
        self._shards = {name: _Shard(channel) for name, (channel, _) in channels.items()}
        newest, self._applied = landed
        self._newest = max([newest, *(status.committed or "" for _, status in channels.values())])
        self._progress = Progress(self._applied)
        self._last: str | None = None
        self.opened = self._together([status for _, status in channels.values()])

    def encode(
        self, rows: pa.RecordBatch, table: Table, generation: int, loaded_at: str
    ) -> list[tuple[_Shard, pa.Buffer, int]]:
        """The rows that are not landed, by channel."""
        rows = self._unlanded(rows, generation)
        numbers = shards_of(rows, len(self._shards))
        found = []
        for number, shard in enumerate(self._shards.values()):
            part = unsent(rows.filter(pa.array(numbers == number)), shard.reached, generation)
            if part.num_rows:
                found.append((shard, encode(part, table, generation, loaded_at), part.num_rows))
        return found

    def append(self, data: list[tuple[_Shard, pa.Buffer, int]], rows: int, first: str, last: str) -> int:
        """Hand each channel its part. When one is saturated the rest comes again, without what the others have."""
        size = sum(int(lines.size) for _, lines, _ in data)
        if HELD.full(self, size) and not self.flush():
            raise Saturated
        for shard, lines, count in data:
            shard.channel.append_rows(Lines(lines, count), first, last)
            HELD.add(self, int(lines.size))
            shard.reached = last
            shard.underway.append((first, last))
            failpoint("shards.between_appends")
        self._last = last
        self._progress.whole.append(last)
        return size

    @property
    def whole(self) -> bool:
        """Rows are appended one by one."""
        return True

    def rehearse(self, data: Any, alive: Callable[[], bool]) -> None:
        """They have been encoded: what the SDK does with them can't be taken back."""

    def seal(self, alive: Callable[[], bool], reached: str) -> str | None:
        """The SDK has what was appended."""
        return self._last

    def flush(self) -> bool:
        """Send what was appended now, and wait a moment: whether Snowflake has accepted it all."""
        busy = [shard.channel for shard in self._shards.values() if shard.underway]
        for channel in busy:
            channel.initiate_flush()
        try:
            for channel in busy:
                channel.wait_for_flush(ACCEPT_SECONDS_MAX)
        except TimeoutError:  # the SDK's own name for it
            return False
        HELD.clear(self)
        return True

    def status(self, inquiries: Inquiries | None = None) -> ChannelStatus:
        """What is committed, by one question for all channels."""
        return self._together(self._client.statuses(list(self._shards), inquiries))

    def close(self, *, flush: bool, drop: bool = False) -> None:
        """Close the channels and their client within a limit; with `drop` Snowflake forgets them."""
        HELD.clear(self)
        try:
            for shard in self._shards.values():
                shard.channel.close(drop=drop, wait_for_flush=flush, timeout_seconds=CLOSE_SECONDS)
        finally:
            self._client.close()

    # -- inside

    def _unlanded(self, rows: pa.RecordBatch, generation: int) -> pa.RecordBatch:
        """Without the rows that an earlier life has landed."""
        rows = unsent(rows, self._applied, generation)
        if (
            rows.num_rows == 0
            or Position(generation, *(rows.column(i)[0].as_py() for i in (1, 2, 3))).token > self._newest
        ):
            return rows
        missing = self._tools.sessions.run(
            self._opening.destination,
            tag_of(self._opening, "open"),
            lambda connection: rejected.missing(connection, self._opening, rows),
        )
        return rows.take(pa.array(missing, pa.int64()))

    def _together(self, statuses: list[ChannelStatus]) -> ChannelStatus:
        for shard, status in zip(self._shards.values(), statuses, strict=True):
            while shard.underway and shard.underway[0][1] <= (status.committed or ""):
                shard.underway.popleft()
        oldest = min((shard.underway[0][0] for shard in self._shards.values() if shard.underway), default=None)
        return ChannelStatus(
            self._progress.advance(oldest),
            sum(status.errors for status in statuses),
            all(status.valid for status in statuses),
            next((status.message for status in statuses if status.message), ""),
            newest=self._newest or None,
        )
