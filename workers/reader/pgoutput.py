"""pgoutput frames -> change-log batches, by column: no Python statement runs per row or per value.

    frames ─► kinds (one gather) ─► transactions (repeat from Begin) ─► ordinals (runs of equal WAL start)
           ─► groups of tables that are alike ─► tuples, column by column ─► rows in stream order ─► Arrow, cut by table

A tuple is `count(2)` and for each column a kind byte: n(ull), u(nchanged TOAST), t(ext) or b(inary) followed by a length(4) and the value. With the
places of the n tuples in one array, a step reads kind and length of column j in all of them and moves all places on.

State that lives from batch to batch: the open transaction, the run of equal WAL starts (so that ordinals go on across a cut), the relations.
Manual: "Logical Replication Message Formats"; every length is checked against its frame's end. Streamed transactions of protocol 2 come here as
plain ones, after their commit (see `assembler`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc.arrow import change_log_schema
from etl_supervisor.model.table import Table
from etl_supervisor.model.types import ValueType
from workers.reader.batch import Decoded, TableBatch
from workers.reader.frame import START, WAL_END, Chunk, Frames, Integers, broken
from workers.reader.order import check_commits, check_nesting, check_starts, check_times
from workers.reader.relations import Relations, parse
from workers.reader.rows import Rows, build
from workers.reader.transfer import BinaryForms
from workers.reader.tuples import read_changes

PG_EPOCH_US = 946_684_800_000_000  # 2000-01-01 in Unix microseconds
_KNOWN = np.zeros(256, dtype=bool)
_KNOWN[list(b"BCORYIUDTM")] = True
_ROW = np.zeros(256, dtype=bool)
_ROW[list(b"IUDT")] = True


@dataclass(slots=True)
class Transaction:
    """The transaction that a frame belongs to; times in microseconds since 1970."""

    commit_lsn: int
    commit_ts: int
    xid: int


@dataclass(slots=True)
class Transactions:
    """The transaction columns of all row frames of a batch."""

    commit_lsn: Integers
    commit_ts: Integers
    xid: Integers
    number: Integers


@dataclass(frozen=True, slots=True, eq=False)
class _Shape:
    """Names, types and keys of columns, which several tables may have."""

    schema: pa.Schema


class Decoder:
    """Decodes the frames of one replication connection, batch by batch. `forms` watches the types of a stream of binary values."""

    def __init__(self, relations: Relations, forms: BinaryForms | None = None) -> None:
        self._relations = relations
        self._forms = forms
        self._open: Transaction | None = None
        self._commit_lsn = 0  # of the newest transaction
        self._run_start = -1  # WAL start of the last row frame, and how many row frames had it
        self._run_length = 0
        self._shapes: dict[tuple[int, int], _Shape] = {}  # by oid and version
        self._distinct: dict[tuple[tuple[str, ValueType, bool], ...], _Shape] = {}

    @property
    def in_transaction(self) -> bool:
        """True after a Begin whose Commit has not come yet."""
        return self._open is not None

    def decode(self, chunks: Sequence[Chunk]) -> Decoded:
        """One sealed batch. EtlError(PROTOCOL) for bytes that are not pgoutput, TextNeededError for a type that is not read in binary."""
        data = Frames(chunks)
        kinds = data.kinds
        if not bool(np.all(_KNOWN[kinds])):
            raise broken("unknown", "kind")
        begins, commits = np.flatnonzero(kinds == ord("B")), np.flatnonzero(kinds == ord("C"))
        rows = np.flatnonzero(_ROW[kinds])
        starting = self._open
        check_nesting(begins, commits, rows, open_before=starting is not None)
        transactions = self._transactions(data, begins, commits, rows)
        ordinals = self._ordinals(data, rows, transactions.number, len(begins))
        changes = Rows(data, rows, kinds[rows], transactions, ordinals)
        segments = self._segments(changes, self._versions(data, kinds))
        end_lsn = self._end(data, begins, commits)
        first = self._first_commit(starting, data, begins)
        received = int(np.max(data.int64(data.start + WAL_END), initial=0))
        count = sum(segment.batch.num_rows for segment in segments)
        return Decoded(segments, end_lsn, max(received, end_lsn or 0), count, len(commits), first)

    # -- transactions

    def _transactions(self, data: Frames, begins: Integers, commits: Integers, rows: Integers) -> Transactions:
        """Begin: final_lsn(8) commit time(8) xid(4). Row frames take those of the last Begin before them.

        Commit: flags(1) commit_lsn(8) end_lsn(8) time(8).
        """
        at, ends = data.body[begins], data.body[commits] + 1
        data.at_end(at + 20, begins, "Begin")
        data.at_end(ends + 24, commits, "Commit")
        carried = self._open or Transaction(self._commit_lsn, 0, 0)
        commit_lsn = np.concatenate([[carried.commit_lsn], data.position(at, "Begin")])
        committed, end = data.position(ends, "Commit"), data.position(ends + 8, "Commit")
        check_commits(commit_lsn, committed, np.searchsorted(begins, commits), end)
        check_times(data.int64(at + 8) + PG_EPOCH_US)
        self._commit_lsn = int(commit_lsn[-1])
        commit_ts = np.concatenate([[carried.commit_ts], data.int64(at + 8) + PG_EPOCH_US])
        xid = np.concatenate([[carried.xid], data.uint32(at + 16)])
        number = np.searchsorted(begins, rows)
        return Transactions(commit_lsn[number], commit_ts[number], xid[number], number.astype(np.int64))

    def _end(self, data: Frames, begins: Integers, commits: Integers) -> int | None:
        """Where the last Commit's transaction ends. Notes the transaction that is open after this batch."""
        at = data.body[commits] + 1
        if len(begins) and (not len(commits) or begins[-1] > commits[-1]):
            place = data.body[begins[-1:]]
            commit_lsn, clock = int(data.int64(place)[0]), int(data.int64(place + 8)[0])
            self._open = Transaction(commit_lsn, clock + PG_EPOCH_US, int(data.uint32(place + 16)[0]))
        elif len(commits):
            self._open = None
        return int(data.int64(at[-1:] + 8)[0]) if len(commits) else None

    def _first_commit(self, starting: Transaction | None, data: Frames, begins: Integers) -> int | None:
        if starting is not None:
            return starting.commit_ts
        if not len(begins):
            return None
        return int(data.int64(data.body[begins[:1]] + 8)[0]) + PG_EPOCH_US

    def _ordinals(self, data: Frames, rows: Integers, transaction: Integers, begun: int) -> Integers:
        """How many row frames of the same WAL start came before in the transaction; twice that, so that a key change has room."""
        if not len(rows):
            if begun:
                self._run_start, self._run_length = -1, 0
            return rows
        start = data.int64(data.start[rows] + START)
        together = transaction[1:] == transaction[:-1]
        check_starts(start, together)
        if transaction[0] == 0 and start[0] < self._run_start:
            raise broken("Insert, Update, Delete or Truncate", "position")
        same = np.zeros(len(rows), dtype=bool)
        same[1:] = (start[1:] == start[:-1]) & together
        index = np.arange(len(rows), dtype=np.int64)
        heads = np.maximum.accumulate(np.where(same, 0, index))
        count = index - heads
        if transaction[0] == 0 and start[0] == self._run_start:
            count[heads == 0] += self._run_length  # the run began in the batch before
        self._run_start, self._run_length = int(start[-1]), int(count[-1]) + 1
        if transaction[-1] < begun:  # the last transaction has no row yet
            self._run_start, self._run_length = -1, 0
        return count * 2

    # -- tables

    def _versions(self, data: Frames, kinds: np.ndarray) -> dict[int, list[tuple[int, Table]]]:
        """Where in this batch the shape of a table changed: oid -> [(frame, table from there on)]."""
        versions: dict[int, list[tuple[int, Table]]] = {}
        for row in np.flatnonzero(kinds == ord("R")).tolist():
            message = parse(data.message(row))
            before = self._relations.get(message.oid)
            table = self._relations.learn(message)
            if self._forms is not None:
                self._forms.check([(column.type_oid, column.typmod) for column in message.columns], table)
            if message.oid not in versions:
                versions[message.oid] = [(-1, before)] if before is not None else []
            if table is not before:
                versions[message.oid].append((row, table))
        return versions

    def _segments(self, rows: Rows, versions: dict[int, list[tuple[int, Table]]]) -> list[TableBatch]:
        """Tables that are alike are decoded together, so that thousands of them cost no more than one."""
        alike: dict[_Shape, list[tuple[Table, Integers]]] = {}
        for oid, places in rows.by_table().items():
            for table, part in self._split(oid, places, rows, versions):
                alike.setdefault(self._shape_of(table), []).append((table, part))
        segments: list[tuple[int, TableBatch]] = []
        for shape, parts in alike.items():
            first_frames = rows.frame[[part[0] for _, part in parts]].tolist()
            segments += zip(first_frames, _decode_alike(rows, parts, shape.schema), strict=True)
        segments.sort(key=lambda item: item[0])
        return [segment for _, segment in segments]

    def _shape_of(self, table: Table) -> _Shape:
        """The same object for all tables that have the same columns."""
        known = self._shapes.get((table.oid, table.version))
        if known is None:
            columns = tuple((column.name, column.type, column.key) for column in table.columns)
            known = self._distinct.get(columns) or _Shape(change_log_schema(table))
            self._shapes[table.oid, table.version] = self._distinct[columns] = known
        return known

    def _split(
        self, oid: int, places: Integers, rows: Rows, versions: dict[int, list[tuple[int, Table]]]
    ) -> list[tuple[Table, Integers]]:
        """The rows of one table, by version of its shape."""
        known = versions.get(oid)
        if known is None:
            table = self._relations.get(oid)
            if table is None:
                raise _unknown()
            return [(table, places)]
        if not known or known[0][0] > rows.frame[places[0]]:
            raise _unknown()
        edges = np.searchsorted(rows.frame[places], [frame for frame, _ in known[1:]])
        parts = np.split(places, edges)
        return [(table, part) for (_, table), part in zip(known, parts, strict=True) if len(part)]


def _unknown() -> EtlError:
    return EtlError(Kind.PROTOCOL, "pgoutput", "a change came before its Relation message", "report it")


def _decode_alike(rows: Rows, parts: list[tuple[Table, Integers]], schema: pa.Schema) -> list[TableBatch]:
    """The rows of tables that have the same columns, decoded in one go and cut afterwards."""
    table = parts[0][0]
    changes = read_changes(rows, np.concatenate([part for _, part in parts]), table)
    batch = build(rows, changes, table, schema)
    edges = np.searchsorted(changes.number, np.cumsum([0, *(len(part) for _, part in parts)])).tolist()
    return [
        TableBatch(table, batch.slice(first, last - first))
        for (table, _), first, last in zip(parts, edges[:-1], edges[1:], strict=True)
    ]
