"""Memory that is free goes back to the kernel."""

import gc
from pathlib import Path

from workers.snowflake.heap import TIDY_SECONDS, Heap

SIZE, PIECES = 2000, 40_000  # small enough for the heap: large ones are mapped and go back by themselves


def resident() -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def with_gaps() -> list[bytearray]:
    """Every twentieth of many pieces; the others are free."""
    return [bytearray(SIZE) for _ in range(PIECES)][::20]


def test_what_is_held_by_a_cycle_goes_back() -> None:
    heap, held = Heap(), [with_gaps()]
    cycle: list[object] = [[bytearray(SIZE) for _ in range(PIECES)]]
    cycle.append(cycle)
    gc.disable()  # Python would find it some time
    try:
        full = resident()
        del cycle
        heap.give_back(100.0)
        assert full - resident() > SIZE * PIECES * 0.5
    finally:
        gc.enable()
    assert len(held) == 1


def test_what_is_free_between_what_is_used_goes_back_once_a_minute() -> None:
    heap, held = Heap(), [with_gaps()]
    full = resident()
    heap.give_back(100.0)
    assert full - resident() > SIZE * PIECES * 0.5
    held.append(with_gaps())
    full = resident()
    heap.give_back(100.0 + TIDY_SECONDS / 2)
    assert full - resident() < SIZE * PIECES * 0.1, "not before its time"
    heap.give_back(100.0 + TIDY_SECONDS)
    assert full - resident() > SIZE * PIECES * 0.5
    assert len(held) == 2
