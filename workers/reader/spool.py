"""Frames of one transaction that is in progress: in memory, then in a file without a name, which the kernel frees with its last descriptor.

File: for each part its number of frames and of octets (8 bytes each), a checksum of these and of what follows (4 bytes), the frames' starts and ends
(8 bytes each), the octets. Parts are read back in the order in which they were added: those in the file first, those still in memory after them.

A part is in the file when all of it is: what a write on a full disk has left behind the last whole part is written over by the next try. A disk may
also lose what it took (it says so to nobody who reads), hence the checksum: rows are never made of anything else than what was received.
"""

from __future__ import annotations

import errno
import os
import struct
import tempfile
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from etl_supervisor.errors import EtlError, Kind
from workers.reader.frame import Chunk

_COUNTS, _CHECKSUM = struct.Struct("=qq"), struct.Struct("=I")
_HEADER_BYTES = _COUNTS.size + _CHECKSUM.size
_NUMBER_BYTES = 8
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Spool:
    """One transaction's frames."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._parts: deque[Chunk] = deque()
        self._file: IO[bytes] | None = None
        self.memory_bytes = 0
        self.disk_bytes = 0  # up to the end of the last whole part

    def add(self, part: Chunk) -> None:
        """Keep a copy: a part shares its memory with everything that was received at once."""
        self._parts.append(Chunk(memoryview(bytes(part.data)), part.start, part.end, streamed=True))
        self.memory_bytes += _size(part)

    def spill(self) -> None:
        """Move what is in memory to the file. OSError when it does not take all of it: the rest is in memory still."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115 - `close` ends it
        while self._parts:
            part = self._parts[0]
            self._write(part)
            self._parts.popleft()
            self.memory_bytes -= _size(part)

    def parts(self) -> Iterator[Chunk]:
        """Everything, in order. OSError when the file does not give back what was written."""
        at = 0
        while at < self.disk_bytes:
            header = self._read(at, _HEADER_BYTES)
            count, size = _COUNTS.unpack_from(header)
            body = self._read(at + _HEADER_BYTES, 2 * _NUMBER_BYTES * count + size)
            if _CHECKSUM.unpack_from(header, _COUNTS.size) != (zlib.crc32(body, zlib.crc32(header[: _COUNTS.size])),):
                raise _lost()
            places = np.frombuffer(body, dtype=np.int64, count=2 * count)
            yield Chunk(memoryview(body)[places.nbytes :], places[:count], places[count:], streamed=True)
            at += _HEADER_BYTES + len(body)
        yield from self._parts

    def close(self) -> None:
        """Forget everything."""
        self._parts.clear()
        if self._file is not None:
            self._file.close()

    def _write(self, part: Chunk) -> None:
        """Behind the last whole part. A disk that is nearly full takes less than it is given, and says no only the next time."""
        assert self._file is not None
        counts, places = _COUNTS.pack(len(part), len(part.data)), part.start.tobytes() + part.end.tobytes()
        checksum = zlib.crc32(part.data, zlib.crc32(places, zlib.crc32(counts)))
        left = memoryview(b"".join([counts, _CHECKSUM.pack(checksum), places, part.data]))
        at = self.disk_bytes
        while left:
            written = os.pwrite(self._file.fileno(), left, at)
            if not written:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            left, at = left[written:], at + written
        self.disk_bytes = at

    def _read(self, at: int, size: int) -> bytes:
        assert self._file is not None
        if not 0 <= size <= self.disk_bytes - at:
            raise _lost()
        data = os.pread(self._file.fileno(), size, at)
        if len(data) != size:
            raise _lost()
        return data


def check_directory(directory: Path | None, place: str) -> None:
    """EtlError(SPOOL) when no file can be made there, before a large transaction needs one. A disk that is full is no trouble yet."""
    try:
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise unusable(error, directory, place) from None


def unusable(error: OSError, directory: Path | None, place: str) -> EtlError:
    """What an error of the disk means, and what helps."""
    where = f"SPOOL_DIRECTORY {directory}" if directory is not None else "the temporary directory"
    room = (
        "give SPOOL_DIRECTORY more room"
        if error.errno in _NO_ROOM
        else "set SPOOL_DIRECTORY to a directory that can be written"
    )
    return no_room(place, f"{where} can't hold transactions in progress: {error.strerror or error}", room)


def no_room(place: str, reason: str, remedy: str) -> EtlError:
    """The stream ends; the slot has everything."""
    without = "or set the source's stream_in_progress to false: PostgreSQL then keeps them until their commit"
    return EtlError(Kind.SPOOL, place, reason, f"{remedy}, {without}", transient=True)


def _size(part: Chunk) -> int:
    return len(part.data) + 2 * _NUMBER_BYTES * len(part)


def _lost() -> OSError:
    return OSError(errno.EIO, "a file does not give back what was written")
