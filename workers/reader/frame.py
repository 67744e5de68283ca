"""Frames of a batch in one buffer, read by column: one numpy step reads the same field of every frame.

A frame is a CopyData payload (manual: "Streaming Replication Protocol", XLogData):

    'w' | start of the WAL data (8) | end of WAL (8) | clock (8) | pgoutput message
    0     1                           9                17          25

Numbers are big-endian and begin anywhere, so each size has a view of the buffer whose items overlap (stride of one byte): item i is the number that
begins at octet i, and reading a field of all frames is one gather.

Bytes are not trusted. A place is compared with its frame's end before anything moves on from it; a field may be read first and checked
afterwards if it begins inside its frame and ends at most PADDING_BYTES beyond.
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
PADDING_BYTES = 32  # more than the fixed fields of any message
BATCH_BYTES_MAX = 2**31 - 1  # Arrow's 32-bit offsets; a batch is sealed at 512 MiB or less, a frame has at most 1 GiB


class Frames:
    """The frames of one batch. `start[i]:end[i]` is frame i in `data`."""

    def __init__(self, frames: Sequence[memoryview | bytes]) -> None:
        lengths = np.fromiter(map(len, frames), dtype=np.int64, count=len(frames))
        self.data = b"".join([*frames, bytes(PADDING_BYTES)])
        assert len(self.data) <= BATCH_BYTES_MAX, len(self.data)
        self.octets: Octets = np.frombuffer(self.data, dtype=np.uint8)
        self._u16, self._u32, self._i64 = (self._overlapping(form) for form in (">u2", ">u4", ">i8"))
        self.end: Integers = np.cumsum(lengths)
        self.start: Integers = self.end - lengths
        if len(frames) and (int(lengths.min()) <= MESSAGE or bool(np.any(self.octets[self.start] != ord("w")))):
            raise broken("XLogData", "header")

    def __len__(self) -> int:
        return len(self.start)

    def _overlapping(self, form: str) -> npt.NDArray[np.int64]:
        size = np.dtype(form).itemsize
        return np.ndarray(len(self.data) - size + 1, dtype=form, buffer=self.data, strides=(1,))

    def u16(self, at: Integers) -> Integers:
        """An unsigned number of two bytes at each place."""
        return self._u16[at].astype(np.int64)

    def u32(self, at: Integers) -> Integers:
        """An unsigned number of four bytes at each place."""
        return self._u32[at].astype(np.int64)

    def i64(self, at: Integers) -> Integers:
        """A signed number of eight bytes at each place."""
        return self._i64[at].astype(np.int64)

    def lsn(self, at: Integers, message: str, field: str) -> Integers:
        """A WAL position at each place. Real ones are far below 2**63."""
        found = self.i64(at)
        if bool(np.any(found < 0)):
            raise broken(message, field)
        return found

    def message(self, row: int) -> memoryview:
        """The pgoutput message of one frame, for the rare kinds that are read one by one."""
        return memoryview(self.data)[int(self.start[row]) + MESSAGE : int(self.end[row])]


def broken(message: str, field: str) -> EtlError:
    """Bytes that the protocol does not allow."""
    remedy = "the stream starts again at the last confirmed position; if it comes back, report it"
    return EtlError(Kind.PROTOCOL, f"pgoutput message {message}", f"field {field} does not fit", remedy)
