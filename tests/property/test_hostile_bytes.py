"""Parsers of foreign bytes: a right result or a typed error, whatever comes."""

from __future__ import annotations

import socket
import struct
import tracemalloc
from typing import get_args

import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl_supervisor.errors import EtlError
from etl_supervisor.ipc import mailbox, wire
from etl_supervisor.ipc.messages import Message, OpenTable
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.model.table import Column, Table, TableName
from etl_supervisor.model.types import ValueKind, ValueType
from tests.support import hostile
from tests.support import pgoutput_frames as pg
from tests.support.pgoutput_comparison import columnar, decoder
from tests.support.pgoutput_frames import ColumnOf, TableOf
from tests.support.pgoutput_history import frames
from tests.support.pgoutput_streams import histories
from workers.reader.csv import parse_lines

NUMBERS = [bytes.fromhex(digits) for digits in ("ffffffff", "80000000", "7fffffff", "00000000", "ffff", "0000", "00ff")]
TEXTS = [Column(f"c{number}", ValueType(ValueKind.TEXT)) for number in range(3)]
PRICE = Column("price", ValueType(ValueKind.NUMERIC, 10, 2))
MARKS = [bytes([mark]) for mark in b"BCORYIUDTMSEcAKONtbnudfi\0\xff"]


@st.composite
def mutated(draw: st.DrawFn) -> list[bytes]:
    """A valid stream with some frames broken, lost, repeated or out of their order."""
    stream = frames(draw(histories(steps_max=6)), streamed=draw(st.booleans()))
    for _ in range(draw(st.integers(1, 3)) if stream else 0):
        at = draw(st.integers(0, len(stream) - 1))
        match draw(st.sampled_from(["set", "set", "set", "cut", "add", "lose", "repeat", "swap"])):
            case "set":
                new = draw(st.sampled_from(MARKS) | st.sampled_from(NUMBERS) | st.binary(min_size=1, max_size=2))
                place = draw(st.integers(1, max(1, len(stream[at]))) | st.integers(25, max(25, len(stream[at]))))
                stream[at] = stream[at][:place] + new + stream[at][place + len(new) :]
            case "cut":
                stream[at] = stream[at][: draw(st.integers(0, len(stream[at])))]
            case "add":
                stream[at] += draw(st.binary(min_size=1, max_size=5))
            case "lose" if len(stream) > 1:
                del stream[at]
            case "repeat":
                stream.insert(at, stream[at])
            case "swap":
                other = draw(st.integers(0, len(stream) - 1))
                stream[at], stream[other] = stream[other], stream[at]
    return stream


@settings(max_examples=500, deadline=None)
@given(mutated())
def test_a_broken_stream_gives_the_plain_decoders_rows_or_a_typed_error(stream):
    hostile.pgoutput(hostile.pack(stream))


def stream_of(*messages: bytes) -> list[bytes]:
    """One transaction with these messages, in a table of one text column."""
    table = TableOf(1, "t", (ColumnOf("a"),))
    return [pg.frame(10, message) for message in (pg.begin(100, 0, 1), pg.relation(table), *messages)]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (b"I\0\0\0\1N\0\1t\xff\xff\xff\xffa", "message tuple: field length of a column"),
        (b"I\0\0\0\1N\0\1b\x80\0\0\0a", "message tuple: field length of a column"),
        (b"I\0\0\0\1N\xff\xfft\0\0\0\1a", "message tuple: field column count"),
        (b"T\xff\xff\xff\xff\0\0\0\0\1", "message Truncate: field relations"),
        (b"R\0\0\0\2s\0t\0d\xff\xff\1a\0", "message Relation: field length"),
    ],
)
def test_a_number_that_is_far_too_large_is_refused_without_memory_for_it(message, error):
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        with pytest.raises(EtlError, match=error):
            columnar(stream_of(message), [], decoder({}))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        assert pa.total_allocated_bytes() - before < 1 << 20
    finally:
        tracemalloc.stop()


@given(st.integers(0, 40) | st.integers(0, 2**32 - 1), st.sampled_from([b"t", b"b"]))
def test_no_value_reaches_beyond_its_own_frame(length, kind):
    first = b"I\0\0\0\1N\0\1" + kind + struct.pack("!I", length) + b"mine"
    stream = stream_of(first, pg.insert(1, [pg.text("other" * 10)]))
    if length == 4 and kind == b"t":
        values = [row["values"] for row in columnar(stream, [], decoder({})).tables[1]]
        assert values == [("mine",), ("other" * 10,)]
    else:
        with pytest.raises(EtlError, match="tuple"):
            columnar(stream, [], decoder({}))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_as_frames_are_a_typed_error_or_nothing_at_all(data):
    hostile.pgoutput(data)


