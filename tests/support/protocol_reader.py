"""The reader of the model of the protocol: the product's own modules, without sockets and the network.

    Roster      with all that is under it: `Follower`, `Admission`, `StoredTables`, `Retired`, `Breakers`
    Publisher   with its shared memory; what it says goes into a list
    Frontier    `Progress`, `newer`

What `workers.reader.process` does around them is written here once more, in the same order, one step at a time.
"""

from __future__ import annotations

import selectors
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from etl_supervisor.config.settings import Settings
from etl_supervisor.ipc.messages import (
    Accepted,
    CopyEnded,
    CopyWanted,
    ToActor,
    ToPublisher,
)
from etl_supervisor.model.apply_policy import ApplyPolicy
from etl_supervisor.model.copy_state import CopyState
from etl_supervisor.model.pipeline import Destination, Pipeline, PipelineStatus, Source, SourceSpec
from etl_supervisor.model.progress import Progress
from etl_supervisor.model.table import Column, Table, TableName
from etl_supervisor.model.types import ValueKind, ValueType
from etl_supervisor.state.store import Writer
from tests.support.protocol_model import (
    GOOD,
    Postgres,
    Row,
    Snowflake,
    Store,
    Transaction,
    batch_of,
)
from workers.reader.admission import PROVISIONAL
from workers.reader.batch import TableBatch
from workers.reader.frontier import Frontier
from workers.reader.publisher import Publisher
from workers.reader.retired import Retired
from workers.reader.roster import Roster
from workers.reader.shelf import Memory

TABLES = 2
_COLUMNS = (Column("key", ValueType(ValueKind.INT64), key=True), Column("value", ValueType(ValueKind.INT64)))
SHAPES = [Table(TableName("public", f"t{oid}"), oid, _COLUMNS, PROVISIONAL) for oid in range(1, TABLES + 1)]
DESTINATION = Destination(1, "d", "snowflake", "A", "U", "DB", "S", None, None, "k", None, None, "L", 1.0)
POLICY = ApplyPolicy(interval_seconds_min=0, interval_seconds_max=0)
ATTEMPTS_MAX = 2
PIPELINE = Pipeline(1, "p", 1, DESTINATION, PipelineStatus.START, 1, 1, 1000, ATTEMPTS_MAX, 1, policy=POLICY)
SOURCE = Source(1, "s", "h", 5432, "db", "u", None, "auto", None, "pub", 1)
SPEC = SourceSpec(SOURCE, (PIPELINE,))
SETTINGS = Settings(on_rewrite="hold")
MEMORY_BYTES = 1 << 20


@dataclass
class World:
    """What outlives readers and actors. `refusing` are the tables for which Snowflake gives errors; `now` is in seconds."""

    postgres: Postgres
    store: Store
    snowflake: Snowflake
    refusing: set[int] = field(default_factory=set)
    now: float = 0.0


class Measured(Frontier):
    """The reader's frontier, with another of the same kind beside it: of what was accepted, which the product counts by segments only."""

    beside: Frontier | None = None

    def accepted(self, handle: int, seq: int) -> None:
        """Every segment of this handle up to `seq` is in the SDK's hands."""
        assert self.beside is not None
        self.beside.completed(handle, seq)

    def sealed(self, end_lsn: int | None, segments: Iterable[tuple[int, int]]) -> None:
        segments = list(segments)
        super().sealed(end_lsn, segments)
        assert self.beside is not None
        self.beside.sealed(end_lsn, segments)

    def completed(self, handle: int, seq: int) -> None:
        super().completed(handle, seq)
        self.accepted(handle, seq)

    def idle(self, wal_end: int) -> None:
        super().idle(wal_end)
        assert self.beside is not None
        self.beside.idle(wal_end)

    def hold(self, handle: int) -> None:
        super().hold(handle)
        assert self.beside is not None
        self.beside.hold(handle)

    def forget(self, handle: int) -> None:
        super().forget(handle)
        assert self.beside is not None
        self.beside.forget(handle)


class Mail(Publisher):
    """The publisher without sockets: what it says goes into a list, segments with a copy of their rows."""

    def __init__(self, sent: deque[tuple[ToActor, pa.RecordBatch | None]]) -> None:
        super().__init__("reader", 1, [b"actor"], MEMORY_BYTES, selectors.DefaultSelector())
        self._sent = sent

    def connect(self) -> None:
        """There is always a way."""

    def stop(self) -> None:
        super().stop()
        self._selector.close()

    def heard(self, message: ToPublisher) -> bool:
        """Keep the books; whether the owner wants to know."""
        return self._note(message)

    def actor_began(self) -> None:
        """It knows nothing: everything that is not durable is sent again."""
        for handle in list(self._handles.values()):
            if self.works(handle.opening.handle):
                self._resend(handle)

    def counts(self) -> dict[int, tuple[int, int]]:
        """Of each handle: how many segments it has had, and how many of them were accepted."""
        return {number: (handle.seq, handle.accepted) for number, handle in self._handles.items()}

    def _tell(self, actor: int, message: ToActor, memory: Memory | None = None) -> None:
        batch = None
        if memory is not None:
            view = self._shelf.rows(memory)
            batch = view.take(pa.array(range(view.num_rows)))  # type: ignore[arg-type]
        self._sent.append((message, batch))


