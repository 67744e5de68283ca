"""Connections that carry messages and file descriptors between two processes of one supervisor.

A mailbox belongs to its address, not to a process: the parent makes each actor's listening socket before the first fork and keeps it, so that it
outlives the actor. A publisher that finds its actor dead connects again; the connection waits in the listener's backlog until the
next actor accepts it. Addresses are in Linux's abstract namespace: no file is left behind by any kind of death.

A connection belongs to one pair of incarnations (Hello and Welcome name them) and ends with either; so every message carries both by travelling on
it, and nothing of a dead process can arrive on a new connection.

On the wire (a stream socket, so that no message is too long for the kernel's buffers):

    length (4 bytes, big endian) | descriptors (1 byte) | message (ipc.wire)
                                   `- as many descriptors come along with the first bytes of the message, by SCM_RIGHTS

Everything is non-blocking: `send` queues what the socket does not take, `receive` returns None when nothing whole has come.
"""

from __future__ import annotations

import array
import contextlib
import os
import secrets
import socket
import struct
from collections import deque
from collections.abc import Sequence

from etl_supervisor.ipc import wire
from etl_supervisor.ipc.messages import Message

_HEADER = struct.Struct("!IB")
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_DESCRIPTORS_MAX = 8  # one slab or one oversize segment comes at a time
_READ_BYTES = 1 << 16
BACKLOG = 128  # publishers that may wait for a dead actor: far above one reader and its copy workers per source
CONNECT_SECONDS_MAX = 5.0  # an abstract socket connects at once or, with a full backlog, waits


class PeerGoneError(ConnectionError):
    """The process at the other end has ended, or has closed its end."""

    def __init__(self) -> None:
        super().__init__("the peer of this mailbox is gone")


class Connection:
    """One end of a connection. Owns its socket; not for use by several threads."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._outgoing: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        self._incoming = bytearray()
        self._descriptors: deque[int] = deque()
        self._ended = False

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    @property
    def wants_write(self) -> bool:
        """True while something is queued: select for writing too, then call `flush`."""
        return bool(self._outgoing)

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Send or queue a message; `fds` are duplicated, the caller keeps its own. PeerGoneError when the peer is gone."""
        data = wire.encode(message)
        frame = memoryview(_HEADER.pack(len(data), len(fds)) + data)
        self._outgoing.append((frame, tuple(os.dup(fd) for fd in fds)))
        self.flush()

    def flush(self) -> bool:
        """Send what is queued; True when nothing is left. PeerGoneError when the peer is gone."""
        while self._outgoing:
            frame, fds = self._outgoing[0]
            try:
                sent = socket.send_fds(self._socket, [frame], list(fds)) if fds else self._socket.send(frame)
            except BlockingIOError:
                return False
            except OSError as error:
                raise PeerGoneError from error
            for fd in fds:
                os.close(fd)
            if sent == len(frame):
                self._outgoing.popleft()
            else:
                self._outgoing[0] = (frame[sent:], ())
        return True

    def receive(self) -> tuple[Message, list[int]] | None:
        """The next message and its descriptors (now the caller's); None when none is there yet.

        PeerGoneError at the end of the stream, ValueError for bytes that are no message.
        """
        while (message := self._next()) is None:
            if self._ended:
                raise PeerGoneError
            if not self._read():
                return None
        return message

    def _next(self) -> tuple[Message, list[int]] | None:
        if len(self._incoming) < _HEADER.size:
            return None
        length, descriptors = _HEADER.unpack_from(self._incoming)
        if length > wire.MESSAGE_BYTES_MAX:
            raise ValueError(f"a message of {length} bytes is over {wire.MESSAGE_BYTES_MAX}")
        if descriptors > len(self._descriptors):  # they come with the first byte
            raise ValueError("a message came without its descriptors")
        end = _HEADER.size + length
        if len(self._incoming) < end:
            return None
        message = wire.decode(bytes(self._incoming[_HEADER.size : end]))
        del self._incoming[:end]
        return message, [self._descriptors.popleft() for _ in range(descriptors)]

    def _read(self) -> bool:
        """Read once; False when nothing is there."""
        try:
            data, ancillary, _, _ = self._socket.recvmsg(
                _READ_BYTES, socket.CMSG_SPACE(_DESCRIPTORS_MAX * 4), socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        except OSError:
            self._ended = True
            return True
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self._descriptors.extend(array.array("i", payload))
        self._incoming += data
        self._ended = not data
        return True

    def close(self) -> None:
        """Close the socket and every descriptor that nobody took. Twice does nothing."""
        for fd in (*self._descriptors, *(fd for _, fds in self._outgoing for fd in fds)):
            with contextlib.suppress(OSError):
                os.close(fd)
        self._descriptors.clear()
        self._outgoing.clear()
        self._socket.close()


def pair() -> tuple[Connection, Connection]:
    """Two connected ends: the parent's and a child's."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return Connection(left), Connection(right)


def listen() -> socket.socket:
    """A listening mailbox with an address of its own; the parent keeps it, actors accept from it."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(b"\0etl-stream-" + secrets.token_hex(16).encode())
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def address(listener: socket.socket) -> bytes:
    """Where publishers connect to."""
    name: bytes = listener.getsockname()
    return name


def accept(listener: socket.socket) -> Connection | None:
    """The next waiting publisher; None when there is none. A peer of another user is refused."""
    try:
        sock, _ = listener.accept()
    except BlockingIOError:
        return None
    return _trusted(sock)


def connect(address: bytes) -> Connection:
    """A connection to a mailbox. ConnectionError when its parent is gone or the peer is another user's."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(CONNECT_SECONDS_MAX)
    try:
        sock.connect(address)
    except OSError as error:
        sock.close()
        raise ConnectionError("nobody keeps this mailbox") from error
    connection = _trusted(sock)
    if connection is None:
        raise ConnectionError("this mailbox belongs to another user")
    return connection


def _trusted(sock: socket.socket) -> Connection | None:
    """Abstract addresses have no file permissions: the kernel's word on the peer's user takes their place."""
    _, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    if uid != os.geteuid():
        sock.close()
        return None
    return Connection(sock)
