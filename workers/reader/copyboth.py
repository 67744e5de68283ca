"""The COPY BOTH phase of a replication connection: CopyData payloads in, status messages out, never blocking.

Two ways to the same `Chunk`s:

    Direct         reads the socket itself, in large pieces: one Python step per frame (its length), none of libpq's copies
    ThroughLibpq   one libpq call per frame: for connections that libpq encrypts

`Direct` also sends START_REPLICATION itself: from then on libpq must not have read anything of ours. Before and after it is libpq's connection: libpq
has logged in, and closes it. Messages of the server: 'd' CopyData, 'W' CopyBoth begins, 'E' error, 'c' 'C' 'Z' the end, 'N' 'S' of no interest.
(Manual: "Message Formats".)
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from typing import Protocol

import numpy as np
import psycopg
from psycopg import pq

from workers.reader.frame import Chunk

READ_BYTES_MAX = 1 << 20  # of one read: some milliseconds of work, so that timers and mailboxes get their turn
MESSAGE_BYTES_MAX = 0x3FFFFFFF + (1 << 16)  # PostgreSQL's own limit of one allocation, and headers
_HEADER_BYTES = 5  # type(1) length(4), which counts itself
_LENGTH = struct.Struct("!I").unpack_from
_COPY_DATA = ord("d")


class ServerError(Exception):
    """An error as the server told it: severity (not localised), SQLSTATE, primary message and context."""

    def __init__(self, severity: str, sqlstate: str, text: str, context: str) -> None:
        super().__init__(text)
        self.severity, self.sqlstate, self.text, self.context = severity, sqlstate, text, context


class BrokenOffError(Exception):
    """The connection is gone, or what comes is not the protocol."""


class CopyBoth(Protocol):
    """What both ways promise. ServerError or BrokenOffError when there is no more."""

    def start(self, command: str, seconds: float) -> None:
        """Send START_REPLICATION and wait for the server's consent. TimeoutError when it does not come."""

    def read(self) -> Chunk | None:
        """CopyData payloads that have come, at most about READ_BYTES_MAX; None when no whole one is there."""

    def send(self, payload: bytes) -> None:
        """Send one CopyData; queued when the socket is full."""

    def flush(self) -> bool:
        """Send what is queued; True when nothing is left."""

    def close(self) -> None:
        """Give up what is ours; libpq closes the connection."""


def copy_both(pg: pq.abc.PGconn) -> CopyBoth:
    """The faster way that this connection allows. (GSS encryption is never asked for.)"""
    return ThroughLibpq(pg) if pg.ssl_in_use else Direct(pg.socket)


