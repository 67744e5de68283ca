"""pgoutput frames from values: the writer that stands opposite `workers.reader.pgoutput` (manual: "Logical Replication Message Formats").

A row is a sequence of texts, one per column: a string, None (NULL) or UNCHANGED (a TOAST value that was not sent).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

PG_EPOCH_US = 946_684_800_000_000  # 2000-01-01 in Unix microseconds
HEADER = 25  # bytes of an XLogData frame before the message


class Unchanged(Enum):
    """The one value of its kind, so that a checker can tell it from text."""

    UNCHANGED = "u"


UNCHANGED = Unchanged.UNCHANGED
Text = str | bytes | None | Unchanged


@dataclass(frozen=True)
class Field:
    """A column as a Relation message has it; type 25 is text, 23 integer."""

    name: str
    type_oid: int = 25
    typmod: int = -1
    key: bool = False


def frame(start: int, message: bytes, wal_end: int | None = None) -> bytes:
    """XLogData at WAL position `start`."""
    return struct.pack("!cQQq", b"w", start, start if wal_end is None else wal_end, 0) + message


def begin(commit_lsn: int, commit_ts_us: int, xid: int) -> bytes:
    """`commit_ts_us` counts from 1970."""
    return struct.pack("!cQqI", b"B", commit_lsn, commit_ts_us - PG_EPOCH_US, xid)


def commit(commit_lsn: int, end_lsn: int, commit_ts_us: int) -> bytes:
    """The end of the transaction whose Begin had the same `commit_lsn`."""
    return struct.pack("!cBQQq", b"C", 0, commit_lsn, end_lsn, commit_ts_us - PG_EPOCH_US)


def relation(oid: int, name: str, fields: Sequence[Field], identity: str = "d", schema: str = "public") -> bytes:
    """A table's shape. `identity` is d(efault), n(othing), f(ull) or i(ndex)."""
    head = b"R" + struct.pack("!I", oid) + _name(schema) + _name(name) + identity.encode()
    columns = [
        struct.pack("!B", field.key) + _name(field.name) + struct.pack("!Ii", field.type_oid, field.typmod)
        for field in fields
    ]
    return head + struct.pack("!H", len(fields)) + b"".join(columns)


def insert(oid: int, row: Sequence[Text]) -> bytes:
    """A new row."""
    return b"I" + struct.pack("!I", oid) + b"N" + _row(row)


def update(oid: int, row: Sequence[Text], *, key: Sequence[Text] = (), old: Sequence[Text] = ()) -> bytes:
    """A changed row, with its old key ('K') or its whole old row ('O')."""
    before = b"K" + _row(key) if key else b"O" + _row(old) if old else b""
    return b"U" + struct.pack("!I", oid) + before + b"N" + _row(row)


def delete(oid: int, *, key: Sequence[Text] = (), old: Sequence[Text] = ()) -> bytes:
    """A deleted row, named by its key or by all of it."""
    return b"D" + struct.pack("!I", oid) + (b"K" + _row(key) if key else b"O" + _row(old))


def truncate(oids: Sequence[int], options: int = 0) -> bytes:
    """`options`: 1 CASCADE, 2 RESTART IDENTITY."""
    return b"T" + struct.pack(f"!IB{len(oids)}I", len(oids), options, *oids)


def origin(lsn: int, name: str) -> bytes:
    """Where a transaction came from."""
    return b"O" + struct.pack("!Q", lsn) + _name(name)


def type_message(oid: int, name: str) -> bytes:
    """The name of a type that is not built in."""
    return b"Y" + struct.pack("!I", oid) + _name("public") + _name(name)


def logical_message(lsn: int, content: bytes, *, transactional: bool = True) -> bytes:
    """pg_logical_emit_message."""
    return b"M" + struct.pack("!BQ", transactional, lsn) + _name("prefix") + struct.pack("!I", len(content)) + content


def _name(text: str) -> bytes:
    return text.encode() + b"\0"


def _row(row: Sequence[Text]) -> bytes:
    return struct.pack("!H", len(row)) + b"".join(map(_value, row))


def _value(value: Text) -> bytes:
    if value is None:
        return b"n"
    if isinstance(value, Unchanged):
        return b"u"
    data = value.encode() if isinstance(value, str) else value
    return b"t" + struct.pack("!I", len(data)) + data
