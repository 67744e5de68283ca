"""The protocol of confirmed, durable and restarted, as a model that crashes anywhere: hypothesis chooses what happens next.

    PostgreSQL ──read──► reader ──deliver──► actor ──append──► Snowflake's buffer ──commit──► landing table
        ▲                  │ ▲                                        │ refused rows leave a count
        └─confirm── store ◄┘ └────────── Durable ◄── status, sift ────┘

What decides is the product's own: `Frontier` (reader), `Channel` and `unsent` (actor), `Position`, `pieces`. Around it stand the simplest
PostgreSQL, mailbox and Snowflake that keep their promises and no more: a slot sends again from what was flushed, a mailbox loses what is in it
with either end, Snowflake commits a prefix of what it was given and drops the rest when the channel is opened by another owner.

Rows are of three sorts: those that can be loaded, those that the actor knows to be too large, and those that Snowflake refuses without a word.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import pyarrow as pa

from etl_supervisor.ipc.messages import Accepted, Durable, Segment
from etl_supervisor.model.position import Position
from workers.reader import pieces
from workers.reader.frontier import Frontier
from workers.snowflake.channel import Channel, ChannelStatus, Underway, unsent

GENERATION = 7
GOOD, TOO_LARGE, REFUSED = range(3)

Place = tuple[int, int, int]  # commit_lsn, lsn, ordinal


@dataclass(frozen=True)
class Row:
    """A row frame in the WAL."""

    table: int
    place: Place
    sort: int


@dataclass(frozen=True)
class Transaction:
    """What one commit made durable in PostgreSQL. `end` is where the next record begins."""

    end: int
    rows: tuple[Row, ...]


@dataclass
class Postgres:
    """The WAL, and a slot whose flushed position may be older, after a crash, than what it was told."""

    wal: list[Transaction] = field(default_factory=list)
    end: int = 100
    told: int = 100
    flushed: int = 100

    def commit(self, rows: Iterable[tuple[int, int]]) -> None:
        """A transaction with these (table, sort); two rows share a record."""
        commit, made = self.end + 50, []
        for number, (table, sort) in enumerate(rows):
            record, frame = divmod(number, 2)
            made.append(Row(table, (commit, self.end + record, 2 * frame), sort))
        self.end += 60
        self.wal.append(Transaction(self.end, tuple(made)))

    def crash(self) -> None:
        """Start again from what is on the disk."""
        self.told = self.flushed


@dataclass
class Buffered:
    """An append that Snowflake has taken and not committed."""

    rows: list[Row]
    last: str


@dataclass
class Snowflake:
    """One channel and its landing table."""

    landing: list[Place] = field(default_factory=list)
    dead: list[Place] = field(default_factory=list)
    committed: str | None = None
    errors: int = 0
    buffer: deque[Buffered] = field(default_factory=deque)

    def commit(self, appends: int) -> None:
        """The oldest appends become visible; rows that are refused leave a count."""
        for _ in range(min(appends, len(self.buffer))):
            taken = self.buffer.popleft()
            self.landing += [row.place for row in taken.rows if row.sort != REFUSED]
            self.errors += sum(row.sort == REFUSED for row in taken.rows)
            self.committed = taken.last

    def open(self) -> ChannelStatus:
        """A new owner: what the older one gave and was not committed is gone."""
        self.buffer.clear()
        return self.status()

    def status(self) -> ChannelStatus:
        return ChannelStatus(self.committed, self.errors, valid=True)

    def bury(self, places: Iterable[Place]) -> None:
        """Into the dead letter, where a row that is there already is not written again."""
        self.dead += [place for place in places if place not in self.dead]


@dataclass
class Desk:
    """One table at the actor: what `workers.snowflake.desk` keeps, without its threads."""

    channel: Channel
    is_open: bool = False
    suspicion: tuple[list[Underway], int, str] | None = None


@dataclass
class Handle:
    """One table at the reader: what `workers.reader.publisher` keeps, without its sockets."""

    errors: int
    seq: int = 0
    accepted: int = 0
    in_flight: deque[Segment] = field(default_factory=deque)


class Reader:
    """One life of a reader: it begins at the position in the state store, and the slot sends from there."""

    def __init__(self, begin: int, errors: dict[int, int], tables: int, frontier: Callable[[int], Frontier]) -> None:
        self.received = begin
        self.frontier = frontier(begin)
        self.handles = {table: Handle(errors.get(table, 0)) for table in range(tables)}
        self.middle: tuple[Transaction, int] | None = None  # a transaction of which so many rows were read

    def read(self, wal: list[Transaction], rows_max: int) -> list[tuple[int, pa.RecordBatch]]:
        """The next rows as one batch per table, at most so many; the batch is sealed by `sealed`."""
        rows: list[Row] = []
        self.ended: int | None = None
        for transaction in wal:
            if transaction.end <= self.received:
                continue
            done = self.middle[1] if self.middle is not None else 0
            part = transaction.rows[done : done + rows_max - len(rows)]
            rows += part
            if done + len(part) < len(transaction.rows):
                self.middle = (transaction, done + len(part))
                break
            self.middle, self.received, self.ended = None, transaction.end, transaction.end
        tables = sorted({row.table for row in rows})
        return [(table, batch_of(row for row in rows if row.table == table)) for table in tables]

    def sealed(self, batches: list[tuple[int, pa.RecordBatch]], cuts: int) -> list[tuple[Segment, pa.RecordBatch]]:
        """The batches as segments of at most `cuts` rows; the frontier knows of them."""
        made = []
        for table, batch in batches:
            made += [self._segment(table, batch.slice(at, cuts)) for at in range(0, batch.num_rows, cuts)]
        self.frontier.sealed(self.ended, [(segment.handle, segment.seq) for segment, _ in made])
        return made

    def _segment(self, table: int, batch: pa.RecordBatch) -> tuple[Segment, pa.RecordBatch]:
        handle = self.handles[table]
        handle.seq += 1
        first, last = (pieces.position(batch, row, GENERATION).token for row in (0, -1))
        segment = Segment(table, handle.seq, 0, 0, batch.nbytes, batch.num_rows, first, last, 1)
        handle.in_flight.append(segment)
        return segment, batch

    def note(self, message: Accepted | Durable) -> None:
        """A word from the actor: what `Publisher` and `Roster` do with it."""
        handle = self.handles[message.handle]
        if isinstance(message, Accepted):
            handle.accepted = max(handle.accepted, message.seq)
            return
        assert message.seq <= handle.accepted <= handle.seq
        handle.errors = message.errors
        while handle.in_flight and handle.in_flight[0].seq <= message.seq:
            handle.in_flight.popleft()
        self.frontier.completed(message.handle, message.seq)


def batch_of(rows: Iterable[Row]) -> pa.RecordBatch:
    """Rows with their position where a change-log batch has it; the first column is the row's sort."""
    found = list(rows)
    columns = [[row.sort for row in found], *([row.place[part] for row in found] for part in range(3))]
    names = ["sort", "commit_lsn", "lsn", "ordinal"]
    return pa.record_batch([pa.array(column, pa.int64()) for column in columns], names)


