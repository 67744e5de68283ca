"""Frames of one transaction that is in progress: in memory, then in a file without a name, which the kernel frees with its last descriptor.

File: for each part its number of frames and of octets (8 bytes each), the frames' starts and ends (8 bytes each), the octets. Parts are read back in
the order in which they were added: those in the file first, those still in memory after them.
"""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from workers.reader.frame import Chunk

_HEADER = struct.Struct("=qq")
_NUMBER_BYTES = 8


class Spool:
    """One transaction's frames. OSError when the disk is full; then the spool is of no more use."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._parts: list[Chunk] = []
        self._file: IO[bytes] | None = None
        self.memory_bytes = 0
        self.disk_bytes = 0

    def add(self, part: Chunk) -> None:
        """Keep a copy: a part shares its memory with everything that was received at once."""
        self._parts.append(Chunk(memoryview(bytes(part.data)), part.start, part.end, streamed=True))
        self.memory_bytes += len(part.data) + 2 * _NUMBER_BYTES * len(part)

    def spill(self) -> None:
        """Move what is in memory to the file."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115 - `close` ends it
        for part in self._parts:
            header = _HEADER.pack(len(part), len(part.data))
            self._file.write(b"".join([header, part.start.tobytes(), part.end.tobytes(), part.data]))
        self.disk_bytes += self.memory_bytes
        self._parts, self.memory_bytes = [], 0

    def parts(self) -> Iterator[Chunk]:
        """Everything, in order."""
        if self._file is not None:
            self._file.seek(0)
            while header := self._file.read(_HEADER.size):
                count, size = _HEADER.unpack(header)
                places = np.frombuffer(self._exactly(2 * _NUMBER_BYTES * count), dtype=np.int64)
                yield Chunk(memoryview(self._exactly(size)), places[:count], places[count:], streamed=True)
        yield from self._parts

    def close(self) -> None:
        """Forget everything."""
        self._parts = []
        if self._file is not None:
            self._file.close()

    def _exactly(self, size: int) -> bytes:
        assert self._file is not None
        data = self._file.read(size)
        if len(data) != size:
            raise OSError("a spool file is shorter than what was written")
        return data
