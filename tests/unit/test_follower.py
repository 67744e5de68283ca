"""When a table's target is moved, and when a table in trouble is tried again: decisions only, with a clock that the test holds."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from etl_supervisor.api.bodies import PipelineBody
from etl_supervisor.errors import Kind
from etl_supervisor.ipc.messages import Durable, Failed, TableOpened
from etl_supervisor.model.apply_policy import ApplyMode, ApplyPolicy, TablePolicy
from etl_supervisor.model.pipeline import Destination, Pipeline, PipelineStatus
from etl_supervisor.model.table import Column, Table, TableName
from etl_supervisor.model.table_state import Phase, TableState
from etl_supervisor.model.types import ValueKind, ValueType
from etl_supervisor.policy import DIRECTIVES, Directive
from workers.reader.follower import (
    DESTINATION_RETRY_SECONDS_MAX,
    HELD_RETRY_SECONDS,
    VIEW_TAIL_ROWS_MAX,
    Action,
    Follower,
)

NAME = TableName("public", "t")
TABLE = Table(NAME, 1, (Column("k", ValueType(ValueKind.INT32), key=True),))
DESTINATION = Destination(1, "d", "snowflake", "a", "u", "db", "s", None, None, "k", None, None, "l", 10.0)


def follower(mode: ApplyMode, phase: Phase = Phase.READY) -> Follower:
    policy = ApplyPolicy(mode, interval_seconds_min=10, interval_seconds_max=600)
    pipeline = Pipeline(1, "p", 1, DESTINATION, PipelineStatus.START, 1, 1, 1, 1, 1, policy=policy)
    made = Follower(pipeline, 1, TABLE, TableState(NAME, 1, 1, phase, copy_lsn=100))
    made.opened(TableOpened(1, 0, None, None, 0, 50))
    return made


def apply_once(it: Follower, begins: float, ends: float, fence: int) -> None:
    it.published(fence - 1)
    assert it.next_action(begins, fence, short_of_memory=False) is Action.APPLY
    it.asked_to_apply(begins)
    it.applied_to(fence, ends)


def first_chance(it: Follower, fence: int, after: float) -> float:
    it.published(fence - 1)
    return next(
        now for now in (after + step for step in range(4000)) if it.next_action(now, fence, short_of_memory=False)
    )


@pytest.mark.parametrize(
    ("mode", "seconds", "pause"),
    [
        (ApplyMode.MERGE, 2, 10),
        (ApplyMode.MERGE, 90, 90),
        (ApplyMode.MERGE, 900, 600),
        (ApplyMode.TASK, 1, 10),
        (ApplyMode.VIEW, 1, 600),
    ],
)
def test_the_pause_follows_what_an_apply_takes(mode: ApplyMode, seconds: float, pause: float) -> None:
    it = follower(mode)
    apply_once(it, 1000, 1000 + seconds, 200)
    assert first_chance(it, 300, 1000 + seconds) == 1000 + seconds + pause


def test_a_view_does_not_let_its_tail_grow_without_limit() -> None:
    it = follower(ApplyMode.VIEW)
    apply_once(it, 1000, 1001, 200)
    it.published(250, VIEW_TAIL_ROWS_MAX)
    assert it.due_at() == 1011
    assert first_chance(it, 300, 1001) == 1011
    apply_once(it, 1011, 1012, 300)
    assert first_chance(it, 400, 1012) == 1612


def test_without_rows_there_is_no_apply() -> None:
    it = follower(ApplyMode.MERGE)
    apply_once(it, 1000, 1001, 200)
    assert it.next_action(9999, 300, short_of_memory=False) is None


def test_a_dynamic_table_is_told_once_that_its_copy_is_whole() -> None:
    it = follower(ApplyMode.DYNAMIC_TABLE, Phase.CATCHUP)
    assert it.next_action(0, 99, short_of_memory=False) is None
    apply_once(it, 1000, 1001, 200)
    assert it.state.phase is Phase.READY
    it.published(299)
    assert it.next_action(9999, 300, short_of_memory=False) is None


def test_a_table_that_is_appended_is_ready_when_copy_and_stream_meet() -> None:
    it = follower(ApplyMode.APPEND, Phase.CATCHUP)
    assert not it.settled(99)
    assert it.settled(100)
    assert it.next_action(9999, 300, short_of_memory=False) is None
    assert not it.unapplied


def test_a_table_may_have_a_policy_of_its_own() -> None:
    it = follower(ApplyMode.MERGE)
    own = ApplyPolicy(ApplyMode.APPEND)
    it.pipeline = replace(it.pipeline, exceptions=(TablePolicy(NAME, own),))
    assert it.policy == own


TABLES_OWN = [kind for kind, what in DIRECTIVES.items() if what is Directive.TABLE]
DELAY_SECONDS = 2.5


def troubled(attempts_max: int, mode: ApplyMode = ApplyMode.MERGE) -> Follower:
    """A table whose pipeline waits DELAY_SECONDS."""
    it = follower(mode)
    it.pipeline = replace(
        it.pipeline, table_error_retry_delay_ms=int(DELAY_SECONDS * 1000), table_error_retry_max_attempts=attempts_max
    )
    return it


def fail(it: Follower, now: float, kind: Kind = Kind.SCHEMA) -> None:
    it.failed(Failed(1, "append", kind, "", "it does not fit", "", False), now)


def action(it: Follower, now: float, *, short_of_memory: bool = False) -> Action | None:
    return it.next_action(now, 0, short_of_memory=short_of_memory)


def reopen(it: Follower, now: float) -> None:
    """The roster does what is due, and the actor has the table open again."""
    assert action(it, now) is Action.REOPEN
    it.reopening, it.retry_at = True, None
    assert action(it, now + 9999) is None, "one try at a time"
    it.opened(TableOpened(1, 0, None, None, 0, 50))


@pytest.mark.parametrize("kind", TABLES_OWN, ids=str)
@pytest.mark.parametrize("attempts_max", [2, 5])
def test_a_table_in_trouble_of_its_own_is_tried_after_its_delay_until_its_attempts_are_used_up(
    attempts_max: int, kind: Kind
) -> None:
    it, now = troubled(attempts_max), 1000.0
    for attempt in range(1, attempts_max):
        fail(it, now, kind)
        assert (it.state.phase, it.state.attempts) == (Phase.ERRORED, attempt)
        assert it.due_at() == now + DELAY_SECONDS, "the same each time"
        assert action(it, now + DELAY_SECONDS - 0.001) is None
        now += DELAY_SECONDS
        reopen(it, now)
        assert it.state.phase is Phase.READY
        assert it.state.attempts == attempt, "to be open again is no success yet"
    fail(it, now, kind)
    assert it.due_at() == float("inf")
    assert action(it, now) is Action.HOLD


@pytest.mark.parametrize("attempts_max", [0, 1])
def test_without_further_attempts_the_first_failure_holds(attempts_max: int) -> None:
    it = troubled(attempts_max)
    fail(it, 1000.0)
    assert action(it, 1000.0) is Action.HOLD


def test_a_held_table_comes_back_by_its_timer_and_not_before() -> None:
    it = troubled(1)
    fail(it, 1000.0)
    it.hold(1000.0, HELD_RETRY_SECONDS)
    assert it.due_at() == 1000.0 + HELD_RETRY_SECONDS
    assert action(it, 1000.0 + DELAY_SECONDS) is None
    assert action(it, 1000.0 + HELD_RETRY_SECONDS - 0.001) is None
    assert action(it, 1000.0 + HELD_RETRY_SECONDS) is Action.RESTART


def test_a_table_that_is_held_for_want_of_memory_comes_back_after_its_delay() -> None:
    it = troubled(5)
    fail(it, 1000.0)
    assert action(it, 1000.0, short_of_memory=True) is Action.HOLD
    it.hold(1000.0, HELD_RETRY_SECONDS)
    assert action(it, 1000.0 + DELAY_SECONDS - 0.001) is None
    assert action(it, 1000.0 + DELAY_SECONDS) is Action.RESTART


@pytest.mark.parametrize("mode", list(ApplyMode))
def test_a_success_in_between_gives_all_attempts_back(mode: ApplyMode) -> None:
    it = troubled(3, mode)
    for _ in range(4):
        for _ in range(2):
            fail(it, 1000.0)
            reopen(it, 1000.0 + DELAY_SECONDS)
        assert it.durable(Durable(1, 1, None, 0)) != mode.has_target
        if mode.has_target:
            assert it.state.attempts == 2, "its rows have to be applied"
            it.applied_to(200, 1000.0)
        assert it.state.attempts == 0
    for _ in range(2):
        fail(it, 2000.0)
        reopen(it, 2000.0 + DELAY_SECONDS)
    fail(it, 2000.0)
    assert action(it, 2000.0) is Action.HOLD


def test_a_reader_that_starts_tries_a_held_table_once() -> None:
    it = troubled(3)
    it.state = it.state.to(Phase.ERRORED, resume=Phase.READY, attempts=7, trouble="it does not fit")
    it.another_chance()
    assert it.state.attempts == 2, "one is left"
    assert action(it, 0.0) is None, "it is being opened"
    fail(it, 1000.0)
    assert action(it, 1000.0) is Action.HOLD


def test_what_is_not_the_tables_own_uses_no_attempt_up() -> None:
    it = troubled(1)
    for number in range(10):
        fail(it, 1000.0, Kind.DESTINATION_UNREACHABLE)
        assert it.due_at() == 1000.0 + min(DESTINATION_RETRY_SECONDS_MAX, DELAY_SECONDS * 2**number)
    assert (it.state.phase, it.state.attempts) == (Phase.READY, 0)


@pytest.mark.parametrize("name", ["table_error_retry_delay_ms", "table_error_retry_max_attempts"])
def test_names_and_limits_of_the_retries_are_as_they_are_written(name: str) -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs" / "configuration.md").read_text()
    told = re.search(rf"^\| \*\*`{name}`\*\* \| `(\d+)` \| (\d+) to (\d+) \| ", page, re.MULTILINE)
    assert told is not None
    columns = (root / "migrations" / "app" / "versions" / "0001_config.py").read_text()
    check = rf"\b{name} +integer NOT NULL DEFAULT {told[1]} CHECK \({name} BETWEEN {told[2]} AND {told[3]}\)"
    assert re.search(check, columns)
    field = PipelineBody.model_fields[name]
    assert [field.default, *(getattr(limit, "ge", getattr(limit, "le", None)) for limit in field.metadata)] == [
        int(value) for value in told.groups()
    ]
