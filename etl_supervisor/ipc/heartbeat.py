"""One page of shared memory in which the supervisor and every child write when they were last alive.

    slot 0: the parent     slot 1: a child        …  slot 1024
    ├ float64, monotonic ──┼ float64, monotonic ──┤
    0                      64                     128      bytes; a slot is a cache line, so that writers do not disturb each other

One writer per word: whoever has the slot. The parent only reads those of children, and writes the first value before the fork; the monitor reads the
parent's. A word is stored at once, whole and aligned: `struct.pack_into` clears its place before it writes there, and whoever looked in between saw
a child that had been silent since the machine was started. The memory is anonymous: it has no name, and goes with the last process.
CLOCK_MONOTONIC is the same in all processes of a machine.
"""

from __future__ import annotations

import mmap
import time

SLOTS_MAX = 1024  # children of one supervisor: one machine's worth
_SLOT_BYTES = 64
_SLOT_WORDS = _SLOT_BYTES // 8


class HeartbeatPage:
    """The parent's view: gives slots out and reads them. `parent` is its own."""

    def __init__(self) -> None:
        self._memory = memoryview(mmap.mmap(-1, (1 + SLOTS_MAX) * _SLOT_BYTES)).cast("d")
        self._free = list(range(SLOTS_MAX, 0, -1))
        self.parent = Heartbeat(self._memory, 0)

    @property
    def room(self) -> bool:
        """Whether there is a slot for one more child."""
        return bool(self._free)

    def allot(self) -> Heartbeat:
        """A slot for a child that is about to be forked. RuntimeError when there are more than SLOTS_MAX children."""
        if not self._free:
            raise RuntimeError(f"more than {SLOTS_MAX} children")
        heartbeat = Heartbeat(self._memory, self._free.pop())
        heartbeat.beat()
        return heartbeat

    def of(self, slot: int) -> Heartbeat:
        """The heartbeat of a slot that was given out."""
        return Heartbeat(self._memory, slot)

    def give_back(self, heartbeat: Heartbeat) -> None:
        """The child is dead; its slot may be used again."""
        self._free.append(heartbeat.slot)


class Heartbeat:
    """One process's slot."""

    def __init__(self, memory: memoryview[float], slot: int) -> None:
        self._memory = memory
        self.slot = slot

    def beat(self) -> None:
        """I am alive."""
        self._memory[self.slot * _SLOT_WORDS] = time.monotonic()

    @property
    def last(self) -> float:
        """When it was last alive, in seconds of the monotonic clock."""
        return self._memory[self.slot * _SLOT_WORDS]
