"""Memory that is free goes back to the kernel."""

import gc

import pytest

from workers.snowflake import heap as heaps
from workers.snowflake.heap import RENEW_SECONDS_MIN, TIDY_SECONDS, Heap, held_bytes

SIZE, PIECES = 2000, 40_000  # small enough for the heap: large ones are mapped and go back by themselves


def with_gaps() -> list[bytearray]:
    """Every twentieth of many pieces; the others are free."""
    return [bytearray(SIZE) for _ in range(PIECES)][::20]


def test_what_is_held_by_a_cycle_goes_back() -> None:
    heap, held = Heap(0.0), [with_gaps()]
    cycle: list[object] = [[bytearray(SIZE) for _ in range(PIECES)]]
    cycle.append(cycle)
    gc.disable()  # Python would find it some time
    try:
        full = held_bytes()
        del cycle
        heap.give_back(100.0)
        assert full - held_bytes() > SIZE * PIECES * 0.5
    finally:
        gc.enable()
    assert len(held) == 1


def test_what_is_free_between_what_is_used_goes_back_once_a_minute() -> None:
    heap, held = Heap(0.0), [with_gaps()]
    full = held_bytes()
    heap.give_back(100.0)
    assert full - held_bytes() > SIZE * PIECES * 0.5
    held.append(with_gaps())
    full = held_bytes()
    heap.give_back(100.0 + TIDY_SECONDS / 2)
    assert full - held_bytes() < SIZE * PIECES * 0.1, "not before its time"
    heap.give_back(100.0 + TIDY_SECONDS)
    assert full - held_bytes() > SIZE * PIECES * 0.5
    assert len(held) == 2


def test_one_that_holds_too_much_for_hours_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    heap = Heap(100.0)
    monkeypatch.setattr(heaps, "RENEW_BYTES", held_bytes() * 2)  # this process holds what the tests before it have left
    assert not heap.give_back(100.0 + RENEW_SECONDS_MIN), "it holds what it needs"
    monkeypatch.setattr(heaps, "RENEW_BYTES", held_bytes() // 2)
    assert not heap.give_back(100.0 + RENEW_SECONDS_MIN + TIDY_SECONDS / 2), "looked at once a minute"
    assert heap.give_back(100.0 + RENEW_SECONDS_MIN + TIDY_SECONDS)
    assert not Heap(100.0).give_back(100.0 + RENEW_SECONDS_MIN - 1), "it is young"
