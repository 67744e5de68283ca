"""When Snowflake is asked what is committed, and when a pipe's report is looked at."""

from __future__ import annotations

import pytest

from workers.snowflake.questions import (
    REPORT_SECONDS_MAX,
    REPORT_SECONDS_MIN,
    SOON_SECONDS,
    SOON_SECONDS_MAX,
    Reports,
    soon_pause,
)


def test_rows_that_are_wanted_soon_are_asked_for_at_once_and_then_at_pauses_that_grow_with_the_silence() -> None:
    assert [soon_pause(silence) for silence in (0.0, 0.05, 1.0, 60.0)] == [
        SOON_SECONDS,
        SOON_SECONDS,
        0.5,
        SOON_SECONDS_MAX,
    ]


def test_a_report_is_looked_at_soon_after_the_offer_and_then_at_pauses_that_grow() -> None:
    reports, now, pauses = Reports(), 100.0, []
    reports.offered(now)
    for _ in range(10):
        pauses.append(reports.at - now)
        now = reports.at
        reports.looked(now)
    assert pauses == pytest.approx([0.5, 0.5, 0.5, 0.75, 1.125, 1.6875, 2.53125, 3.796875, 5.6953125, 8.54296875])
    reports.looked(now + 60)
    assert reports.at == now + 60 + REPORT_SECONDS_MAX


def test_after_a_rest_the_first_look_waits_for_the_load() -> None:
    reports = Reports()
    reports.offered(100.0)
    reports.looked(100.5)
    reports.through()
    reports.offered(200.0)
    assert reports.at == 200.0 + REPORT_SECONDS_MIN


def test_files_that_keep_coming_do_not_put_the_look_off() -> None:
    reports, looked = Reports(), 0
    for tick in range(1000):  # every 0.3 s a file; who looks comes by half as often
        now = 100.0 + tick * 0.3
        reports.offered(now)
        if tick % 2 and now >= reports.at:
            reports.looked(now)
            looked += 1
    assert looked > 200
