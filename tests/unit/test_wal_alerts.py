"""What people are told of WAL, and where a slot goes: pure functions."""

from datetime import UTC, datetime, timedelta

import pytest

from etl_supervisor.model.wal import Level, Sample, SlotMeasure, SourceState, outlook
from etl_supervisor.monitor.alerts import MB, TELLING, Thresholds, When, step, worst
from etl_supervisor.monitor.delivery import PAUSE_SECONDS, PAUSE_SECONDS_MAX, pause_after

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
TEN = timedelta(minutes=10)
OK, WARNING, DANGER, LOST = Level
THRESHOLDS = Thresholds(3000, 6000)


def slot(megabytes: float, *, safe: int | None = None, lost: str | None = None, name: str = "s") -> SlotMeasure:
    return SlotMeasure(name, 1000, 1000, int(megabytes * MB), "reserved", safe, lost)


def told(levels: list[tuple[int, Level]]) -> list[tuple[int, str, int]]:
    """(minute, level, minutes it has lasted) of what is told when the source is found so at these minutes."""
    state, found = SourceState(), []
    for minute, level in levels:
        state, alert = step(state, level, NOON + timedelta(minutes=minute), TEN)
        if alert is not None:
            found.append((minute, alert.level.value, round(alert.lasted.total_seconds() / 60)))
    return found


def test_every_pair_of_levels_has_its_answer() -> None:
    assert set(TELLING) == {(a, b) for a in Level for b in Level}
    assert all(TELLING[level, level] is When.NEVER for level in Level)


@pytest.mark.parametrize(
    ("megabytes", "level"), [(0, OK), (2999.9, OK), (3000, WARNING), (5999.9, WARNING), (6000, DANGER)]
)
def test_a_level_begins_at_its_threshold(megabytes: float, level: Level) -> None:
    assert THRESHOLDS.level_of(slot(megabytes)) is level
    assert THRESHOLDS.level_of(slot(megabytes, lost="gone")) is LOST


def test_the_worst_slot_speaks_for_its_source() -> None:
    small, large, lost = slot(1), slot(7000), slot(0, lost="gone")
    assert worst([small, large], THRESHOLDS) is large
    assert worst([large, lost, small], THRESHOLDS) is lost
    assert worst([], THRESHOLDS) is None


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([(0, WARNING), (5, OK), (6, WARNING), (15, WARNING)], []),  # never ten minutes in one piece
        ([(0, WARNING), (10, WARNING), (15, WARNING), (99, WARNING)], [(10, "WARNING", 10)]),  # once
        ([(0, WARNING), (10, WARNING), (11, DANGER), (20, DANGER)], [(10, "WARNING", 10), (11, "DANGER", 11)]),
        ([(0, WARNING), (9, DANGER), (10, DANGER)], [(10, "DANGER", 10)]),  # worsening does not begin the time anew
        ([(0, DANGER), (10, DANGER), (12, WARNING), (14, DANGER)], [(10, "DANGER", 10)]),  # no flapping
        ([(0, DANGER), (10, DANGER), (12, WARNING), (30, OK), (31, OK)], [(10, "DANGER", 10), (30, "OK", 30)]),
        ([(0, OK), (5, LOST), (6, LOST)], [(5, "LOST", 0)]),  # at once
        ([(0, LOST), (1, WARNING), (2, LOST)], [(0, "LOST", 0), (1, "WARNING", 1), (2, "LOST", 2)]),
        ([(0, WARNING), (10, WARNING), (11, OK), (12, WARNING), (21, WARNING)], [(10, "WARNING", 10), (11, "OK", 11)]),
    ],
)
def test_each_state_is_told_once_when_it_has_lasted_when_it_worsens_and_when_it_is_over(
    levels: list[tuple[int, Level]], expected: list[tuple[int, str, int]]
) -> None:
    assert told(levels) == expected


def test_a_clock_that_goes_back_counts_as_no_time() -> None:
    assert told([(20, WARNING), (0, WARNING)]) == []


def test_a_slot_dies_when_what_is_safe_is_used_up_at_this_rate() -> None:
    measure = SlotMeasure("s", 2600, 0, 1600, "extended", safe_wal_bytes=1000)
    before = [Sample(0, 1000, 0), Sample(40, 1400, 400), Sample(80, 1800, 800)]
    seen = outlook(measure, before, 160.0)
    assert seen.growth_bytes_per_second == pytest.approx(10)
    assert seen.dies_in_seconds == pytest.approx(100)


def test_a_slot_without_a_limit_or_that_shrinks_does_not_die() -> None:
    before = [Sample(0, 1000, 900)]
    assert outlook(slot(0), before, 10.0).dies_in_seconds is None
    assert outlook(slot(0, safe=1000), before, 10.0).dies_in_seconds is None
    assert outlook(slot(0, lost="gone"), [], 10.0).dies_in_seconds == 0
    assert outlook(slot(0, safe=1000), [], 10.0).growth_bytes_per_second is None


def test_a_long_calm_does_not_hide_that_a_slot_stands_still_now() -> None:
    calm = [Sample(at, 1000, 0) for at in range(0, 6000, 100)]
    stuck = [Sample(6000 + at, 1000 + at, at) for at in range(0, 500, 100)]
    seen = outlook(SlotMeasure("s", 1500, 1000, 500, "extended"), [*calm, *stuck], 6500.0)
    assert seen.growth_bytes_per_second == pytest.approx(1)


@pytest.mark.parametrize(
    ("confirmed", "seconds"), [(3000, 0), (2900, 10), (2000, 100), (1500, 150), (1000, 200), (999, None)]
)
def test_a_lag_is_how_long_ago_the_wal_ended_where_it_is_confirmed(confirmed: int, seconds: float | None) -> None:
    before = [Sample(0, 1000, 0), Sample(100, 2000, 0)]
    assert outlook(SlotMeasure("s", 3000, confirmed, 0, "reserved"), before, 200.0).lag_seconds == seconds


def test_pauses_double_up_to_an_hour() -> None:
    assert [pause_after(n) for n in (1, 2, 3)] == [PAUSE_SECONDS, 2 * PAUSE_SECONDS, 4 * PAUSE_SECONDS]
    assert pause_after(10_000) == PAUSE_SECONDS_MAX
