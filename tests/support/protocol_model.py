"""The world around readers and actors, as the model of the protocol (`tests/property/test_protocol.py`) has it.

    PostgreSQL ──read──► reader ──deliver──► actor ──append──► Snowflake's buffer ──commit──► landing table ──apply──► target
        ▲                  │ ▲                                        │ refused rows leave a count
        └─confirm── store ◄┘ └────────── Durable ◄── status, sift ────┘

What decides is the product's own (see `protocol_lives`). Here stand the simplest PostgreSQL, state store and Snowflake that keep their promises and
no more: a slot has one walsender and sends again from what was flushed; the store refuses an older epoch; Snowflake commits a prefix of what
it was given, drops the rest when the channel is opened by another owner, and takes nothing from an older one. The watermark is a table of SQLite:
the conditions under which an apply moves it are the text that the product writes.

Rows are of four sorts: those that can be loaded, deletes, those that the actor knows to be too large, and those that Snowflake refuses without a
word.
"""

from __future__ import annotations

import re
import sqlite3
from collections import deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

import pyarrow as pa

from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model.copy_state import CopyState
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.model.position import Position
from etl_supervisor.model.progress import Progress
from etl_supervisor.model.table import Table, TableName
from etl_supervisor.model.table_state import TableState
from etl_supervisor.state.store import Writer, stale
from workers.reader.storage import Storage
from workers.snowflake.channel import ChannelStatus
from workers.snowflake.identifiers import objects_of
from workers.snowflake.script import MOVED

GOOD, GONE, TOO_LARGE, REFUSED = range(4)
BEGINNING = 100

Place = tuple[int, int, int]  # commit_lsn, lsn, ordinal
Kept = tuple[int, int]  # table, generation


@dataclass(frozen=True)
class Row:
    """A row frame in the WAL; `value` is its own."""

    table: int
    place: Place
    sort: int
    key: int
    value: int


@dataclass(frozen=True)
class Transaction:
    """What one commit made durable in PostgreSQL. `end` is where the next record begins."""

    end: int
    rows: tuple[Row, ...]


def moved(target: dict[int, int], rows: Iterable[Row]) -> dict[int, int]:
    """Key -> value after these rows."""
    for row in rows:
        if row.sort == GOOD:
            target[row.key] = row.value
        elif row.sort == GONE:
            target.pop(row.key, None)
    return target


@dataclass
class Postgres:
    """The WAL, and a slot whose flushed position may be older, after a crash, than what it was told. `walsender` is whose stream it is."""

    wal: list[Transaction] = field(default_factory=list)
    end: int = BEGINNING
    told: int = BEGINNING
    flushed: int = BEGINNING
    walsender: object = None
    files: dict[int, int] = field(default_factory=dict)
    rows: int = 0

    def commit(self, rows: Iterable[tuple[int, int, int]]) -> None:
        """A transaction with these (table, key, sort); two rows share a record. What can't be loaded has a key of its own."""
        commit, made = self.end + 50, []
        for number, (table, key, sort) in enumerate(rows):
            self.rows += 1
            record, frame = divmod(number, 2)
            place = (commit, self.end + record, 2 * frame)
            made.append(Row(table, place, sort, key if sort in (GOOD, GONE) else -self.rows, self.rows))
        self.end += 60
        self.wal.append(Transaction(self.end, tuple(made)))

    def crash(self) -> None:
        """Start again from what is on the disk."""
        self.told, self.walsender = self.flushed, None

    def shows(self, table: int, before: int) -> dict[int, int]:
        """Key -> value of a table as of the commits before this position."""
        rows = (row for transaction in self.wal for row in transaction.rows if row.table == table)
        return moved({}, (row for row in rows if row.place[0] < before))

    # what `workers.reader.sight` tells of the catalog

    def storage(self, oids: Collection[int]) -> dict[int, Storage]:
        """Where the rows of these tables are."""
        files = {oid: str(self.files.get(oid, 0)) for oid in oids}
        return {oid: Storage(file, {"1": file}) for oid, file in files.items()}

    def storage_text(self, oid: int) -> str:
        """The same of one, as it is kept."""
        return self.storage([oid])[oid].text

    def look_ahead(self, oids: Collection[int]) -> None:
        """Nothing is slow here."""

    def shape(self, oid: int) -> None:
        """The shape never changes."""