class Tables(Roster):
    """The roster, which acts whenever it is asked, however long it took before. `retired` keeps the handles that end."""

    def __init__(self, *parts: Any, retired: type[Retired]) -> None:
        super().__init__(*parts)
        self._retired = retired(self._publisher, self._frontier)

    def act(self, now: float) -> None:
        with self.hearing():
            self._act(now)


class Reader:
    """One life of a reader: it begins at a position, and the slot sends from there as long as it has the walsender."""

    def __init__(
        self, world: World, progress: Progress, epoch: int, frontier: type[Frontier], retired: type[Retired]
    ) -> None:
        self.world, self.progress, self.epoch = world, progress, epoch
        self.received = max(progress.confirmed, world.postgres.told)
        measured = type("Frontier", (Measured, frontier), {})
        self.frontier = measured(progress.confirmed)
        self.frontier.beside = frontier(progress.confirmed)
        self.horizon = 0  # where the WAL ended when another one took the walsender
        self.sent: deque[tuple[ToActor, pa.RecordBatch | None]] = deque()
        self.copies: list[CopyWanted] = []
        self.middle: tuple[Transaction, int] | None = None  # a transaction of which so many rows were read
        self.mail = Mail(self.sent)
        sight: Any = world.postgres
        store: Any = world.store
        self.roster = Tables(SPEC, progress, epoch, store, self.mail, self.frontier, sight, SETTINGS, retired=retired)
        self.roster.introduce(SHAPES)

    @property
    def marks(self) -> tuple[int, int, int, int]:
        """Received, accepted, durable, confirmed."""
        return self.received, self.frontier.beside.durable, self.frontier.durable, self.progress.confirmed

    def read(self, rows_max: int, cuts: int) -> None:
        """The next rows, at most so many, in segments of at most `cuts`: one batch is sealed."""
        rows, ended = [], None
        for transaction in self._wal():
            if transaction.end <= self.received:
                continue
            done = self.middle[1] if self.middle is not None else 0
            part = transaction.rows[done : done + rows_max - len(rows)]
            rows += part
            if done + len(part) < len(transaction.rows):
                self.middle = (transaction, done + len(part))
                break
            self.middle, self.received, ended = None, transaction.end, transaction.end
        batches = [(shape, batch_of(row for row in rows if row.table == shape.oid)) for shape in SHAPES]
        pieces = [
            TableBatch(shape, batch.slice(at, cuts)) for shape, batch in batches for at in range(0, len(batch), cuts)
        ]
        self.frontier.sealed(ended, self.roster.publish(pieces))

    def _wal(self) -> list[Transaction]:
        if self.world.postgres.walsender is self:
            return self.world.postgres.wal
        return [transaction for transaction in self.world.postgres.wal if transaction.end <= self.horizon]

    @property
    def caught_up(self) -> bool:
        """Everything was read, and nothing is in flight."""
        read = all(transaction.end <= self.received for transaction in self._wal())
        return read and not self.frontier.in_flight and not self.mail.blocked

    def keepalive(self) -> None:
        """The walsender has nothing more, as `Process._note_silence` has it."""
        if self.world.postgres.walsender is self and self.caught_up:
            self.received = max(self.received, self.world.postgres.end)
            self.frontier.idle(self.world.postgres.end)

    def hear(self, message: ToPublisher) -> None:
        """A word from the actor."""
        if not self.mail.heard(message):
            return
        with self.roster.hearing():
            self.roster.received(message, self.world.now)
        if isinstance(message, Accepted):
            self.frontier.accepted(message.handle, message.seq)

    def act(self) -> None:
        """What the tables need; StreamAgain ends this life."""
        self.mail.pump()
        self.roster.act(self.world.now)
        self.copies += self.roster.copies_wanted
        self.roster.copies_wanted.clear()

    def copy(self, fails: bool) -> None:
        """A worker copies the table that has waited longest; or it dies when its rows are landed and its books are not written."""
        if not self.copies:
            return
        wanted = self.copies.pop(0)
        name, point = TableName(wanted.schema, wanted.table), self.world.postgres.end
        oid = next(shape.oid for shape in SHAPES if shape.name == name)
        there = self.world.snowflake.copies.setdefault((oid, wanted.generation), [])
        shown = self.world.postgres.shows(oid, point)
        there += [Row(oid, (point - 1, 0, n), GOOD, *item) for n, item in enumerate(shown.items())]
        if not fails:
            done = CopyState(name, wanted.generation, copy_lsn=point, since_lsn=point)
            self.world.store.save_copy(SOURCE.name, PIPELINE.name, done, Writer(SOURCE.stream, wanted.epoch))
        self.roster.copy_ended(CopyEnded(1, name.schema, name.name, not fails), self.world.now)

    def save(self) -> None:
        """As `Process._confirm` has it."""
        durable = self.frontier.durable
        assert durable <= self.received
        if durable > self.progress.confirmed:
            advanced = self.progress.advanced(durable)
            self.world.store.save_progress(SOURCE.stream, advanced, self.epoch)
            self.progress = advanced

    def tell(self, position: int) -> None:
        """The walsender hears of it, if there is one."""
        if self.world.postgres.walsender is self:
            self.world.postgres.told = max(self.world.postgres.told, position)
