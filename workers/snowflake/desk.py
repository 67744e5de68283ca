"""One table of one publisher at this actor: what was asked, what is under way, what may start now.

    OPENING ──► OPEN ──(ReshapeTable, once everything before it is durable)──► ALTERING ──► OPEN
       └──────────┴────────────── any failure ──────────────────────────────────────────┴──► DEAD ──(OpenTable)──► OPENING

A desk has at most one job at a time of each sort: `sdk` (open, append), `status` (and what it leads to, `sift`), `sql` (alter, apply). Jobs run
in threads and may block as long as they like; the loop starts them with what they work on, and takes their results.

`life` counts the opens and the deaths. A result of an earlier life is dropped, and an append of an earlier life does not happen: its publisher may
have been told that the table failed, and may use the memory of its rows again. The life ends before that word goes out, and an append looks at it
after it has copied the rows: rows that were read in the same life are whole. The same holds for rows on their way to the dead letter.
"""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Any

import pyarrow as pa
import structlog

from etl_supervisor.failpoints import failpoint
from etl_supervisor.ipc.messages import OVERSIZE_SLOT, OpenTable, ReshapeTable, Segment
from etl_supervisor.ipc.segment import SlabReader, oversize_batch
from etl_supervisor.monitor import metrics
from workers.snowflake import apply as applying
from workers.snowflake import ddl
from workers.snowflake import purge as purging
from workers.snowflake.channel import Channel, ChannelStatus, Underway
from workers.snowflake.files import FileChannel
from workers.snowflake.gathering import SHARE_OF_SLAB, Gathering
from workers.snowflake.jobs import Lane
from workers.snowflake.limits import Limits, limits_of
from workers.snowflake.loading import SOON_MS_MAX, LoadChannel, Loading, Prepared, Suspicion, Tools, in_our_words
from workers.snowflake.opening import open_channel
from workers.snowflake.tagging import tag_of

SEGMENTS_PER_JOB = 16  # then the results are told; a segment is at most a few MB
AGAIN_SECONDS = 0.2  # after back-pressure
WAIT_SECONDS_MIN = 0.005  # a question that is due and can't be asked must not spin
WAIT_SECONDS_BUSY = 0.1  # while something is under way: statuses are asked for
STATUS_SECONDS = 0.25  # the SDK answers from its own cache, which is a second old at most
SOON_SECONDS = 0.03  # between two questions to Snowflake itself, for rows that are wanted soon …
SOON_PART = (
    0.25  # … and later this part of the time that has passed: it commits when it likes, 5 to 10 s after an append
)

log = structlog.get_logger()


class State(Enum):
    """Whether a desk works."""

    OPENING = auto()
    OPEN = auto()
    ALTERING = auto()
    DEAD = auto()


