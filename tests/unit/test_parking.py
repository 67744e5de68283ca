"""Where a pipeline that is parked goes on, by what is known of it and of its source."""

from __future__ import annotations

from dataclasses import replace

import pytest

from etl_supervisor.model.parking import JOIN_BYTES_MAX, may_join, overtaken
from etl_supervisor.model.progress import Progress

SHARED = Progress("7001", 1, "etl_stream_1", 1_000, 500 << 20)
PARKED = replace(SHARED, slot="etl_stream_1_p2", confirmed=SHARED.confirmed - 10)


def test_a_pipeline_that_is_near_joins_and_one_that_is_far_does_not() -> None:
    assert may_join(SHARED, PARKED)
    assert may_join(SHARED, replace(PARKED, confirmed=SHARED.confirmed + 1))
    assert may_join(SHARED, replace(PARKED, confirmed=SHARED.confirmed - JOIN_BYTES_MAX))
    assert not may_join(SHARED, replace(PARKED, confirmed=SHARED.confirmed - JOIN_BYTES_MAX - 1))
    assert not may_join(None, PARKED)


def test_one_that_broke_must_have_moved_and_one_that_was_promoted_must_have_proved_what_it_has() -> None:
    assert not may_join(SHARED, replace(PARKED, stuck_at=PARKED.confirmed))
    assert may_join(SHARED, replace(PARKED, stuck_at=PARKED.confirmed - 1))
    assert not may_join(SHARED, replace(PARKED, forked_at=5))


@pytest.mark.parametrize("other", [{"timeline": 2}, {"system_identifier": "7002"}])
def test_positions_of_other_histories_are_not_compared(other: dict[str, object]) -> None:
    assert not may_join(SHARED, replace(PARKED, **other))  # type: ignore[arg-type]


def test_one_whose_source_has_begun_anew_has_nowhere_else_to_go_on_from() -> None:
    anew = replace(SHARED, generation=SHARED.generation + 1, system_identifier="7002")
    for parked in (PARKED, replace(PARKED, confirmed=0, stuck_at=7)):
        assert overtaken(anew, parked)
        assert may_join(anew, parked)
    assert not overtaken(SHARED, PARKED)
    assert not overtaken(None, PARKED)


def test_one_that_has_begun_anew_by_itself_joins_when_it_is_near() -> None:
    anew = replace(PARKED, generation=PARKED.generation + 1)
    assert not overtaken(SHARED, anew)
    assert may_join(SHARED, anew)
