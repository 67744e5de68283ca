"""Frames of a batch in one buffer, read by column of bytes: one numpy step reads the same field of every frame.

A frame is a CopyData payload (manual: "Streaming Replication Protocol", XLogData):

    'w' | start of the WAL data (8) | end of WAL (8) | clock (8) | pgoutput message
    0     1                           9                17          25
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from etl_supervisor.errors import EtlError, Kind

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Octets = npt.NDArray[np.uint8]

START, WAL_END, MESSAGE = 1, 9, 25
PADDING = bytes(32)  # a field read beyond the last frame stays inside the buffer; the check finds it afterwards


class Frames:
    """The frames of one batch. `start[i]:end[i]` is frame i in `data`."""

    def __init__(self, frames: Sequence[memoryview | bytes]) -> None:
        lengths = np.fromiter(map(len, frames), dtype=np.int64, count=len(frames))
        self.data = b"".join([*frames, PADDING])
        self.octets: Octets = np.frombuffer(self.data, dtype=np.uint8)
        self.end: Integers = np.cumsum(lengths)
        self.start: Integers = self.end - lengths
        if len(frames) and int(lengths.min()) <= MESSAGE:
            raise broken("XLogData", "header")

    def __len__(self) -> int:
        return len(self.start)

    def byte(self, at: Integers) -> Octets:
        """One octet at each place."""
        return self.octets[np.minimum(at, len(self.octets) - 1)]

    def uint(self, at: Integers, size: int) -> Integers:
        """A big-endian unsigned number of `size` bytes at each place; LSNs are below 2**63 in practice, and checked."""
        at = np.minimum(at, len(self.octets) - size)
        value = self.octets[at].astype(np.int64)
        for i in range(1, size):
            value = (value << 8) | self.octets[at + i]
        return value

    def need(self, at: Integers, size: int, rows: Integers, message: str, field: str) -> None:
        """Every frame of `rows` must have `size` bytes left at its place."""
        if bool(np.any(at + size > self.end[rows])):
            raise broken(message, field)

    def message(self, row: int) -> memoryview:
        """The pgoutput message of one frame, for the rare kinds that are read one by one."""
        return memoryview(self.data)[int(self.start[row]) + MESSAGE : int(self.end[row])]


def broken(message: str, field: str) -> EtlError:
    """Bytes that the protocol does not allow."""
    remedy = "the stream starts again at the last confirmed position; if it comes back, report it"
    return EtlError(Kind.PROTOCOL, f"pgoutput message {message}", f"field {field} does not fit its frame", remedy)