class Direct:
    """The socket, read by us."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(fileno=os.dup(fd))
        self._socket.setblocking(False)
        self._buffer = bytearray(READ_BYTES_MAX)
        self._filled = 0
        self._unsent = bytearray()

    def start(self, command: str, seconds: float) -> None:
        """Send the query; what follows the consent stays in the buffer."""
        text = command.encode() + b"\0"
        self._unsent += b"Q" + struct.pack("!I", len(text) + 4) + text
        deadline = time.monotonic() + seconds
        while not self._consented():
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            writing = [] if self.flush() else [self._socket]
            select.select([self._socket], writing, [], left)
            self._receive()

    def read(self) -> Chunk | None:
        """Whole messages of the buffer, after a look at the socket."""
        self._receive()
        places, used = message_places(self._buffer, self._filled)
        if not places:
            self._make_room()
            return None
        data = bytes(memoryview(self._buffer)[:used])
        start = np.array(places, dtype=np.int64)
        if bool((np.frombuffer(data, dtype=np.uint8)[start] != _COPY_DATA).any()):
            return self._until_the_end(data, places)
        self._drop(used)
        end = np.append(start[1:], used)
        return Chunk(memoryview(data), start + _HEADER_BYTES, end)

    def send(self, payload: bytes) -> None:
        """As one CopyData."""
        self._unsent += b"d" + struct.pack("!I", len(payload) + 4) + payload
        self.flush()

    def flush(self) -> bool:
        """As far as the socket takes it."""
        with contextlib.suppress(BlockingIOError, InterruptedError):
            while self._unsent:
                try:
                    del self._unsent[: self._socket.send(self._unsent)]
                except (BrokenPipeError, ConnectionResetError) as error:
                    raise BrokenOffError(error.strerror or "the connection is gone") from None
        return not self._unsent

    def close(self) -> None:
        """Our copy of the descriptor."""
        self._socket.close()

    def _consented(self) -> bool:
        """Take messages until CopyBothResponse."""
        while True:
            places, used = message_places(self._buffer, self._filled, at_most=1)
            if not places:
                return False
            message = bytes(memoryview(self._buffer)[:used])
            self._drop(used)
            if message[:1] == b"E":
                raise refused_by(message)
            if message[:1] == b"W":
                return True

    def _receive(self) -> None:
        """Fill the buffer with what is there."""
        view = memoryview(self._buffer)
        try:
            while self._filled < len(self._buffer):
                count = self._socket.recv_into(view[self._filled :])
                if count == 0:
                    if self._filled:
                        return  # the server's last words come first
                    raise BrokenOffError("the server closed the connection")
                self._filled += count
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            raise BrokenOffError(error.strerror or "the connection is gone") from None

    def _make_room(self) -> None:
        """A message that is larger than the buffer: the buffer grows with what has really come."""
        if self._filled < len(self._buffer):
            if self._filled and self._ended():
                raise BrokenOffError("the server closed the connection within a message")
            return
        size = 1 + _LENGTH(self._buffer, 1)[0]
        if not _HEADER_BYTES <= size <= MESSAGE_BYTES_MAX:
            raise BrokenOffError("a message has a length that the protocol does not allow")
        self._buffer += bytes(min(len(self._buffer), size - len(self._buffer)))

    def _ended(self) -> bool:
        try:
            return self._socket.recv(1, socket.MSG_PEEK) == b""
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            return True

    def _drop(self, used: int) -> None:
        """Forget the first octets; a buffer that had grown for one message shrinks again."""
        rest = bytes(memoryview(self._buffer)[used : self._filled])
        if len(self._buffer) > READ_BYTES_MAX:
            self._buffer = bytearray(max(READ_BYTES_MAX, len(rest)))
        self._buffer[: len(rest)] = rest
        self._filled = len(rest)

    def _until_the_end(self, data: bytes, places: list[int]) -> Chunk | None:
        """Payloads before the first message that is not CopyData; that one alone raises, at the next read."""
        last = next(number for number, at in enumerate(places) if data[at] != _COPY_DATA)
        if last:
            self._drop(places[last])
            start = np.array(places[:last], dtype=np.int64)
            return Chunk(memoryview(data)[: places[last]], start + _HEADER_BYTES, np.append(start[1:], places[last]))
        message = data[: places[1]] if len(places) > 1 else data
        if message[:1] == b"E":
            raise refused_by(message)
        if message[:1] in (b"N", b"S"):
            self._drop(len(message))
            return None
        raise BrokenOffError("the server ended the stream")


def message_places(buffer: bytearray, filled: int, at_most: int = 1 << 62) -> tuple[list[int], int]:
    """Where the whole messages in the buffer begin, and where the last one ends."""
    places: list[int] = []
    found, at, last = places.append, 0, filled - _HEADER_BYTES
    while at <= last and len(places) < at_most:
        after = at + 1 + _LENGTH(buffer, at + 1)[0]
        if after > filled:
            break
        if after < at + _HEADER_BYTES:
            raise BrokenOffError("a message has a length that the protocol does not allow")
        found(at)
        at = after
    return places, at


def refused_by(message: bytes) -> ServerError:
    """ErrorResponse: fields of a code(1) and a text that ends with zero."""
    fields = {field[:1]: field[1:].decode(errors="replace") for field in message[_HEADER_BYTES:].split(b"\0") if field}
    return ServerError(*(fields.get(code, "") for code in (b"V", b"C", b"M", b"W")))


class ThroughLibpq:
    """libpq's own calls."""

    def __init__(self, pg: pq.abc.PGconn) -> None:
        self._pg = pg

    def start(self, command: str, seconds: float) -> None:
        """Send the query and wait."""
        deadline = time.monotonic() + seconds
        self._pg.send_query(command.encode())
        while self._pg.flush() == 1 or self._pg.is_busy():
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            select.select([self._pg.socket], [], [], left)
            self._consume()
        result = self._pg.get_result()
        if result is None or result.status != pq.ExecStatus.COPY_BOTH:
            raise _end_of(result)

    def read(self) -> Chunk | None:
        """Everything that libpq has or the socket gives, up to the limit."""
        frames: list[memoryview] = []
        take, room = self._pg.get_copy_data, READ_BYTES_MAX
        self._consume()
        while room > 0:
            size, frame = take(1)
            if size == 0:
                self._consume()
                size, frame = take(1)
            if size == 0 or (size < 0 and frames):
                break
            if size < 0:
                raise _end_of(self._pg.get_result())
            room -= size
            frames.append(frame)
        return Chunk.of(frames) if frames else None

    def send(self, payload: bytes) -> None:
        """As one CopyData."""
        try:
            self._pg.put_copy_data(payload)
            self._pg.flush()
        except psycopg.Error as error:
            result = self._pg.get_result()  # the server's word, if it said one, tells more than ours
            raise BrokenOffError(str(error)) if result is None else _end_of(result) from None

    def flush(self) -> bool:
        """As far as the socket takes it."""
        try:
            return self._pg.flush() == 0
        except psycopg.Error as error:
            raise BrokenOffError(str(error)) from None

    def close(self) -> None:
        """Nothing is ours."""

    def _consume(self) -> None:
        try:
            self._pg.consume_input()
        except psycopg.Error as error:
            raise BrokenOffError(str(error)) from None


def refusal(result: pq.abc.PGresult) -> ServerError:
    """The server's error in a result of libpq's."""
    field = pq.DiagnosticField
    wanted = (field.SEVERITY_NONLOCALIZED, field.SQLSTATE, field.MESSAGE_PRIMARY, field.CONTEXT)
    return ServerError(*((result.error_field(code) or b"").decode(errors="replace") for code in wanted))


def _end_of(result: pq.abc.PGresult | None) -> Exception:
    """Why libpq has no more."""
    if result is None or result.status != pq.ExecStatus.FATAL_ERROR:
        return BrokenOffError("the server ended the stream")
    return refusal(result)
