"""The rows of a COPY … TO STDOUT as text, many at a time.

Two ways, as in `copyboth`: the socket itself, one Python step per row (its length), the headers of all rows taken out at once by numpy; or
libpq, for connections that it
encrypts. libpq gives and frees each row by itself, which takes four times as long.

The socket is read by us from the query to ReadyForQuery. libpq has sent nothing and has read nothing meanwhile: for it nothing has happened.
What the transaction is afterwards
(failed, after an error) is for the caller to know. Messages of the server: 'H' CopyOut begins, 'd' a row, 'c' 'C' the end, 'E' error, 'Z'
ready, 'N' 'S' of no interest.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg

from workers.reader.copyboth import MESSAGE_BYTES_MAX, BrokenOffError, ServerError, message_places, refused_by

READ_BYTES = 1 << 20  # of one read; the buffer grows for a longer row
_HEADER_BYTES = 5  # type(1) length(4)
_LENGTH = struct.Struct("!I").unpack_from
_ROW, _ERROR, _READY = b"dEZ"


@dataclass(frozen=True, slots=True)
class Lines:
    """Rows as COPY wrote them, each with its line's end."""

    text: bytes
    rows: int


def copy_out(connection: psycopg.Connection[Any], query: bytes, chunk_bytes: int) -> Iterator[Lines]:
    """Run a COPY; its rows, about `chunk_bytes` at a time. ServerError for what the server says, BrokenOffError when it says no more."""
    if connection.pgconn.ssl_in_use:
        return _through_libpq(connection, query, chunk_bytes)
    return _Direct(connection.pgconn.socket).run(query, chunk_bytes)


def _through_libpq(connection: psycopg.Connection[Any], query: bytes, chunk_bytes: int) -> Iterator[Lines]:
    parts: list[bytes | memoryview] = []
    size = 0
    try:
        with connection.cursor().copy(query) as rows:
            for row in rows:
                parts.append(bytes(row))
                size += len(row)
                if size >= chunk_bytes:
                    yield Lines(b"".join(parts), len(parts))
                    parts, size = [], 0
    except psycopg.Error as error:
        if connection.broken or error.sqlstate is None:
            raise BrokenOffError(type(error).__name__) from None
        raise ServerError("ERROR", error.sqlstate, error.diag.message_primary or "", "") from None
    if parts:
        yield Lines(b"".join(parts), len(parts))


class _Direct:
    """The socket, read by us. It is libpq's too, so its mode is put back."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=os.dup(fd))
        self._buffer = bytearray(READ_BYTES)
        self._filled = 0
        self._error: ServerError | None = None
        self._ended = False

    def run(self, query: bytes, chunk_bytes: int) -> Iterator[Lines]:
        blocking = os.get_blocking(self._socket.fileno())
        try:
            self._socket.setblocking(True)
            text = query + b"\0"
            self._socket.sendall(b"Q" + struct.pack("!I", len(text) + 4) + text)
            parts, rows, size = [], 0, 0
            while not self._ended:
                data, count = self._rows()
                rows, size = rows + count, size + len(data)
                parts.append(data)
                if size >= chunk_bytes:
                    yield Lines(b"".join(parts), rows)
                    parts, rows, size = [], 0, 0
            if self._error is not None:
                raise self._error
            if rows:
                yield Lines(b"".join(parts), rows)
        except OSError as error:
            raise BrokenOffError(error.strerror or "the connection is gone") from None
        finally:
            os.set_blocking(self._socket.fileno(), blocking)
            self._socket.close()

    def _rows(self) -> tuple[bytes, int]:
        """Read once: the rows that are whole now, without their headers."""
        if self._filled == len(self._buffer):
            self._grow()
        count = self._socket.recv_into(memoryview(self._buffer)[self._filled :])
        if count == 0:
            raise BrokenOffError("the server closed the connection")
        self._filled += count
        places, used = message_places(self._buffer, self._filled)
        if not places:
            return b"", 0
        octets = np.frombuffer(bytes(memoryview(self._buffer)[:used]), dtype=np.uint8)
        self._drop(used)
        start = np.array(places, dtype=np.int64)
        kept = np.ones(used, dtype=np.bool_)
        for offset in range(_HEADER_BYTES):
            kept[start + offset] = False
        others = np.flatnonzero(octets[start] != _ROW).tolist()
        for number in others:
            end = places[number + 1] if number + 1 < len(places) else used
            self._take(octets[places[number] : end].tobytes())
            kept[places[number] : end] = False
        return octets[kept].tobytes(), len(places) - len(others)

    def _take(self, message: bytes) -> None:
        """A message that is no row."""
        if message[0] == _ERROR:
            self._error = refused_by(message)
        self._ended |= message[0] == _READY

    def _drop(self, used: int) -> None:
        rest = bytes(memoryview(self._buffer)[used : self._filled])
        if len(self._buffer) > READ_BYTES:
            self._buffer = bytearray(max(READ_BYTES, len(rest)))
        self._buffer[: len(rest)] = rest
        self._filled = len(rest)

    def _grow(self) -> None:
        """A row that is longer than the buffer: it grows with what has really come."""
        size = 1 + _LENGTH(self._buffer, 1)[0]
        if not _HEADER_BYTES <= size <= MESSAGE_BYTES_MAX:
            raise BrokenOffError("a message has a length that the protocol does not allow")
        self._buffer += bytes(min(len(self._buffer), size - len(self._buffer)))