def rows_of(table: int, batch: pa.RecordBatch) -> list[Row]:
    """The rows of a batch again."""
    columns = (column.to_pylist() for column in batch.columns)
    return [Row(table, (commit, lsn, ordinal), sort) for sort, commit, lsn, ordinal in zip(*columns, strict=True)]


def append(desk: Desk, table: int, snowflake: Snowflake, batches: dict[int, pa.RecordBatch], count: int) -> None:
    """One append job with its result, as `Loading.append` and `Process._appended` have it."""
    channel = desk.channel
    reached, handed, tokens = channel.reached, channel.handed or "", []
    for segment, _ in list(channel.waiting)[:count]:
        rows = rows_of(table, unsent(batches[segment.seq], reached, GENERATION))
        snowflake.bury(row.place for row in rows if row.sort == TOO_LARGE)
        rest = [row for row in rows if row.sort != TOO_LARGE]
        if rest:
            snowflake.buffer.append(Buffered(rest, segment.last))
            handed = segment.last
        reached = max(reached, segment.last)
        tokens.append(handed)
    for token in tokens:
        channel.took(token)


def come_through(desk: Desk, status: ChannelStatus) -> Durable | None:
    """What follows from a status, as `Process._come_through` has it."""
    channel = desk.channel
    items = channel.told(status.committed)
    if items and channel.suspicious(items, status.errors):
        desk.suspicion = (items, status.errors, channel.doubt)
        return None
    channel.settled(items)
    return durable(channel, items)


def sift(desk: Desk, table: int, snowflake: Snowflake, batches: dict[int, pa.RecordBatch]) -> Durable | None:
    """Refused rows are found and buried, as `Loading.sift` and `Process._sifted` have it."""
    assert desk.suspicion is not None
    items, errors, doubt = desk.suspicion
    rows = [row for item in items for row in rows_of(table, batches[item.segment.seq])]
    refused = [row.place for row in rows if row.sort != TOO_LARGE and row.place not in snowflake.landing]
    snowflake.bury(refused)
    within = sum(token(place) <= doubt for place in refused)
    desk.suspicion = None
    desk.channel.sifted(items, len(refused) - within, errors)
    return durable(desk.channel, items)


def durable(channel: Channel, items: list[Underway]) -> Durable | None:
    """The word to the reader."""
    if not items:
        return None
    table = items[-1].segment.handle
    return Durable(table, channel.durable_seq, channel.committed, channel.baseline, None)


def token(place: Place) -> str:
    """A place as an offset token."""
    return Position(GENERATION, *place).token
