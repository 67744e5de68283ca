"""Builders of replication frames: every pgoutput message of protocols 1 and 2, as PostgreSQL writes it.

Source: PostgreSQL manual, "Logical Replication Message Formats" and "Streaming Replication Protocol" (XLogData). Inside a streamed block
(protocol 2) a message of the kinds R, Y, I, U, D, T, M has the transaction's id after its kind byte: pass `xid`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

HEADER_BYTES = 25  # 'w', start, end and clock


@dataclass(frozen=True)
class Value:
    """A column in a tuple: kind `t`ext, `b`inary, `n`ull or `u`nchanged, and its bytes."""

    kind: str
    data: bytes = b""


NULL, UNCHANGED = Value("n"), Value("u")


def text(data: str | bytes) -> Value:
    """A value in text form."""
    return Value("t", data.encode() if isinstance(data, str) else data)


@dataclass(frozen=True)
class ColumnOf:
    """A column as a Relation message has it."""

    name: str
    type_oid: int = 25
    key: bool = False
    typmod: int = -1


@dataclass(frozen=True)
class TableOf:
    """A table as a Relation message has it; `identity` is d(efault), n(othing), f(ull) or i(ndex)."""

    oid: int
    name: str
    columns: tuple[ColumnOf, ...]
    identity: str = "d"
    schema: str = "public"


def frame(start: int, message: bytes, wal_end: int | None = None, clock: int = 0) -> bytes:
    """A CopyData payload with XLogData."""
    return b"w" + struct.pack("!QQq", start, start if wal_end is None else wal_end, clock) + message


def keepalive(wal_end: int, *, reply: bool) -> bytes:
    """A CopyData payload with a primary keepalive message."""
    return b"k" + struct.pack("!QqB", wal_end, 0, reply)


def begin(commit_lsn: int, commit_time: int, xid: int) -> bytes:
    """Times are microseconds since 2000."""
    return b"B" + struct.pack("!QqI", commit_lsn, commit_time, xid)


def commit(commit_lsn: int, end_lsn: int, commit_time: int) -> bytes:
    return b"C\0" + struct.pack("!QQq", commit_lsn, end_lsn, commit_time)


def origin(commit_lsn: int, name: str) -> bytes:
    return b"O" + struct.pack("!Q", commit_lsn) + _name(name)


def relation(table: TableOf, xid: int | None = None) -> bytes:
    columns = b"".join(
        struct.pack("!B", column.key) + _name(column.name) + struct.pack("!Ii", column.type_oid, column.typmod)
        for column in table.columns
    )
    head = struct.pack("!I", table.oid) + _name("" if table.schema == "pg_catalog" else table.schema)
    identity = table.identity.encode() + struct.pack("!H", len(table.columns))
    return _head(b"R", xid) + head + _name(table.name) + identity + columns


def type_(oid: int, schema: str, name: str, xid: int | None = None) -> bytes:
    return _head(b"Y", xid) + struct.pack("!I", oid) + _name(schema) + _name(name)


def insert(oid: int, new: Sequence[Value], xid: int | None = None) -> bytes:
    return _head(b"I", xid) + struct.pack("!I", oid) + b"N" + _tuple(new)


def update(
    oid: int, new: Sequence[Value], old: Sequence[Value] | None = None, mark: str = "K", xid: int | None = None
) -> bytes:
    """`old` is the old key (`mark` K) or the whole old row (O)."""
    before = mark.encode() + _tuple(old) if old is not None else b""
    return _head(b"U", xid) + struct.pack("!I", oid) + before + b"N" + _tuple(new)


def delete(oid: int, old: Sequence[Value], mark: str = "K", xid: int | None = None) -> bytes:
    return _head(b"D", xid) + struct.pack("!I", oid) + mark.encode() + _tuple(old)


def truncate(oids: Sequence[int], options: int = 0, xid: int | None = None) -> bytes:
    """`options`: 1 CASCADE, 2 RESTART IDENTITY."""
    return _head(b"T", xid) + struct.pack(f"!IB{len(oids)}I", len(oids), options, *oids)


def message(prefix: str, content: bytes, lsn: int, *, transactional: bool, xid: int | None = None) -> bytes:
    """pg_logical_emit_message."""
    head = _head(b"M", xid) + struct.pack("!BQ", transactional, lsn)
    return head + _name(prefix) + struct.pack("!I", len(content)) + content


def stream_start(xid: int, *, first: bool) -> bytes:
    return b"S" + struct.pack("!IB", xid, first)


def stream_stop() -> bytes:
    return b"E"


def stream_commit(xid: int, commit_lsn: int, end_lsn: int, commit_time: int) -> bytes:
    return b"c" + struct.pack("!IBQQq", xid, 0, commit_lsn, end_lsn, commit_time)


def stream_abort(xid: int, subxid: int) -> bytes:
    """`subxid` equals `xid` when the whole transaction is aborted."""
    return b"A" + struct.pack("!II", xid, subxid)


def _head(kind: bytes, xid: int | None) -> bytes:
    return kind if xid is None else kind + struct.pack("!I", xid)


def _name(name: str) -> bytes:
    return name.encode() + b"\0"


def _tuple(values: Sequence[Value]) -> bytes:
    return struct.pack("!H", len(values)) + b"".join(_value(value) for value in values)


def _value(value: Value) -> bytes:
    if value.kind in "nu":
        return value.kind.encode()
    return value.kind.encode() + struct.pack("!I", len(value.data)) + value.data