class Store:
    """The state store: what `etl_supervisor.state` writes with a comparison of epochs, it writes here so."""

    def __init__(self) -> None:
        self.newest = 0
        self.kept: Progress | None = None
        self.states: dict[TableName, TableState] = {}
        self.copied: dict[TableName, CopyState] = {}

    def refuses(self, epoch: int) -> bool:
        """Whether a writer is not the newest."""
        return epoch < self.newest

    def progress(self, source: str) -> Progress | None:
        return self.kept

    def save_progress(self, source: str, progress: Progress, epoch: int) -> None:
        if self.refuses(epoch):
            raise stale(source, epoch)
        self.kept = progress

    def next_epoch(self, source: str) -> int:
        self.newest += 1
        return self.newest

    def tables(self, source: str, pipeline: str) -> dict[TableName, TableState]:
        return dict(self.states)

    def save_tables(self, source: str, pipeline: str, states: Iterable[TableState], writer: Writer) -> None:
        if self.refuses(writer.epoch):
            raise stale(*writer)
        self.states |= {state.table: state for state in states}

    def copy(self, source: str, pipeline: str, table: TableName) -> CopyState | None:
        return self.copied.get(table)

    def save_copy(self, source: str, pipeline: str, state: CopyState, writer: Writer) -> None:
        if self.refuses(writer.epoch):
            raise stale(*writer)
        self.copied[state.table] = state


@dataclass
class Pipe:
    """One channel, as Snowflake has it. `owner` is the number of its newest open."""

    owner: int
    committed: str | None = None
    errors: int = 0
    buffer: deque[tuple[list[Row], str]] = field(default_factory=deque)


class Snowflake:
    """Channels, landing tables, dead letters, targets and watermarks. Also a connection and its cursor, for the product's SQL."""

    def __init__(self, destination: Destination, shapes: Iterable[Table]) -> None:
        self.landing: dict[Kept, list[Row]] = {}
        self.copies: dict[Kept, list[Row]] = {}
        self.dead: dict[Kept, list[Place]] = {}
        self.targets: dict[str, dict[int, int]] = {}
        self.running: list[str] = []  # blocks whose actor has died
        self.breaks_off = False
        self._pipes: dict[tuple[int, str], Pipe] = {}
        self._opens = 0
        self._objects = {shape.oid: objects_of(destination, shape) for shape in shapes}
        self._numbers = {objects.landing: oid for oid, objects in self._objects.items()}
        self._sql = sqlite3.connect(":memory:", isolation_level=None)
        self._sql.create_function("IFF", 3, lambda condition, one, other: one if condition else other)

    # -- channels

    def open(self, opening: OpenTable) -> tuple[int, ChannelStatus]:
        """A new owner: what the older one gave and was not committed is gone. What was forgotten is looked for, as in `workers.snowflake.opening`."""
        self._opens += 1
        pipe = self._pipes.setdefault(_channel(opening), Pipe(0))
        pipe.owner = self._opens
        pipe.buffer.clear()
        if pipe.committed is None:
            landed = [token(opening.generation, row.place) for row in self.landing.get(kept(opening), ())]
            generation, applied, *_ = self.mark(opening.table.oid)
            if applied and generation == opening.generation:
                landed.append(Position(generation, applied, 0, 0).token)
            return self._opens, ChannelStatus(max(landed, default=None), pipe.errors, valid=True)
        return self._opens, self.status(opening)

    def status(self, opening: OpenTable, owner: int | None = None) -> ChannelStatus:
        """What a channel is now; by the SDK, which knows its `owner`, also whether that has it still."""
        pipe = self._pipes.get(_channel(opening), Pipe(0))
        return ChannelStatus(pipe.committed, pipe.errors, valid=owner in (None, pipe.owner))

    def takes(self, owner: int, pipe: Pipe) -> bool:
        """Whether the rows of an owner get into the channel."""
        return owner == pipe.owner

    def append(self, opening: OpenTable, owner: int, rows: list[Row], last: str) -> None:
        """Rows, which are in nobody's hands if they come from an older owner: its SDK finds that out later."""
        pipe = self._pipes.get(_channel(opening))
        if pipe is not None and self.takes(owner, pipe):
            pipe.buffer.append((rows, last))

    def commit(self, table: int, appends: int) -> None:
        """The oldest appends of each channel become visible; rows that are refused leave a count."""
        for (oid, _), pipe in self._pipes.items():
            for _ in range(min(appends, len(pipe.buffer)) if oid == table else 0):
                rows, pipe.committed = pipe.buffer.popleft()
                landing = self.landing.setdefault((table, Position.parse(pipe.committed).generation), [])
                landing += [row for row in rows if row.sort != REFUSED]
                pipe.errors += sum(row.sort == REFUSED for row in rows)

    def drop(self, opening: OpenTable, owner: int) -> None:
        """Forget a channel, if it is the owner's."""
        if self._pipes[_channel(opening)].owner == owner:
            del self._pipes[_channel(opening)]

    def bury(self, opening: OpenTable, places: Iterable[Place]) -> None:
        """Into the dead letter, where a row that is there already is not written again."""
        dead = self.dead.setdefault(kept(opening), [])
        dead += [place for place in places if place not in dead]

    def shows(self, table: int) -> dict[int, int]:
        """The target: key -> value."""
        return self.targets.setdefault(self._objects[table].target_sql, {})

    # -- SQL

    def begun(self, opening: OpenTable) -> None:
        """A table that has been followed for a while: its watermark."""
        columns = (
            "LANDING_TABLE, PIPELINE_ID, PIPELINE, OWNER, SOURCE_SCHEMA, SOURCE_TABLE, GENERATION, APPLIED, EPOCH, SHOWN, SHAPE, SHAPE_SINCE,"
            " POLICY, OFFERED, HISTORY, PURGED, FENCE, BASE, UPDATED_AT"
        )
        self._sql.execute(f"CREATE TABLE IF NOT EXISTS watermark ({columns})")
        name, generation = opening.table.name, opening.generation
        ours = (self._objects[opening.table.oid].landing, opening.pipeline_id, opening.pipeline, opening.owner)
        values = (*ours, name.schema, name.name, generation, BEGINNING, opening.epoch, generation)
        self._sql.execute(
            f"INSERT INTO watermark VALUES ({', '.join('?' * 10)}, '', '', '', '', 0, 0, 0, 0, '')", values
        )

    def mark(self, table: int) -> tuple[int, ...]:
        """Generation, applied, epoch and shown."""
        sql = "SELECT GENERATION, APPLIED, EPOCH, SHOWN FROM watermark WHERE LANDING_TABLE = ?"
        return tuple(map(int, self._sql.execute(sql, [self._objects[table].landing]).fetchone()))

    def cursor(self) -> Snowflake:
        return self

    def __enter__(self) -> Snowflake:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def execute(self, text: str) -> sqlite3.Cursor:
        """A statement of the product: a block, a look at a window, or one of the watermark's."""
        if not text.startswith("EXECUTE IMMEDIATE"):
            window = self._window(text)
            return self._on_watermark(f"SELECT {len(window)}, 0, 0, 0, 0" if "COUNT_IF" in text else text)
        if self.breaks_off:
            self.running.append(text)
            raise ConnectionError("the actor dies")
        return self._sql.execute(f"SELECT '{self.block(text)}'")

    def condition(self, update: str) -> str:
        """The compare-and-set of a block."""
        return update

    def block(self, text: str) -> str:
        """One transaction: the compare-and-set of the watermark, and what it allows."""
        update = re.search(r"BEGIN TRANSACTION;\n  (UPDATE .*?);\n  IF \(SQLROWCOUNT", text, re.DOTALL)
        assert update is not None, text
        if self._on_watermark(self.condition(update[1])).rowcount != 1:
            return MOVED
        for target in re.findall(r"DELETE FROM (\S+?)[;\s]", text):
            self.targets[target] = {}
        for target in re.findall(r"MERGE INTO (\S+)", text):
            moved(self.targets.setdefault(target, {}), self._window(text))
        return "applied"

    def _window(self, text: str) -> list[Row]:
        """The rows of the landing table that a statement is about, in order."""
        found = re.search(
            r'"(LANDING_\w+)".*?_ETL_GENERATION = (\d+) AND _ETL_COMMIT_LSN >= (\d+) AND _ETL_COMMIT_LSN < (\d+)',
            text,
            re.DOTALL,
        )
        if found is None:
            return []
        generation, start, fence = map(int, found.groups()[1:])
        there = (self._numbers[found[1]], generation)
        rows = [*self.copies.get(there, ()), *self.landing.get(there, ())]
        return sorted((row for row in rows if start <= row.place[0] < fence), key=lambda row: row.place)

    def _on_watermark(self, text: str) -> sqlite3.Cursor:
        name = next(iter(self._objects.values())).watermark_sql
        return self._sql.execute(text.replace(name, "watermark").replace("CURRENT_TIMESTAMP()", "''"))


