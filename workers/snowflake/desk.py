"""One table of one publisher at this actor: what was asked, what is under way, what may start now.

    OPENING ──► OPEN ──(ReshapeTable, once everything before it is durable)──► ALTERING ──► OPEN
       └──────────┴────────────── any failure ──────────────────────────────────────────┴──► DEAD ──(OpenTable)──► OPENING

OPEN says that the tables are looked after. The channel is opened when the first segment waits, and closed when it has been idle for long (`rest`): an
open channel costs memory and one of the 1,000 pipes of an account. Its committed token is wanted for rows only; who must know it without rows
says so (`OpenTable.prove`).

A desk has at most one job at a time of each sort: `sdk` (open, append), `status` (and what it leads to, `sift`), `sql` (alter, apply). Jobs run
in threads and may block as long as they like; the loop starts them with what they work on, and takes their results.

`life` counts the opens and the deaths. A result of an earlier life is dropped, and an append of an earlier life does not happen: its publisher may
have been told that the table failed, and may use the memory of its rows again. The life ends before that word goes out, and an append looks at it
after it has copied the rows: rows that were read in the same life are whole. The same holds for rows on their way to the dead letter.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field, replace
from enum import Enum, auto

import pyarrow as pa
import structlog

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.failpoints import failpoint
from etl_supervisor.ipc.messages import OpenTable, ReshapeTable, Segment, Shown, TableOpened
from etl_supervisor.ipc.segment import SlabReader
from etl_supervisor.model.burial import Bury
from etl_supervisor.monitor import metrics
from workers.snowflake import apply as applying
from workers.snowflake import purge as purging
from workers.snowflake.channel import Channel, ChannelStatus, Underway
from workers.snowflake.ddl import Ensured
from workers.snowflake.files import FileChannel
from workers.snowflake.gathering import SHARE_OF_SLAB, Gathering
from workers.snowflake.identifiers import named
from workers.snowflake.jobs import Lane
from workers.snowflake.latency import Awaited
from workers.snowflake.limits import Limits
from workers.snowflake.loading import SOON_MS_MAX, LoadChannel, Loading, Suspicion, Tools, in_our_words
from workers.snowflake.opening import open_channel
from workers.snowflake.owner import Watermark
from workers.snowflake.preparing import Prepared, prepare
from workers.snowflake.questions import pause, soon_pause
from workers.snowflake.tagging import tag_of
from workers.snowflake.traces import shared
from workers.snowflake.views import close_descriptor, view

SEGMENTS_PER_JOB = 16  # then the results are told; a segment is at most a few MB
AGAIN_SECONDS = 0.2  # after back-pressure
WAIT_SECONDS_MIN = 0.005  # a question that is due and can't be asked must not spin
WAIT_SECONDS_BUSY = 0.1  # while something is under way: statuses are asked for

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
    waiting_since: float = 0.0  # when the oldest rows came that waited for the channel
    watermark: Watermark | None = None
    awaited: Awaited = field(default_factory=Awaited)
    limits: Limits = field(default_factory=Limits)
    suspicion: Suspicion | None = None
    dead: int | None = None  # rows of this table in the dead letter, once one came into it
    reshapes: deque[ReshapeTable] = field(default_factory=deque)  # in the order of the stream
    fence: int = 0
    purged_at: int = 0  # the watermark at the last purge
    purge_at: float = 0.0
    copied: int = 0  # commit_lsn of the copy's rows
    used_at: float = 0.0  # when the channel was last needed
    closing: bool | None = None  # drop? once a CloseTable has come
    sdk_busy: bool = False
    status_busy: bool = False
    sift_busy: bool = False
    sql_busy: bool = False
    append_at: float = 0.0
    status_at: float = 0.0

    @property
    def place(self) -> str:
        """For errors and logs."""
        return f"pipeline {self.opening.pipeline}, table {self.opening.table.name}"

    def begin(self, opening: OpenTable) -> None:
        """A new life, with an open under way."""
        self.end()
        self.opening, self.state, self.sql_busy = opening, State.OPENING, True

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

    def opened(self, prepared: Prepared) -> None:
        """The tables are looked after; the publisher's baseline counts until the channel is open."""
        self.altered(self.opening, prepared)
        self.channel.errors = self.opening.errors

    def take_channel(self, sdk: LoadChannel) -> None:
        """The channel is open."""
        self.sdk, self.sdk_busy, self.used_at = sdk, False, time.monotonic()
        self.channel.opened(sdk.opened, self.channel.baseline)
        if isinstance(sdk, FileChannel):
            load = self.opening.load
            size = min(load.file_bytes_max, self.slab.size // SHARE_OF_SLAB)
            since = self.waiting_since if self.channel.waiting else None
            self.gathering = Gathering(size, load.file_seconds_max, self.hurried, since)

    def word_of_open(self) -> TableOpened:
        """For the publisher."""
        assert self.watermark is not None
        books, version = self.channel, self.opening.table.version
        newest = self.sdk.opened.newest if self.sdk is not None else None
        tokens = books.committed, newest or books.appended
        marks = self.watermark.applied, self.watermark.shown
        return TableOpened(self.opening.handle, version, *tokens, books.errors, *marks)

    @property
    def may_rest(self) -> bool:
        """Whether the channel is open and nobody would miss it now. One whose rows travel as files has nothing open."""
        busy = self.sdk_busy or self.status_busy or self.sift_busy or self.closing is not None
        return self.sdk is not None and self.gathering is None and self.channel.idle and not busy

    def rest(self) -> LoadChannel | None:
        """Do without the channel until the next row. Returns it, for the caller to close."""
        assert self.may_rest
        self.channel.rest()
        sdk, self.sdk = self.sdk, None
        return sdk

    def take_shape(self, opening: OpenTable, prepared: Prepared) -> None:
        """The tables were looked after: rows from now on have this version's shape, or were landed before and will be filtered."""
        self.opening = replace(opening, table=prepared.ensured.table)
        self.watermark, self.limits = prepared.ensured.watermark, prepared.limits

    def alter(self) -> tuple[OpenTable, Prepared | None]:
        """The next shape is under way; and what is known of the tables, if they have it."""
        assert self.watermark is not None
        shape = self.reshapes.popleft()
        self.state, self.sql_busy = State.ALTERING, True
        opening = named(replace(self.opening, table=shape.table, since=shape.since))
        return opening, Prepared(Ensured(self.watermark, self.opening.table, []), self.limits).of(opening)

    def altered(self, opening: OpenTable, prepared: Prepared) -> None:
        """The tables have the next shape."""
        self.take_shape(opening, prepared)
        self.state, self.sql_busy = State.OPEN, False

    @property
    def lane(self) -> Lane:
        """Where appends and statuses run: uploads and loads of files keep no streaming table waiting."""
        return Lane.STREAM if self.gathering is None else Lane.FILES

    # -- what may start now

    def wants_channel(self) -> bool:
        """Rows wait, and the channel is not open."""
        return self.sdk is None and self._has_rows()

    def wants_append(self, now: float) -> bool:
        """A segment waits that this version of the table can take."""
        return self.sdk is not None and now >= self.append_at and self._has_rows() and self._is_due(now)

    def _has_rows(self) -> bool:
        ready = self.state is State.OPEN and not self.sdk_busy and bool(self.channel.waiting)
        return ready and self.channel.waiting[0][0].version <= self.opening.table.version

    def _is_due(self, now: float) -> bool:
        """Files are made when they are large or old enough, unless a change of shape or the end waits for them."""
        if self.gathering is None:
            return True
        self.gathering.note(self.channel.waiting, now)
        first = self.channel.waiting[0][0]
        pressing = first.trial or first.apart or bool(self.reshapes) or self.closing is not None
        return pressing or self.gathering.due(first.seq, now)

    def hurry(self, seq: int) -> None:
        """Rows up to this segment must not wait."""
        self.hurried = max(self.hurried, seq)
        if self.gathering is not None:
            self.gathering.hurried = self.hurried

    def shown(self, by: Shown) -> None:
        """A joint apply has moved the target."""
        if self.watermark is not None:
            self.watermark = replace(self.watermark, applied=max(self.watermark.applied, by.fence))
        self.awaited.applied(self.opening, by.fence, by.began_ns)

    def wants_status(self, now: float) -> bool:
        """Rows are with the SDK and their fate is open."""
        pending = self.sdk is not None and bool(self.channel.undurable)
        return pending and self.suspicion is None and not self.status_busy and now >= self.status_at

    @property
    def under_way(self) -> bool:
        """Whether rows are being sent, or are with the SDK. Those of a file that is on the stage have left."""
        return self.sdk_busy or (self.gathering is None and bool(self.channel.undurable))

    @property
    def rehearses(self) -> bool:
        """Whether the first rows that wait are not to be loaded: a file that was planned can't be cut."""
        first = self.channel.waiting[0][0]
        return first.rehearse or (first.trial and self.gathering is not None)

    @property
    def busy(self) -> bool:
        """Whether the loop has to look after this desk: statuses are asked for, refused appends tried again."""
        return bool(self.channel.waiting or self.channel.undurable) or self.closing is not None

    def seconds_to_wait(self, now: float) -> float:
        """How long the loop may sleep for this busy desk."""
        asks = self.soon and self.channel.undurable and not self.status_busy
        return max(WAIT_SECONDS_MIN, min(WAIT_SECONDS_BUSY, self.status_at - now if asks else WAIT_SECONDS_BUSY))

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

    def open_job(self, opening: OpenTable) -> tuple[LoadChannel | None, Prepared]:
        """Ensure the objects, and open the channel if its tokens are wanted now."""
        prepared = prepare(opening, self.tools)
        if not opening.prove:
            return None, prepared
        return self.channel_job(replace(opening, table=prepared.ensured.table)), prepared

    def channel_job(self, opening: OpenTable) -> LoadChannel:
        """Open the channel: that fences every older owner and tells what is committed."""
        try:
            sdk = open_channel(opening, self.tools)
        except Exception as error:
            raise in_our_words(error, opening) from None
        failpoint("actor.after_open")
        return sdk

    @property
    def soon(self) -> bool:
        """Whether the pipeline wants its rows soon."""
        return 0 < self.opening.fill_ms <= SOON_MS_MAX

    def status_due(self, now: float) -> float:
        """When to ask again."""
        if self.soon and self.gathering is None and self.channel.undurable:
            return now + soon_pause(now - self.channel.undurable[0].at)
        return now + pause(now - self.used_at)

    def status_job(self, sdk: LoadChannel) -> ChannelStatus:
        """What Snowflake has committed."""
        try:
            status = sdk.status(self.tools.inquiries if self.soon else None)
        except Exception as error:
            raise in_our_words(error, self.opening) from None
        if not status.valid:
            reason = "Snowflake says that the channel is not valid any more"
            raise EtlError(Kind.CHANNEL, self.place, reason, "it is opened again", transient=True)
        return status

    def apply_job(self, opening: OpenTable, watermark: Watermark, fence: int, copied: int) -> Watermark:
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

    def applied(self, began_ns: int, watermark: Watermark) -> None:
        """An apply block that was begun then has ended well."""
        self.sql_busy, self.watermark = False, watermark
        self.awaited.applied(self.opening, watermark.applied, began_ns)

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

    def take(self, segment: Segment, fd: int | None) -> None:
        """Rows have come; they wait here."""
        if not self.channel.waiting:
            self.waiting_since = time.monotonic()
        self.channel.waiting.append((shared(self.opening, segment), fd))

    def next_segments(self) -> list[tuple[Segment, pa.RecordBatch]]:
        """The segments of the next append job, as views of the slab (oversize ones as mappings of their own)."""
        found: list[tuple[Segment, pa.RecordBatch]] = []
        size = 0
        for segment, fd in self.channel.waiting:
            if segment.version > self.opening.table.version or self._is_full(len(found), size):
                break
            if segment.apart and found and self._is_whole:
                break
            found.append((segment, view(self.slab, segment, fd)))
            size += segment.length
            if segment.trial or (segment.apart and self._is_whole):
                break
        return found

    def _is_full(self, segments: int, size: int) -> bool:
        """Whether a job takes no more."""
        if self.gathering is None:
            return segments >= SEGMENTS_PER_JOB
        return size >= self.gathering.bytes_max and self._is_whole

    @property
    def _is_whole(self) -> bool:
        """Whether rows may be cut into files as one likes."""
        return self.sdk is not None and self.sdk.whole

    def tried(self, dead: int | None) -> None:
        """The first rows that waited have been rehearsed; they come again."""
        self.sdk_busy, self.used_at = False, time.monotonic()
        self.dead = self.dead if dead is None else dead
        close_descriptor(self.channel.waiting.popleft()[1])
        if self.gathering is not None:
            self.gathering.forget()

    def took(self, item: Underway) -> None:
        """A segment has left for Snowflake."""
        self.used_at = time.monotonic()
        self.awaited.took(item)
        if self.gathering is not None:
            self.gathering.taken([item.segment], time.monotonic())

    def suspected(self) -> list[pa.RecordBatch]:
        """The segments under suspicion, as views of the slab."""
        items = self.suspicion.items if self.suspicion is not None else []
        rows = [view(self.slab, item.segment, item.fd) for item in items if item.segment.bury is Bury.NO]
        return [batch for batch in rows if batch.num_rows]

    def durable(self, items: list[Underway]) -> None:
        """Their publisher may have the memory of these back."""
        self.awaited.durable(self.opening, items)
        for item in items:
            close_descriptor(item.fd)
