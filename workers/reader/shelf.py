"""Where the segments of a publisher are: in its slab, or, one that is too large for it, in a memfd of its own. Shared by the handles they go to."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pyarrow as pa

from etl_supervisor.ipc import segment

SEGMENT_BYTES_MAX = 4 << 20  # the SDK encodes an append in one go: a few MB keep its other channels moving


@dataclass(slots=True)
class Memory:
    """Where the bytes of a segment are; shared by the handles it goes to."""

    run: segment.Run | None
    fd: int | None
    length: int
    users: int


class Shelf:
    """The memory of one publisher, within a budget in bytes."""

    def __init__(self, budget_bytes: int) -> None:
        self._slab = segment.SlabWriter(budget_bytes)
        self._oversize_fds = 0
        self.fd, self.slots, self.slot_bytes = self._slab.fd, self._slab.slots, self._slab.slot_bytes
        self.piece_bytes_max = min(SEGMENT_BYTES_MAX, self.slots * self.slot_bytes // 4)

    @property
    def used_bytes(self) -> int:
        """Of the slab."""
        return self._slab.used_bytes

    def put(self, batch: pa.RecordBatch, size: int) -> Memory | None:
        """Write a batch of so many bytes; None when there is no room now."""
        if self._slab.fits(size):
            written = self._slab.write(batch, size)
            return None if written is None else Memory(written[0], None, written[1], 0)
        if self._oversize_fds:
            return None  # one at a time: it may exceed the budget
        fd, length = segment.oversize(batch, size)
        self._oversize_fds += 1
        return Memory(None, fd, length, 0)

    def rows(self, memory: Memory) -> pa.RecordBatch:
        """What was put there; a view."""
        if memory.run is not None:
            return self._slab.batch(memory.run, memory.length)
        assert memory.fd is not None
        return segment.oversize_batch(os.dup(memory.fd), memory.length)

    def release(self, memory: Memory) -> None:
        """One of its users needs it no more."""
        memory.users -= 1
        if memory.users:
            return
        if memory.run is not None:
            self._slab.release(memory.run)
        if memory.fd is not None:
            os.close(memory.fd)
            self._oversize_fds -= 1

    def close(self) -> None:
        """Give up the slab; the kernel frees it with its last descriptor."""
        self._slab.close()
