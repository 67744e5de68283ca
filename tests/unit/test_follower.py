"""When a table's target is moved: decisions only."""

from dataclasses import replace

import pytest

from etl_supervisor.ipc.messages import TableOpened
from etl_supervisor.model.apply_policy import ApplyMode, ApplyPolicy, TablePolicy
from etl_supervisor.model.pipeline import Destination, Pipeline, PipelineStatus
from etl_supervisor.model.table import Column, Table, TableName
from etl_supervisor.model.table_state import Phase, TableState
from etl_supervisor.model.types import ValueKind, ValueType
from workers.reader.follower import VIEW_TAIL_ROWS_MAX, Action, Follower

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
