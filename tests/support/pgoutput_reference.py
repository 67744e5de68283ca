"""The plain decoder that the columnar one is compared with: one message after the other, with a cursor, written to be read.

`reference(frames)` gives the rows of the change log in stream order: transactions in the order of their commits, values as the bytes that were
sent. `Malformed` for bytes that the protocol does not allow. Streamed transactions (protocol 2) come out at their commit, without what was
aborted in them: their rows are those that protocol 1 gives for the same history, at the same positions.

    row of           op  ordinal (n = row messages of the same WAL start that came before in the transaction)
    Insert           I   2n
    Update           U   2n
    Update, new key  D   2n      only the old key's columns
                     I   2n + 1  with the old key
    Delete           D   2n      only the key's columns; the whole row where the table has no key
    Truncate         T   2n      once per table
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from tests.support.pgoutput_frames import HEADER_BYTES, NULL, ColumnOf, TableOf, Value

LSN_MAX = 2**63 - 1
TIME_MIN, TIME_MAX = -63_082_281_600_000_000, 252_455_615_999_999_999  # the years 1 to 9999, in microseconds since 2000


class Malformed(Exception):  # noqa: N818 - it says what the bytes are
    """Bytes that the protocol does not allow."""


@dataclass(frozen=True)
class Row:
    """A row of the change log; `values` are by column of `table`, `old` too (None: no key change)."""

    table: TableOf
    key: frozenset[str]
    op: str
    commit_lsn: int
    lsn: int
    ordinal: int
    commit_time: int
    xid: int
    values: tuple[Value, ...]
    old: tuple[Value, ...] | None = None


@dataclass
class Reading:
    """What was read: the rows, and the end of the last transaction that ended (None: none did)."""

    rows: list[Row] = field(default_factory=list)
    end_lsn: int | None = None
    in_transaction: bool = False


@dataclass
class _Message:
    """A message of a streamed transaction, kept until the commit."""

    start: int
    wal_end: int
    kind: str
    body: bytes


@dataclass
class _Streamed:
    """A transaction in progress: its messages, and its subtransactions that were rolled back."""

    messages: list[_Message] = field(default_factory=list)
    aborted: set[int] = field(default_factory=set)


@dataclass
class _Transaction:
    commit_lsn: int
    commit_time: int
    xid: int
    lsn: int = 0  # of the last row message, and how many had it
    same: int = 0


@dataclass(frozen=True)
class Options:
    """What the connection asked for. `primary_keys` by relation oid is what the catalog knows of tables of identity full or nothing."""

    primary_keys: Mapping[int, frozenset[str]] = field(default_factory=dict)
    protocol: int = 2
    binary: bool = False


def reference(frames: Iterable[bytes], options: Options | None = None) -> Reading:
    """All rows of a stream."""
    reader = _Reader(options or Options())
    for frame in frames:
        reader.take(bytes(frame))
    reader.reading.in_transaction = reader.open is not None
    return reader.reading


class _Cursor:
    """Reads one message; never beyond its end."""

    def __init__(self, data: bytes, value_kinds: str = "") -> None:
        self.data, self.at, self.value_kinds = data, 0, value_kinds

    def take(self, size: int) -> bytes:
        if self.at + size > len(self.data):
            raise Malformed("a field does not fit")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "big", signed=signed)

    def lsn(self) -> int:
        found = self.number(8)
        if found > LSN_MAX:
            raise Malformed("a position beyond what the system can count")
        return found

    def time(self) -> int:
        found = self.number(8, signed=True)
        if not TIME_MIN <= found <= TIME_MAX:
            raise Malformed("a time outside the years 1 to 9999")
        return found

    def char(self, allowed: str) -> str:
        found = chr(self.number(1))
        if found not in allowed:
            raise Malformed(f"not one of {allowed}")
        return found

    def name(self) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise Malformed("a name without an end")
        try:
            return self.take(end + 1 - self.at)[:-1].decode()
        except UnicodeDecodeError as error:
            raise Malformed("a name that is not UTF-8") from error

    def end(self) -> None:
        if self.at != len(self.data):
            raise Malformed("bytes after the last field")

    def values(self, table: TableOf) -> tuple[Value, ...]:
        if self.number(2) != len(table.columns):
            raise Malformed("not as many values as columns")
        return tuple(self.value() for _ in table.columns)

    def value(self) -> Value:
        kind = self.char(self.value_kinds)
        return Value(kind) if kind in "nu" else Value(kind, self.take(self.number(4)))


class _Reader:
    def __init__(self, options: Options) -> None:
        self.primary_keys = options.primary_keys
        self.protocol = options.protocol
        self.value_kinds = "tbnu" if options.binary else "tnu"
        self.reading = Reading()
        self.tables: dict[int, TableOf] = {}
        self.open: _Transaction | None = None
        self.commit_lsn = 0  # of the last transaction
        self.streamed: dict[int, _Streamed] = {}
        self.streaming: int | None = None  # the transaction whose block is open

    def take(self, frame: bytes) -> None:
        """One frame."""
        if len(frame) <= HEADER_BYTES:
            raise Malformed("a frame without a message")
        start, wal_end = struct.unpack_from("!QQ", frame, 1)
        kind, body = chr(frame[HEADER_BYTES]), frame[HEADER_BYTES + 1 :]
        if kind in "SEcA" and self.protocol > 1:
            self.control(_Message(start, wal_end, kind, body))
        elif self.streaming is None:
            self.apply(_Message(start, wal_end, kind, body))
        elif kind != "O":  # the one message in a block that has no transaction id
            self.streamed[self.streaming].messages.append(_Message(start, wal_end, kind, body))

    # -- protocol 2

    def control(self, message: _Message) -> None:
        """Stream Start, Stop, Commit and Abort."""
        kind, cursor = message.kind, _Cursor(message.body)
        if (kind == "E") != (self.streaming is not None):
            raise Malformed("blocks of streamed transactions do not nest")
        match kind:
            case "S":
                self.streaming, first = cursor.number(4), bool(cursor.number(1))
                if first != (self.streaming not in self.streamed):
                    raise Malformed("the first block of a transaction says so, and no other")
                self.streamed.setdefault(self.streaming, _Streamed())
            case "E":
                self.streaming = None
            case "A":
                self.abort(cursor.number(4), cursor.number(4))
            case "c":
                self.commit_streamed(message, cursor)
        cursor.end()

    def abort(self, xid: int, subxid: int) -> None:
        """Of a transaction of which nothing has come there is nothing to forget."""
        if xid == subxid:
            self.streamed.pop(xid, None)
        elif xid in self.streamed:
            self.streamed[xid].aborted.add(subxid)

    def commit_streamed(self, message: _Message, cursor: _Cursor) -> None:
        """The transaction as if it came only now."""
        xid, flags, rest = cursor.number(4), cursor.take(1), cursor.take(24)
        if xid not in self.streamed:
            raise Malformed("a commit of what was not streamed")
        transaction = self.streamed.pop(xid)
        begin = rest[:8] + rest[16:] + xid.to_bytes(4, "big")
        self.apply(replace(message, kind="B", body=begin))
        for kept in transaction.messages:
            subxid = _Cursor(kept.body).number(4)
            if subxid not in transaction.aborted:
                if kept.kind not in "RYIUDTM":
                    raise Malformed("a message that no block holds")
                self.apply(replace(kept, body=kept.body[4:]))
        self.apply(replace(message, kind="C", body=flags + rest))

    # -- protocol 1

    def apply(self, message: _Message) -> None:
        """A message outside of a block."""
        if max(message.start, message.wal_end) > LSN_MAX:
            raise Malformed("a position beyond what the system can count")
        kind, cursor = message.kind, _Cursor(message.body, self.value_kinds)
        match kind:
            case "B":
                self.begin(cursor)
            case "C":
                self.commit(cursor)
            case "R":
                self.relation(cursor)
            case "I" | "U" | "D" | "T":
                self.change(message.start, kind, cursor)
            case "O" | "Y" | "M":
                return  # nothing of ours is in them
            case _:
                raise Malformed("an unknown kind")
        cursor.end()

    def begin(self, cursor: _Cursor) -> None:
        if self.open is not None:
            raise Malformed("a transaction in a transaction")
        self.start_transaction(_Transaction(cursor.lsn(), cursor.time(), cursor.number(4)))

    def start_transaction(self, begun: _Transaction) -> None:
        """Transactions come in the order of their commits."""
        if begun.commit_lsn <= self.commit_lsn:
            raise Malformed("a commit that lies before the one before it")
        self.open, self.commit_lsn = begun, begun.commit_lsn

    def commit(self, cursor: _Cursor) -> None:
        if self.open is None:
            raise Malformed("a commit of nothing")
        cursor.take(1)
        commit_lsn, end_lsn = cursor.lsn(), cursor.lsn()
        cursor.take(8)
        if commit_lsn != self.open.commit_lsn or end_lsn <= commit_lsn:
            raise Malformed("the commit is not where Begin said")
        self.open, self.reading.end_lsn = None, end_lsn

    def relation(self, cursor: _Cursor) -> None:
        oid, schema, name = cursor.number(4), cursor.name(), cursor.name()
        identity = cursor.char("dnfi")
        columns = []
        for _ in range(cursor.number(2)):
            key, column = bool(cursor.number(1) & 1), cursor.name()
            columns.append(ColumnOf(column, cursor.number(4), key, cursor.number(4, signed=True)))
        if len({column.name for column in columns}) != len(columns):
            raise Malformed("two columns of one name")
        self.tables[oid] = TableOf(oid, name, tuple(columns), identity, schema or "pg_catalog")

    def table(self, oid: int) -> TableOf:
        if oid not in self.tables:
            raise Malformed("a change before its Relation message")
        return self.tables[oid]

    def key(self, table: TableOf) -> frozenset[str]:
        """The columns that identify a row. Under identity full the message flags every column: the catalog knows better."""
        if table.identity not in "fn":
            return frozenset(column.name for column in table.columns if column.key)
        known = self.primary_keys.get(table.oid, frozenset())
        return known if known <= {column.name for column in table.columns} else frozenset()

    def change(self, start: int, kind: str, cursor: _Cursor) -> None:
        if self.open is None:
            raise Malformed("a change outside of a transaction")
        before = self.count(start, self.open)
        if kind == "T":
            self.truncate(start, 2 * before, cursor)
            return
        table = self.table(cursor.number(4))
        blank = Row(
            table,
            self.key(table),
            kind,
            self.open.commit_lsn,
            start,
            2 * before,
            self.open.commit_time,
            self.open.xid,
            (NULL,) * len(table.columns),
        )
        mark = cursor.char({"I": "N", "U": "KON", "D": "KO"}[kind])
        first = cursor.values(table)
        if mark == "N":
            self.reading.rows.append(replace(blank, values=first))
        elif kind == "D":
            self.reading.rows.append(replace(blank, values=_key_only(blank, first)))
        else:
            cursor.char("N")
            self.reading.rows += _update(blank, mark, first, cursor.values(table))

    def count(self, start: int, now: _Transaction) -> int:
        """How many row messages of the same WAL start came before: they lie together, because a transaction is in WAL's order."""
        if start < now.lsn:
            raise Malformed("a change that lies before the one before it")
        now.same = now.same + 1 if start == now.lsn else 1
        now.lsn = start
        return now.same - 1

    def truncate(self, start: int, ordinal: int, cursor: _Cursor) -> None:
        assert self.open is not None
        count, _ = cursor.number(4), cursor.number(1)
        if count * 4 != len(cursor.data) - cursor.at:
            raise Malformed("not as many relations as counted")
        oids = [cursor.number(4) for _ in range(count)]
        if len(set(oids)) != count:
            raise Malformed("a relation truncated twice")
        for table in map(self.table, oids):
            nothing = (NULL,) * len(table.columns)
            now = self.open
            row = Row(table, self.key(table), "T", now.commit_lsn, start, ordinal, now.commit_time, now.xid, nothing)
            self.reading.rows.append(row)


def _update(blank: Row, mark: str, old: tuple[Value, ...], new: tuple[Value, ...]) -> list[Row]:
    """An Update that brings its old key (K: it changed, or lies out of line) or its whole old row (O): what was not sent is filled."""
    new = tuple(
        before if after.kind == "u" and (mark == "O" or column.name in blank.key) else after
        for column, before, after in zip(blank.table.columns, old, new, strict=True)
    )
    if blank.key and not _moved(blank, old, new):
        return [replace(blank, values=new)]
    key = _key_only(blank, old)
    return [replace(blank, op="D", values=key), replace(blank, op="I", ordinal=blank.ordinal + 1, values=new, old=key)]


def _moved(blank: Row, old: tuple[Value, ...], new: tuple[Value, ...]) -> bool:
    """Whether the key differs. A key that is not there in both cannot be called the same."""
    return any(
        before.kind not in "tb" or before != after
        for column, before, after in zip(blank.table.columns, old, new, strict=True)
        if column.name in blank.key
    )


def _key_only(blank: Row, values: tuple[Value, ...]) -> tuple[Value, ...]:
    if not blank.key:
        return values
    return tuple(
        value if column.name in blank.key else NULL for column, value in zip(blank.table.columns, values, strict=True)
    )
