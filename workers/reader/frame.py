"""Frames: as they come (`Chunk`), and those of a batch in one buffer (`Frames`), where one numpy step reads the same field of every frame.

A frame is a CopyData payload (manual: "Streaming Replication Protocol", XLogData):

    'w' | start of the WAL data (8) | end of WAL (8) | clock (8) | kind (1) | [xid (4), inside a streamed transaction] | body
    0     1                           9                17          25         26                                         26 or 30

Fields are read through views of the buffer as overlapping big-endian numbers, one for each octet: a gather reads one number per frame. Places
are never beyond `limit`, which lies behind the last frame and before the end of the padding; a place behind its own frame's end is found by `need`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from etl_supervisor.errors import EtlError, Kind

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Octets = npt.NDArray[np.uint8]

START, WAL_END, KIND, BODY = 1, 9, 25, 26
XID_BYTES = 4
POSITION_MAX = 2**63 - 1  # positions are computed in signed numbers; the server would need centuries to come here
_TOP_BIT = 0x80  # in the first octet of a position that is larger
PADDING = bytes(32)  # the longest field read at once is 16 octets


@dataclass(frozen=True, slots=True)
class Chunk:
    """Frames as they were received: `start[i]:end[i]` is frame i in `data`, in order, with anything in between.

    `streamed` says that an xid stands before the body of every frame (they are of a transaction that was in progress).
    """

    data: memoryview
    start: Integers
    end: Integers
    streamed: bool = False

    @classmethod
    def of(cls, frames: Sequence[bytes | memoryview]) -> Chunk:
        """Frames that have places of their own."""
        end = np.cumsum(np.fromiter(map(len, frames), dtype=np.int64, count=len(frames)))
        return cls(memoryview(b"".join(frames)), np.concatenate([[0], end[:-1]]) if len(end) else end, end)

    def __len__(self) -> int:
        return len(self.start)

    @property
    def bytes(self) -> int:
        """The size of the frames."""
        return int((self.end - self.start).sum())

    @property
    def octets(self) -> Octets:
        """The data, by octet."""
        return np.frombuffer(self.data, dtype=np.uint8)

    @property
    def kinds(self) -> Octets:
        """The kind of every pgoutput message. EtlError(PROTOCOL) for a frame that has none."""
        if len(self) and int((self.end - self.start).min()) < BODY:
            raise broken("XLogData", "header")
        found: Octets = self.octets[self.start + KIND]
        return found

    def part(self, first: int, last: int) -> Chunk:
        """The frames from `first` on, before `last`; shares the data."""
        if first == 0 and last == len(self):
            return self
        if first >= last:
            return Chunk(self.data[:0], self.start[:0], self.end[:0], self.streamed)
        begin = int(self.start[first])
        data = self.data[begin : int(self.end[last - 1])]
        return Chunk(data, self.start[first:last] - begin, self.end[first:last] - begin, self.streamed)

    def pick(self, which: Flags) -> Chunk:
        """Some of the frames; shares the data."""
        return Chunk(self.data, self.start[which], self.end[which], self.streamed)


class Fields:
    """Octets in one buffer, and the numbers that begin at any places of it."""

    def __init__(self, parts: Sequence[bytes | memoryview]) -> None:
        self.data = b"".join([*parts, PADDING])
        self.octets: Octets = np.frombuffer(self.data, dtype=np.uint8)
        self.limit = len(self.data) - len(PADDING) + 1

    @cached_property
    def _uint16(self) -> npt.NDArray[np.uint16]:
        return self.view(">u2")

    @cached_property
    def _uint32(self) -> npt.NDArray[np.uint32]:
        return self.view(">u4")

    @cached_property
    def _int64(self) -> Integers:
        return self.view(">i8")

    def view(self, kind: str) -> npt.NDArray[Any]:
        """The number of this kind that begins at each octet, as far as the padding allows."""
        size = np.dtype(kind).itemsize
        return np.ndarray((len(self.data) - size + 1,), dtype=kind, buffer=self.data, strides=(1,))

    def byte(self, at: Integers) -> Octets:
        """One octet at each place."""
        return self.octets[at]

    def uint16(self, at: Integers) -> Integers:
        """An unsigned 16-bit number at each place."""
        return self._uint16[at].astype(np.int64)

    def uint32(self, at: Integers) -> Integers:
        """An unsigned 32-bit number at each place."""
        return self._uint32[at].astype(np.int64)

    def int64(self, at: Integers) -> Integers:
        """A signed 64-bit number at each place."""
        return self._int64[at].astype(np.int64)


class Frames(Fields):
    """The frames of one batch, in one buffer."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        super().__init__([chunk.data for chunk in chunks])
        lengths = [len(chunk.data) for chunk in chunks]
        bases = np.cumsum([0, *lengths])[:-1].tolist()
        empty = np.empty(0, dtype=np.int64)
        self.start: Integers = np.concatenate([empty, *(c.start + base for c, base in zip(chunks, bases, strict=True))])
        self.end: Integers = np.concatenate([empty, *(c.end + base for c, base in zip(chunks, bases, strict=True))])
        if len(self) and int((self.end - self.start).min()) < BODY:
            raise broken("XLogData", "header")
        if bool(((self.octets[self.start + START] | self.octets[self.start + WAL_END]) >= _TOP_BIT).any()):
            raise broken("XLogData", "position")
        self.kinds: Octets = self.octets[self.start + KIND]
        self.body: Integers = self.start + BODY
        if any(chunk.streamed for chunk in chunks):
            streamed = np.repeat([chunk.streamed for chunk in chunks], [len(chunk) for chunk in chunks])
            self.body = np.minimum(self.body + XID_BYTES * streamed, self.limit)

    def __len__(self) -> int:
        return len(self.start)

    def need(self, at: Integers, size: int, rows: Integers, message: str, field: str) -> None:
        """Every frame of `rows` must have `size` bytes left at its place."""
        if bool((at + size > self.end[rows]).any()):
            raise broken(message, field)

    def position(self, at: Integers, message: str) -> Integers:
        """The LSN at each place; below 2**63."""
        found = self.int64(at)
        if bool(np.any(found < 0)):
            raise broken(message, "position")
        return found

    def at_end(self, at: Integers, rows: Integers, message: str) -> None:
        """Every frame of `rows` must end at its place."""
        if bool(np.any(at != self.end[rows])):
            raise broken(message, "length")

    def message(self, row: int) -> memoryview:
        """Kind and body of one frame, for the rare kinds that are read one by one."""
        whole = memoryview(self.data)
        kind, body, end = int(self.start[row]) + KIND, int(self.body[row]), int(self.end[row])
        return (
            whole[kind:end]
            if body == kind + 1
            else memoryview(whole[kind : kind + 1].tobytes() + whole[body:end].tobytes())
        )


def broken(message: str, field: str) -> EtlError:
    """Bytes that the protocol does not allow."""
    remedy = "the stream starts again at the last confirmed position; if it comes back, report it"
    return EtlError(Kind.PROTOCOL, f"pgoutput message {message}", f"field {field} does not fit its frame", remedy)
