"""What must hold for bytes from outside, whatever they are: one function per parser. Hypothesis and the fuzzer call the same ones.

Each takes any bytes and returns, or fails an assertion, or lets an exception through that no caller expects.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator, Sequence

import pytest

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc import mailbox, wire
from etl_supervisor.model.table import Column, Table, TableName
from etl_supervisor.model.types import ValueKind, ValueType
from tests.support.pgoutput_comparison import assembler, columnar, decoder, plain
from tests.support.pgoutput_reference import Malformed, Options, Reading, reference
from tests.support.pgoutput_streams import PRIMARY_KEYS
from workers.reader import copyboth
from workers.reader.csv import parse_lines
from workers.reader.stream import keepalive

_SOCKET_BYTES = 1 << 16  # of a mailbox's input: less than a socket holds
_LENGTH = struct.Struct("!H")


def pack(frames: Sequence[bytes]) -> bytes:
    """Frames as one input for `pgoutput`."""
    return b"".join(_LENGTH.pack(len(frame)) + frame for frame in frames)


def unpack(data: bytes) -> Iterator[bytes]:
    """The frames of an input; a length beyond its end takes what is there."""
    at = 0
    while at + _LENGTH.size <= len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        yield data[at + _LENGTH.size : at + _LENGTH.size + length]
        at += _LENGTH.size + length


def pgoutput(data: bytes) -> None:
    """Frames of the stream: the plain decoder's rows, or a typed error where it says that they are malformed."""
    frames = list(unpack(data))
    mixed = False
    try:
        reading = reference(frames, Options(PRIMARY_KEYS, binary=True))
        expected, mixed = plain(reading), _mixed(reading)
    except Malformed:
        expected = None
    try:
        with contextlib.closing(assembler()) as pieces:
            found = columnar(frames, [len(data) % (len(frames) + 1)], decoder(PRIMARY_KEYS), pieces)
    except EtlError as error:
        assert error.kind in (Kind.PROTOCOL, Kind.SCHEMA), error  # noqa: PT017 - no error at all is right too
        found = None
    assert found == expected or (found is None and mixed)


def _mixed(reading: Reading) -> bool:
    """Whether a column has values in text and in binary: no server sends that, and within a batch it is refused."""
    kinds: dict[tuple[int, str], set[str]] = {}
    for row in reading.rows:
        for column, value in zip(row.table.columns, row.values, strict=True):
            kinds.setdefault((row.table.oid, column.name), set()).add(value.kind)
    return any(found >= {"t", "b"} for found in kinds.values())


def stream_frame(data: bytes) -> None:
    """A frame between those with WAL: a keepalive, or a typed error."""
    with contextlib.suppress(EtlError):
        wal_end, wish = keepalive(memoryview(data))
        assert (data[0], len(data), wal_end, wish) == (ord("k"), 18, int.from_bytes(data[1:9]), data[17] != 0)


def copy_rows(data: bytes) -> None:
    """Rows of a COPY; the first byte says how many columns there should be."""
    rows = data[1:].splitlines(keepends=True)
    width = data[0] % 4 + 1 if data else 1
    columns = tuple(Column(f"c{number}", ValueType(ValueKind.TEXT)) for number in range(width))
    try:
        found = parse_lines(b"".join(rows), len(rows), Table(TableName("public", "t"), 1, columns))
    except EtlError as error:
        assert error.kind in (Kind.PROTOCOL, Kind.SCHEMA), error  # noqa: PT017 - no error at all is right too
    else:
        found.validate(full=True)
        assert (found.num_rows, found.num_columns) == (len(rows), width)


def wire_message(data: bytes) -> None:
    """A message between processes: what it is read as is written and read as the same."""
    with contextlib.suppress(ValueError):
        message = wire.decode(data)
        assert wire.decode(wire.encode(message)) == message


def mailbox_bytes(data: bytes) -> None:
    """What one end of a mailbox sends: whole messages in order, then a ValueError or the end."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with left, contextlib.closing(mailbox.Connection(right)) as connection:
        left.sendall(data[:_SOCKET_BYTES])
        left.shutdown(socket.SHUT_WR)
        expected = _messages(data[:_SOCKET_BYTES])
        try:
            while (received := connection.receive()) is not None:
                assert received == (next(expected), [])
        except ConnectionError:
            assert next(expected, None) is None
        except ValueError:
            with pytest.raises(ValueError):
                next(expected)


def _messages(data: bytes) -> Iterator[object]:
    """The same, read plainly. ValueError where the bytes are no message."""
    at = 0
    while at + 5 <= len(data):
        length, descriptors = struct.unpack_from("!IB", data, at)
        if length > wire.MESSAGE_BYTES_MAX or descriptors:
            raise ValueError
        if at + 5 + length > len(data):
            return
        yield wire.decode(data[at + 5 : at + 5 + length])
        at += 5 + length


def server_bytes(data: bytes) -> None:
    """What a server sends in the COPY BOTH phase: whole payloads in order, then an error of the connection."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs, contextlib.closing(copyboth.Direct(ours.fileno())) as stream:
        theirs.sendall(data[:_SOCKET_BYTES])
        theirs.shutdown(socket.SHUT_WR)
        expected, found = _payloads(data[:_SOCKET_BYTES]), []
        with pytest.raises((copyboth.ServerError, copyboth.BrokenOffError)):
            _drain(stream, found, len(data) + 2)
    assert found == expected[: len(found)]


def _drain(stream: copyboth.Direct, found: list[bytes], reads_max: int) -> None:
    for _ in range(reads_max):
        if (chunk := stream.read()) is not None:
            found += [bytes(chunk.data[first:last]) for first, last in zip(chunk.start, chunk.end, strict=True)]


def _payloads(data: bytes) -> list[bytes]:
    """CopyData payloads up to the first thing that ends the stream."""
    found, at = [], 0
    while at + 5 <= len(data):
        (length,) = struct.unpack_from("!I", data, at + 1)
        if length < 4 or at + 1 + length > len(data) or data[at : at + 1] not in (b"d", b"N", b"S"):
            break
        if data[at : at + 1] == b"d":
            found.append(data[at + 5 : at + 1 + length])
        at += 1 + length
    return found