@given(st.binary(max_size=40) | st.binary(min_size=17, max_size=17).map(lambda body: b"k" + body))
def test_any_bytes_between_frames_are_a_keepalive_or_a_typed_error(data):
    hostile.stream_frame(data)


CSV = st.lists(
    st.sampled_from([b"a", b",", b'"', b"\n", b"\r", b"\\N", b"\\.", b"\0", b"\xff", b"\xef\xbb\xbf"]), max_size=20
)


@settings(deadline=None)
@given(st.binary(max_size=1), CSV)
def test_any_bytes_of_a_copy_are_as_many_rows_or_a_typed_error(width, parts):
    hostile.copy_rows(width + b"".join(parts))


def as_copy_writes(value: str | None) -> bytes:
    """CopyAttributeOutCSV in PostgreSQL's copyto.c, for NULL '\\N'."""
    if value is None:
        return b"\\N"
    quote = value in ("\\N", "\\.") or any(character in value for character in ',"\n\r')
    return ('"' + value.replace('"', '""') + '"' if quote else value).encode()


COPIED = st.none() | st.sampled_from(["", "\ufeff", "\\N", "\\.", "N", 'a"', '"', ",", "\r\n"]) | st.text(max_size=5)


@settings(deadline=None)
@given(st.integers(1, 3).flatmap(lambda width: st.lists(st.tuples(*[COPIED] * width), min_size=1, max_size=5)))
def test_every_value_of_a_copy_comes_back_as_it_was(rows):
    table = Table(TableName("public", "t"), 1, tuple(TEXTS[: len(rows[0])]))
    lines = [b",".join(map(as_copy_writes, row)) + b"\n" for row in rows]
    found = parse_lines(b"".join(lines), len(lines), table)
    assert list(zip(*(column.to_pylist() for column in found.columns), strict=True)) == rows


def test_an_error_of_a_copy_never_shows_a_value():
    with pytest.raises(EtlError) as error:
        parse_lines(b"secret\n", 1, Table(TableName("public", "t"), 1, tuple(TEXTS)))
    assert error.value.line == "protocol at table public.t: COPY sent rows of another shape (report it)"


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.sampled_from(["numeric", "protocol", ""]),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)
NAMES = st.sampled_from([cls.__name__ for cls in get_args(Message)])


@settings(deadline=None)
@given(NAMES, st.lists(JSON, max_size=8) | JSON)
def test_any_json_between_processes_is_a_message_or_a_value_error(name, fields):
    hostile.wire_message(orjson.dumps([name, *fields] if isinstance(fields, list) else {name: fields}))


DESTINATION = Destination(
    1, "s", "snowflake", "a", "u", "d", "s", None, None, "k", None, None, "l", 1.5, {"ca_file": "f"}
)
VALID = OpenTable(1, 2, "p", "o", 3, 4, "c", DESTINATION, Table(TableName("a", "b"), 5, (PRICE,)), "")


@settings(deadline=None)
@given(st.data())
def test_a_message_with_a_changed_byte_is_a_message_or_a_value_error(data):
    found = bytearray(wire.encode(VALID))
    found[data.draw(st.integers(0, len(found) - 1))] = data.draw(st.integers(0, 255))
    hostile.wire_message(bytes(found))


def test_a_number_with_more_digits_than_there_are_is_no_message():
    with pytest.raises(ValueError, match=r"OpenTable\.table: .*NUMERIC\(99, 2\) is text"):
        wire.decode(wire.encode(VALID).replace(b'"numeric",10,2', b'"numeric",99,2'))


@settings(deadline=None)
@given(
    st.lists(NAMES.map(lambda name: orjson.dumps([name])) | st.binary(max_size=9), max_size=5), st.binary(max_size=9)
)
def test_any_bytes_in_a_mailbox_are_messages_or_a_value_error(messages, rest):
    frames = b"".join(struct.pack("!IB", len(message), 0) + message for message in messages)
    hostile.mailbox_bytes(frames + rest)


def test_a_message_that_claims_descriptors_it_does_not_bring_is_refused_at_once():
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    connection = mailbox.Connection(right)
    left.sendall(struct.pack("!IB", 1 << 20, 3))
    with pytest.raises(ValueError, match="a message came without its descriptors"):
        connection.receive()
    connection.close()
    left.close()


MESSAGES = st.tuples(st.sampled_from([b"d", b"d", b"N", b"S", b"E", b"c", b"W"]), st.binary(max_size=9)).map(
    lambda parts: parts[0] + struct.pack("!I", len(parts[1]) + 4) + parts[1]
)


@settings(deadline=None)
@given(st.lists(MESSAGES, max_size=6), st.binary(max_size=9))
def test_any_bytes_of_a_server_are_payloads_and_then_an_error_of_the_connection(messages, rest):
    hostile.server_bytes(b"".join(messages) + rest)