def _channel(opening: OpenTable) -> tuple[int, str]:
    return opening.table.oid, opening.channel


def kept(opening: OpenTable) -> Kept:
    """Where the rows of a table are."""
    return opening.table.oid, opening.generation


def token(generation: int, place: Place) -> str:
    """A place as an offset token."""
    return Position(generation, *place).token


def batch_of(rows: Iterable[Row]) -> pa.RecordBatch:
    """Rows as a change-log batch has them, as far as the product looks at it; the operation is the row's sort."""
    found = list(rows)
    values: list[Callable[[Row], int]] = [
        lambda row: row.sort,
        *(lambda row, part=part: row.place[part] for part in range(3)),
        lambda row: row.key,
        lambda row: row.value,
    ]
    columns = [pa.array([value(row) for row in found], pa.int64()) for value in values]
    names = ["_etl_op", "_etl_commit_lsn", "_etl_lsn", "_etl_index", "key", "value", "_etl_unchanged"]
    return pa.record_batch([*columns, pa.nulls(len(found), pa.string())], names)


def rows_of(table: int, batch: pa.RecordBatch) -> list[Row]:
    """The rows of a batch again."""
    columns = (column.to_pylist() for column in batch.columns[:6])
    return [
        Row(table, (commit, lsn, part), sort, key, value)
        for sort, commit, lsn, part, key, value in zip(*columns, strict=True)
    ]
