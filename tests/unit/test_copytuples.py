"""Bytes of a binary COPY: whole rows of the table, or a typed error that shows no value."""

from __future__ import annotations

import struct

import pytest

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.table import Column, Table, TableName
from etl_supervisor.model.types import ValueKind, ValueType
from workers.reader.copytuples import CopyTuples
from workers.reader.frame import Chunk

HEADER = b"PGCOPY\n\xff\r\n\0" + struct.pack("!II", 0, 0)
TRAILER = b"\xff\xff"
TABLE = Table(
    TableName("public", "t"),
    1,
    (Column("n", ValueType(ValueKind.INT32)), Column("note", ValueType(ValueKind.TEXT))),
)


def row(number: int | None, note: bytes | None) -> bytes:
    values = [None if number is None else struct.pack("!i", number), note]
    fields = [struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value for value in values]
    return struct.pack("!h", 2) + b"".join(fields)


def test_rows_come_back_with_their_nulls_wherever_header_and_trailer_stand():
    tuples = CopyTuples(TABLE)
    first = tuples.read(Chunk.of([HEADER + row(100, b"a"), row(None, None)]))
    second = tuples.read(Chunk.of([row(-1, b""), TRAILER]))
    assert [column.to_pylist() for column in first.columns] == [[100, None], ["a", None]]
    assert [column.to_pylist() for column in second.columns] == [[-1], [""]]
    assert tuples.read(Chunk.of([TRAILER])).rows == 0
    assert CopyTuples(TABLE).read(Chunk.of([HEADER + TRAILER])).rows == 0


def test_a_table_without_columns_has_its_rows():
    tuples = CopyTuples(Table(TableName("public", "t"), 1, ()))
    assert tuples.read(Chunk.of([HEADER + b"\0\0", b"\0\0", TRAILER])).rows == 2


@pytest.mark.parametrize(
    "message",
    [
        row(1, b"secret"),
        HEADER[:-1],
        HEADER + row(1, b"secret") + b"x",
        HEADER + row(1, b"secret")[:-1],
        HEADER + b"\0\3" + row(1, b"secret")[2:],
        HEADER + b"\0\2\x7f\xff\xff\xffsecret",
        HEADER + b"\0\2" + struct.pack("!iqi", 8, 1, 6) + b"secret",
        HEADER + b"\0",
    ],
)
def test_bytes_that_are_no_rows_of_the_table_are_refused_without_a_value(message):
    with pytest.raises(EtlError) as error:
        CopyTuples(TABLE).read(Chunk.of([message]))
    assert error.value.kind is Kind.PROTOCOL
    assert "secret" not in error.value.line
