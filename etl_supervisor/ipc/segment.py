"""The slab: shared memory in which a publisher hands its segments to the actors.

    memfd of slots x SLOT_BYTES          0        1        2        3        4
                                         ├────────┴────────┤        ├────────┤     a segment takes a run of neighbouring slots
    generation of each run's first slot  7                          2              rises with every use

The publisher fills a run and owns it until the actor's word that its rows are durable; then it may be used again. The actor maps
the slab read-only and borrows: it keeps no array of a run beyond its Durable. After an actor's death the publisher still has the
rows. The kernel frees a memfd with its last descriptor, so a `kill -9` of everything leaves nothing.

The slab's size is the budget: when no run is free the publisher stops reading. A row that is larger than half the slab goes into a
sealed memfd of its own, one at a time, which may exceed the budget by that one row.

Imports pyarrow: children only.
"""

from __future__ import annotations

import bisect
import fcntl
import mmap
import os
from dataclasses import dataclass

import pyarrow as pa

from etl_supervisor.ipc import arrow
from etl_supervisor.ipc.messages import OVERSIZE_SLOT, Segment

SLOT_BYTES = 64 << 10  # fits a small table's share of a batch; 256 MiB are 4,096 slots
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


@dataclass(frozen=True, slots=True)
class Run:
    """`count` neighbouring slots from `slot` on, in their `generation`-th use."""

    slot: int
    count: int
    generation: int


class SlabWriter:
    """The publisher's side: allocates runs and writes batches into them."""

    def __init__(self, budget_bytes: int, slot_bytes: int = SLOT_BYTES) -> None:
        self.slot_bytes = slot_bytes
        self.slots = max(1, budget_bytes // slot_bytes)
        self.fd = os.memfd_create("etl-slab", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, self.slots * slot_bytes)
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        self._memory = memoryview(mmap.mmap(self.fd, self.slots * slot_bytes))
        self._free: list[tuple[int, int]] = [(0, self.slots)]  # (first slot, count), ordered, never adjacent
        self._generations: dict[int, int] = {}
        self._held: dict[int, Run] = {}

    @property
    def used_bytes(self) -> int:
        """Bytes of slots that are in use."""
        return sum(run.count for run in self._held.values()) * self.slot_bytes

    def fits(self, size: int) -> bool:
        """False for a batch that must be cut, or sent in a memfd of its own."""
        return size <= self.slots * self.slot_bytes // 2

    def write(self, batch: pa.RecordBatch, size: int) -> tuple[Run, int] | None:
        """Write a batch of `size` bytes (`arrow.ipc_size`); its run and length, or None when no run is free now."""
        run = self._acquire(-(-size // self.slot_bytes))
        if run is None:
            return None
        start = run.slot * self.slot_bytes
        place = self._memory[start : start + run.count * self.slot_bytes]
        return run, arrow.write(pa.py_buffer(place), batch)

    def batch(self, run: Run, length: int) -> pa.RecordBatch:
        """What was written to a run; a view."""
        start = run.slot * self.slot_bytes
        return arrow.read(pa.py_buffer(self._memory[start : start + length]))

    def _acquire(self, count: int) -> Run | None:
        for i, (slot, available) in enumerate(self._free):
            if available >= count:
                self._free[i : i + 1] = [(slot + count, available - count)] if available > count else []
                generation = self._generations[slot] = self._generations.get(slot, 0) + 1
                run = self._held[slot] = Run(slot, count, generation)
                return run
        return None

    def release(self, run: Run) -> None:
        """Take a run back. One that is not held in this generation is a fault of ours."""
        assert self._held.get(run.slot) == run, run
        del self._held[run.slot]
        i = bisect.bisect(self._free, (run.slot, 0))
        first, end = run.slot, run.slot + run.count
        if i < len(self._free) and self._free[i][0] == end:
            end += self._free.pop(i)[1]
        if i and sum(self._free[i - 1]) == first:
            i -= 1
            first = self._free.pop(i)[0]
        self._free.insert(i, (first, end - first))

    def close(self) -> None:
        """Give up the descriptor; the mapping goes with the last reference."""
        os.close(self.fd)


def oversize(batch: pa.RecordBatch, size: int) -> tuple[int, int]:
    """A sealed memfd that holds the batch: (descriptor, length)."""
    fd = os.memfd_create("etl-oversize", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    memory = mmap.mmap(fd, size)
    length = arrow.write(pa.py_buffer(memory), batch)
    del memory  # a mapping that may write would forbid the seal
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    return fd, length


class SlabReader:
    """The actor's side: a read-only view of a publisher's slab. Takes over the descriptor."""

    def __init__(self, fd: int, slots: int, slot_bytes: int) -> None:
        self._slot_bytes = slot_bytes
        self._size = slots * slot_bytes
        try:
            self._memory = pa.py_buffer(mmap.mmap(fd, self._size, mmap.MAP_SHARED, mmap.PROT_READ))
        finally:
            os.close(fd)

    @property
    def size(self) -> int:
        """Bytes of all slots."""
        return self._size

    def batch(self, segment: Segment) -> pa.RecordBatch:
        """The rows of a segment; a view, valid until its Durable is sent."""
        start = segment.slot * self._slot_bytes
        if segment.slot == OVERSIZE_SLOT or start < 0 or start + segment.length > self._size:
            raise ValueError("a segment lies outside its slab")
        return arrow.read(self._memory.slice(start, segment.length))


def oversize_batch(fd: int, length: int) -> pa.RecordBatch:
    """The rows of an oversize segment. Takes over the descriptor."""
    try:
        memory = pa.py_buffer(mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ))
    finally:
        os.close(fd)
    return arrow.read(memory)
