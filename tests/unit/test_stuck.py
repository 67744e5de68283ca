"""Which pipelines are parked because their rows do not become durable."""

from __future__ import annotations

from workers.reader.stuck import BLOCKED_SECONDS, Stuck


def test_a_pipeline_whose_oldest_row_stays_in_flight_is_stuck() -> None:
    watch = Stuck(300)
    assert watch.stuck({"a": 1, "b": 1}, 0, blocked=False) == []
    assert watch.stuck({"a": 1, "b": 2}, 299, blocked=False) == []
    assert watch.stuck({"a": 1, "b": 3}, 300, blocked=False) == ["a"]


def test_one_that_moves_or_has_nothing_in_flight_is_not() -> None:
    watch = Stuck(300)
    watch.stuck({"a": 1, "b": None}, 0, blocked=False)
    watch.stuck({"a": 2, "b": None}, 200, blocked=False)
    assert watch.stuck({"a": 2, "b": None}, 400, blocked=False) == []
    watch.stuck({"a": None, "b": None}, 450, blocked=False)
    watch.stuck({"a": 2, "b": None}, 460, blocked=False)
    assert watch.stuck({"a": 2, "b": None}, 700, blocked=False) == []


def test_while_memory_is_short_it_is_parked_sooner() -> None:
    watch = Stuck(300)
    watch.stuck({"a": 1, "b": None}, 0, blocked=True)
    assert watch.stuck({"a": 1, "b": None}, BLOCKED_SECONDS, blocked=True) == ["a"]


def test_where_all_are_stuck_none_is_parked() -> None:
    watch = Stuck(300)
    watch.stuck({"a": 1, "b": 1}, 0, blocked=False)
    assert watch.stuck({"a": 1, "b": 1}, 500, blocked=False) == []
    assert Stuck(0).stuck({"a": 1}, 0, blocked=False) == []
