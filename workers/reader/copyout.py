"""The rows of a COPY … TO STDOUT, many at a time, in whichever format they were asked for.

Two ways, as in `copyboth`: the socket itself, one Python step per row (its length); or libpq, for connections that it encrypts, which gives and
frees each row by itself and takes many times as long.

A server sends some kilobytes at a time. They are gathered in the buffer, and looked at when it is full or seems to end with ReadyForQuery (a row that
ends with the same octets is looked at early, no more).

The socket is read by us from the query to ReadyForQuery. libpq has sent nothing and has read nothing meanwhile: for it nothing has happened.
What the transaction is afterwards (failed, after an error) is for the caller to know. Messages of the server: 'H' CopyOut begins, 'd' a row, 'c' 'C'
the end, 'E' error, 'Z' ready, 'N' 'S' of no interest.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import psycopg

from workers.reader.copyboth import MESSAGE_BYTES_MAX, BrokenOffError, ServerError, message_places, refused_by
from workers.reader.frame import Chunk

READ_BYTES = 1 << 20  # of rows that are given at once; the buffer grows for a longer row
_HEADER_BYTES = 5  # type(1) length(4)
_LENGTH = struct.Struct("!I").unpack_from
_ROW, _ERROR, _READY = b"dEZ"
_READY_BYTES = 6  # type(1) length(4) state of the transaction(1)
_READY_BEGINS = b"Z\0\0\0\5"


def copy_out(connection: psycopg.Connection[Any], query: bytes) -> Iterator[Chunk]:
    """Run a COPY; its rows, about READ_BYTES at a time. ServerError for what the server says, BrokenOffError when it says no more."""
    if connection.pgconn.ssl_in_use:
        return _through_libpq(connection, query)
    return _Direct(connection.pgconn.socket).run(query)


def _through_libpq(connection: psycopg.Connection[Any], query: bytes) -> Iterator[Chunk]:
    parts: list[bytes | memoryview] = []
    size = 0
    try:
        with connection.cursor().copy(query) as rows:
            for row in rows:
                parts.append(bytes(row))
                size += len(row)
                if size >= READ_BYTES:
                    yield Chunk.of(parts)
                    parts, size = [], 0
    except psycopg.Error as error:
        if connection.broken or error.sqlstate is None:
            raise BrokenOffError(type(error).__name__) from None
        raise ServerError("ERROR", error.sqlstate, error.diag.message_primary or "", "") from None
    if parts:
        yield Chunk.of(parts)


class _Direct:
    """The socket, read by us. It is libpq's too, so its mode is put back."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=os.dup(fd))
        self._buffer = bytearray(READ_BYTES)
        self._filled = 0
        self._error: ServerError | None = None
        self._ended = False

    def run(self, query: bytes) -> Iterator[Chunk]:
        blocking = os.get_blocking(self._socket.fileno())
        try:
            self._socket.setblocking(True)
            text = query + b"\0"
            self._socket.sendall(b"Q" + struct.pack("!I", len(text) + 4) + text)
            while not self._ended:
                self._fill()
                rows = self._rows()
                if len(rows):
                    yield rows
            if self._error is not None:
                raise self._error
        except OSError as error:
            raise BrokenOffError(error.strerror or "the connection is gone") from None
        finally:
            os.set_blocking(self._socket.fileno(), blocking)
            self._socket.close()

    def _fill(self) -> None:
        """Read until the buffer is full or the server seems to be ready."""
        if self._filled == len(self._buffer):
            self._grow()
        view, size = memoryview(self._buffer), len(self._buffer)
        while self._filled < size:
            count = self._socket.recv_into(view[self._filled :])
            if count == 0:
                raise BrokenOffError("the server closed the connection")
            self._filled += count
            if self._buffer.startswith(_READY_BEGINS, max(0, self._filled - _READY_BYTES)):
                return

    def _rows(self) -> Chunk:
        """The rows that are whole now; what else has come is taken."""
        places, used = message_places(self._buffer, self._filled)
        data = bytes(memoryview(self._buffer)[:used])
        self._drop(used)
        start = np.array(places, dtype=np.int64)
        end = np.append(start[1:], used)[: len(start)]
        is_row = np.frombuffer(data, dtype=np.uint8)[start] == _ROW
        for number in np.flatnonzero(~is_row).tolist():
            self._take(data[start[number] : end[number]])
        return Chunk(memoryview(data), start + _HEADER_BYTES, end).pick(is_row)

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