@dataclass(slots=True)
class Desk:
    """The state of one handle. `slab` is its publisher's."""

    opening: OpenTable
    slab: SlabReader
    tools: Tools
    state: State = State.OPENING
    life: int = 0
    channel: Channel = field(default_factory=Channel)
    sdk: LoadChannel | None = None
    gathering: Gathering | None = None  # when rows travel as files
    hurried: int = 0  # what the publisher has asked for, maybe before the channel was open
    watermark: ddl.Watermark | None = None
    limits: Limits = field(default_factory=Limits)
    suspicion: Suspicion | None = None
    dead: int | None = None  # rows of this table in the dead letter, once one came into it
    reshapes: deque[ReshapeTable] = field(default_factory=deque)  # in the order of the stream
    fence: int = 0
    purged_at: int = 0  # the watermark at the last purge
    purge_at: float = 0.0
    copied: int = 0  # commit_lsn of the copy's rows
    closing: bool | None = None  # drop? once a CloseTable has come
    sdk_busy: bool = False
    status_busy: bool = False
    sift_busy: bool = False
    sql_busy: bool = False
    append_at: float = 0.0
    status_at: float = 0.0

    def begin(self, opening: OpenTable) -> None:
        """A new life, with an open under way."""
        self.end()
        self.opening, self.state, self.sdk_busy = opening, State.OPENING, True

    def end(self) -> LoadChannel | None:
        """The life is over: nothing that is under way counts any more. Returns the channel, for the caller to close."""
        self.life += 1
        self.state = State.DEAD
        for _, fd in self.channel.waiting:
            close_descriptor(fd)
        for item in self.channel.undurable:
            close_descriptor(item.fd)
        self.channel, self.gathering = Channel(), None
        self.reshapes.clear()
        self.fence, self.hurried, self.suspicion, self.dead = 0, 0, None, None
        self.sdk_busy = self.sql_busy = self.status_busy = self.sift_busy = False
        sdk, self.sdk = self.sdk, None
        return sdk

    def take_channel(self, sdk: LoadChannel) -> None:
        """The channel is open."""
        self.sdk, self.sdk_busy, self.state = sdk, False, State.OPEN
        self.channel.opened(sdk.opened.committed, sdk.opened.errors, self.opening.errors, sdk.opened.handed)
        if isinstance(sdk, FileChannel):
            load = self.opening.load
            self.gathering = Gathering(min(load.file_bytes_max, self.slab.size // SHARE_OF_SLAB), load.file_seconds_max)
            self.gathering.hurried = self.hurried

    def take_shape(self, opening: OpenTable, prepared: Prepared) -> None:
        """The tables were looked after: rows from now on have this version's shape, or were landed before and will be filtered."""
        self.opening = replace(opening, table=prepared.ensured.table)
        self.watermark, self.limits = prepared.ensured.watermark, prepared.limits

    def alter(self) -> OpenTable:
        """The next shape is under way."""
        shape = self.reshapes.popleft()
        self.state, self.sql_busy = State.ALTERING, True
        return replace(self.opening, table=shape.table, since=shape.since)

    def altered(self, opening: OpenTable, prepared: Prepared) -> None:
        """The tables have the next shape."""
        self.take_shape(opening, prepared)
        self.state, self.sql_busy = State.OPEN, False

    @property
    def lane(self) -> Lane:
        """Where appends and statuses run: uploads and loads of files keep no streaming table waiting."""
        return Lane.STREAM if self.gathering is None else Lane.FILES

    # -- what may start now

    def wants_append(self, now: float) -> bool:
        """A segment waits that this version of the table can take."""
        ready = self.state is State.OPEN and not self.sdk_busy and now >= self.append_at and bool(self.channel.waiting)
        return ready and self.channel.waiting[0][0].version <= self.opening.table.version and self._is_due(now)

    def _is_due(self, now: float) -> bool:
        """Files are made when they are large or old enough, unless a change of shape or the end waits for them."""
        if self.gathering is None:
            return True
        self.gathering.note(self.channel.waiting, now)
        return (
            bool(self.reshapes) or self.closing is not None or self.gathering.due(self.channel.waiting[0][0].seq, now)
        )

    def hurry(self, seq: int) -> None:
        """Rows up to this segment must not wait."""
        self.hurried = max(self.hurried, seq)
        if self.gathering is not None:
            self.gathering.hurried = self.hurried

    def shown(self, fence: int) -> None:
        """A joint apply has moved the target."""
        if self.watermark is not None:
            self.watermark = replace(self.watermark, applied=max(self.watermark.applied, fence))

    def wants_status(self, now: float) -> bool:
        """Rows are with the SDK and their fate is open."""
        pending = self.state in (State.OPEN, State.ALTERING) and bool(self.channel.undurable)
        return pending and self.suspicion is None and not self.status_busy and now >= self.status_at

    @property
    def busy(self) -> bool:
        """Whether the loop has to look after this desk: statuses are asked for, refused appends tried again."""
        return bool(self.channel.waiting or self.channel.undurable) or self.closing is not None

    def seconds_to_wait(self, now: float) -> float:
        """How long the loop may sleep for this busy desk."""
        due = (
            self.status_at - now if self.soon and self.channel.undurable and not self.status_busy else WAIT_SECONDS_BUSY
        )
        return max(WAIT_SECONDS_MIN, min(WAIT_SECONDS_BUSY, due))

    def wants_sift(self) -> bool:
        """Rows may have been refused, and nobody looks for them yet."""
        return self.suspicion is not None and not self.sift_busy

    def wants_alter(self) -> bool:
        """The shape changed, and everything of the older shapes is durable."""
        if self.state is not State.OPEN or not self.reshapes or self.sql_busy or self.channel.undurable:
            return False
        waiting = self.channel.waiting
        return not self.sdk_busy and (not waiting or waiting[0][0].version >= self.reshapes[0].table.version)

    def wants_apply(self) -> bool:
        """A fence was asked for."""
        if self.state is not State.OPEN or self.sql_busy or self.reshapes or self.watermark is None:
            return False
        return self.fence > 0

    def wants_purge(self, now: float) -> bool:
        """The target has moved since the last purge, and it is time."""
        if self.state is not State.OPEN or self.sql_busy or self.watermark is None or now < self.purge_at:
            return False
        return purging.pause_seconds(self.opening) is not None and self.watermark.applied > self.purged_at

    def wants_close(self) -> bool:
        """A CloseTable has come and nothing is under way."""
        busy = self.sdk_busy or self.sql_busy or self.status_busy or self.sift_busy
        return self.closing is not None and not busy and (self.state is State.DEAD or self.channel.idle)

    # -- jobs: they run in threads, and touch the desk's books only through their results

    def loading(self) -> Loading:
        """What brings segments to Snowflake, as long as this life lasts."""
        life = self.life
        return Loading(self.opening, self.limits, self.tools, lambda: self.life == life)

    def open_job(self, opening: OpenTable) -> tuple[LoadChannel, Prepared]:
        """Ensure the objects, then open the channel: that fences every older owner and tells what is committed."""
        prepared = self.alter_job(opening)
        try:
            sdk = open_channel(replace(opening, table=prepared.ensured.table), self.tools)
        except Exception as error:
            raise in_our_words(error, opening) from None
        failpoint("actor.after_open")
        return sdk, prepared

    @property
    def soon(self) -> bool:
        """Whether the pipeline wants its rows soon."""
        return 0 < self.opening.fill_ms <= SOON_MS_MAX

    def status_due(self, now: float) -> float:
        """When to ask again."""
        oldest = self.channel.undurable[0].since if self.channel.undurable else None
        if not self.soon or oldest is None:
            return now + STATUS_SECONDS
        return now + min(STATUS_SECONDS * 4, max(SOON_SECONDS, (time.time() - oldest) * SOON_PART))

    def status_job(self, sdk: LoadChannel) -> ChannelStatus:
        """What Snowflake has committed."""
        try:
            return sdk.status(self.tools.inquiries if self.soon else None)
        except Exception as error:
            raise in_our_words(error, self.opening) from None

    def alter_job(self, opening: OpenTable) -> Prepared:
        """Bring the objects to their shape."""

        def job(connection: Any) -> Prepared:
            ensured = ddl.ensure(connection, opening)
            return Prepared(ensured, limits_of(ddl.column_types(connection, opening)))

        return self.tools.sessions.run(opening.destination, tag_of(opening, "open"), job)

    def apply_job(self, opening: OpenTable, watermark: ddl.Watermark, fence: int, copied: int) -> ddl.Watermark:
        """One apply block."""
        failpoint("actor.before_apply")
        started = time.monotonic()
        moved = self.tools.sessions.run(
            opening.destination,
            tag_of(opening, "apply"),
            lambda connection: applying.apply(connection, opening, watermark, fence, copied),
        )
        metrics.APPLY_SECONDS.labels(opening.pipeline).observe(time.monotonic() - started)
        failpoint("actor.after_apply")
        return moved

    def purge(self, now: float) -> tuple[OpenTable, int]:
        """A purge is under way: what it works on, and the watermark that it will have seen."""
        assert self.watermark is not None
        self.sql_busy, self.purge_at = True, now + (purging.pause_seconds(self.opening) or 0.0)
        return self.opening, self.watermark.applied

    def purge_job(self, opening: OpenTable) -> int:
        """Applied rows leave the change log."""
        return self.tools.sessions.run(
            opening.destination, tag_of(opening, "purge"), lambda connection: purging.purge(connection, opening)
        )

    def purged(self, applied: int, rows: int) -> None:
        """What was applied and old is gone."""
        self.sql_busy, self.purged_at = False, applied
        if rows:
            log.info("landing_purged", pipeline=self.opening.pipeline, table=str(self.opening.table.name), rows=rows)

    # -- segments

    def next_segments(self) -> list[tuple[Segment, pa.RecordBatch]]:
        """The segments of the next append job, as views of the slab (oversize ones as mappings of their own)."""
        found: list[tuple[Segment, pa.RecordBatch]] = []
        size = 0
        for segment, fd in self.channel.waiting:
            if segment.version > self.opening.table.version or self._is_full(len(found), size):
                break
            found.append((segment, _view(self.slab, segment, fd)))
            size += segment.length
        return found

    def _is_full(self, segments: int, size: int) -> bool:
        """Whether a job takes no more."""
        if self.gathering is None:
            return segments >= SEGMENTS_PER_JOB
        return size >= self.gathering.bytes_max and isinstance(self.sdk, FileChannel) and self.sdk.whole

    def took(self, item: Underway) -> None:
        """A segment has left for Snowflake."""
        if self.gathering is not None:
            self.gathering.taken([item.segment], time.monotonic())

    def suspected(self) -> list[pa.RecordBatch]:
        """The segments under suspicion, as views of the slab."""
        items = self.suspicion.items if self.suspicion is not None else []
        return [_view(self.slab, item.segment, item.fd) for item in items]

    def durable(self, items: list[Underway]) -> None:
        """Their publisher may have the memory of these back."""
        commits = [item.since for item in items if item.since is not None]
        metrics.observe_since(metrics.DURABLE_SECONDS.labels(self.opening.pipeline), commits)
        for item in items:
            close_descriptor(item.fd)


def _view(slab: SlabReader, segment: Segment, fd: int | None) -> pa.RecordBatch:
    if segment.slot == OVERSIZE_SLOT:
        assert fd is not None
        return oversize_batch(os.dup(fd), segment.length)
    return slab.batch(segment)


def close_descriptor(fd: int | None) -> None:
    """Give an oversize segment's descriptor back."""
    if fd is not None:
        os.close(fd)
