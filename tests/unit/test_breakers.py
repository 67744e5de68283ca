"""The breaker of a destination: when tables that failed are tried again. Decisions only."""

from dataclasses import replace

from etl_supervisor.errors import Kind
from etl_supervisor.ipc.messages import Durable, Failed, TableOpened
from tests.unit.test_follower import follower
from workers.reader.breakers import (
    FAILURES_MAX,
    PAUSE_SECONDS,
    PAUSE_SECONDS_MAX,
    PERSON_SECONDS,
    TRIAL_SECONDS_MAX,
    Breakers,
)
from workers.reader.follower import ApplyMode, Follower

SILENCE = Failed(1, "open", Kind.DESTINATION_UNREACHABLE, "", "no answer", "", True)
REFUSAL = Failed(1, "open", Kind.DESTINATION_AUTH, "", "the key is refused", "", False)
OPENED = TableOpened(1, 0, None, None, 0, 0)
DURABLE = Durable(1, 1, None, 0)


def tables(count: int) -> list[Follower]:
    return [replace(follower(ApplyMode.MERGE), handle=number, open=False) for number in range(count)]


def fail(breakers: Breakers, all_: list[Follower], one: Follower, now: float, message: Failed = SILENCE) -> None:
    breakers.note(one, message, all_, now)
    one.failed(message, now)


def test_a_destination_that_does_not_answer_is_tried_by_one_table_at_a_time() -> None:
    breakers, all_ = Breakers(), tables(5)
    for one in all_:
        fail(breakers, all_, one, 100.0)
    assert breakers.states == {"d": "open"}
    assert not any(breakers.allow(one, 101.0) for one in all_)
    assert all(one.retry_at is not None and one.retry_at >= 100.0 + PAUSE_SECONDS for one in all_)
    now = 100.0 + PAUSE_SECONDS
    assert [breakers.allow(one, now) for one in all_] == [True, False, False, False, False]
    assert breakers.states == {"d": "half_open"}
    fail(breakers, all_, all_[0], now + 1)
    assert breakers.states == {"d": "open"}
    assert not breakers.allow(all_[1], now + 1 + PAUSE_SECONDS), "the pause has doubled"
    now += 1 + 2 * PAUSE_SECONDS
    assert breakers.allow(all_[1], now)
    breakers.note(all_[1], OPENED, all_, now + 1)
    assert breakers.states == {"d": "closed"}
    assert all(one.retry_at == now + 1 for one in all_), "the others come at once"
    assert all(breakers.allow(one, now + 1) for one in all_)


def test_single_failures_among_successes_open_nothing() -> None:
    breakers, all_ = Breakers(), tables(2)
    for _ in range(FAILURES_MAX * 3):
        fail(breakers, all_, all_[0], 100.0)
        breakers.note(all_[1], DURABLE, all_, 100.0)
    assert breakers.states == {"d": "closed"}


def test_whoever_gets_through_closes_it() -> None:
    breakers, all_ = Breakers(), tables(2)
    for _ in range(FAILURES_MAX):
        fail(breakers, all_, all_[0], 100.0)
    breakers.note(all_[1], DURABLE, all_, 101.0)
    assert breakers.states == {"d": "closed"}


def test_a_refusal_opens_it_at_once_and_is_tried_seldom() -> None:
    breakers, all_, now = Breakers(), tables(2), 100.0
    for pause in (PERSON_SECONDS, 2 * PERSON_SECONDS, PAUSE_SECONDS_MAX, PAUSE_SECONDS_MAX):
        fail(breakers, all_, all_[0], now, REFUSAL)
        assert not breakers.allow(all_[0], now + pause - 1)
        assert breakers.allow(all_[0], now + pause)
        now += pause


def test_a_trial_of_which_nothing_is_heard_has_failed() -> None:
    breakers, all_ = Breakers(), tables(2)
    for _ in range(FAILURES_MAX):
        fail(breakers, all_, all_[0], 100.0)
    assert breakers.allow(all_[0], 110.0)
    assert not breakers.allow(all_[1], 110.0 + TRIAL_SECONDS_MAX)
    assert breakers.states == {"d": "open"}
    assert breakers.allow(all_[1], 110.0 + TRIAL_SECONDS_MAX + 2 * PAUSE_SECONDS)


def test_a_table_that_opens_proves_nothing_where_rows_do_not_get_through() -> None:
    breakers, all_ = Breakers(), tables(FAILURES_MAX)
    for one in all_:
        one.open = True
        fail(breakers, all_, one, 100.0)
    assert breakers.allow(all_[0], 110.0)
    breakers.note(all_[0], OPENED, all_, 111.0)
    assert breakers.states == {"d": "half_open"}
    breakers.note(all_[0], DURABLE, all_, 112.0)
    assert breakers.states == {"d": "closed"}


def test_a_failure_of_the_tables_own_is_not_the_destinations() -> None:
    breakers, all_ = Breakers(), tables(1)
    for _ in range(FAILURES_MAX):
        fail(breakers, all_, all_[0], 100.0, replace(SILENCE, kind=Kind.SCHEMA))
    assert breakers.states == {"d": "closed"}
