"""When the tables of a pipeline become visible together: decisions only."""

from __future__ import annotations

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc.messages import TableOpened
from etl_supervisor.model.apply_policy import ApplyPolicy
from etl_supervisor.model.pipeline import Destination, Pipeline, PipelineStatus
from etl_supervisor.model.table import Column, Table, TableName
from etl_supervisor.model.table_state import Phase, TableState
from etl_supervisor.model.types import ValueKind, ValueType
from workers.reader import together
from workers.reader.follower import Follower
from workers.reader.together import plan

COLUMNS = (Column("k", ValueType(ValueKind.INT32), key=True),)
DESTINATION = Destination(1, "d", "snowflake", "a", "u", "db", "s", None, None, "k", None, None, "l", 10.0)
POLICY = ApplyPolicy(interval_seconds_min=10, interval_seconds_max=600, together=True)
PIPELINE = Pipeline(1, "p", 1, DESTINATION, PipelineStatus.START, 1, 1, 1, 1, 1, policy=POLICY)


def table(name: str, phase: Phase = Phase.READY, *, applied: int = 50, shown: int = 1, copy_lsn: int = 40) -> Follower:
    named = TableName("public", name)
    state = TableState(named, 1, 1, phase, copy_lsn=copy_lsn)
    made = Follower(PIPELINE, 1, Table(named, 1, COLUMNS), state)
    made.opened(TableOpened(1, 0, None, None, 0, applied, shown))
    return made


def test_the_lowest_fence_of_all_tables_is_that_of_the_pipeline():
    a, b = table("a"), table("b", applied=60)
    assert plan([(a, 100), (b, 80)]) == together.Plan(80, (a, b))


def test_nothing_goes_back_behind_a_table_that_was_further():
    assert plan([(table("a"), 55), (table("b", applied=60), 80)]).joined == ()


def test_a_table_alone_never_asks_for_an_apply():
    it = table("a")
    it.published(99)
    assert it.next_action(1e6, 200, short_of_memory=False) is None
    assert it.due_at() == float("inf")


def test_a_new_table_joins_when_the_others_have_reached_its_copy():
    a, new = table("a"), table("new", Phase.CATCHUP, applied=0, shown=0, copy_lsn=90)
    assert plan([(a, 80), (new, 100)]).joined == (a,)
    joined = plan([(a, 95), (new, 100)])
    assert (joined.fence, joined.joined, joined.joins) == (95, (a, new), True)


def test_a_new_table_that_is_still_copied_holds_nobody():
    a, new = table("a"), table("new", Phase.DATASYNC, applied=0, shown=0, copy_lsn=0)
    assert plan([(a, 80), (new, 10)]) == together.Plan(80, (a,))
    behind = table("new", Phase.CATCHUP, applied=0, shown=0, copy_lsn=90)
    assert plan([(a, 80), (behind, 10)]) == together.Plan(80, (a,))


def test_a_table_that_is_copied_again_is_waited_for():
    again = table("again", Phase.DATASYNC, applied=0, shown=1, copy_lsn=0)
    assert plan([(table("a"), 80), (again, 80)]).waits == "table public.again is copied again"


def test_a_table_in_trouble_is_waited_for_and_says_why():
    a, sick = table("a"), table("sick")
    sick.trouble(EtlError(Kind.SCHEMA, "here", "no"), 0.0)
    assert plan([(a, 80), (sick, 80)]).waits == "table public.sick is stopped: schema at here: no"
    closed = table("closed")
    closed.open = False
    assert plan([(a, 80), (closed, 80)]).waits == "table public.closed is being opened"


def test_more_tables_than_a_statement_holds_are_refused(monkeypatch):
    monkeypatch.setattr(together, "TABLES_MAX", 1)
    assert plan([(table("a"), 80), (table("b"), 80)]).waits == (
        "2 tables are more than the 1 that one statement can move: cut the pipeline into several, or set its consistency to table"
    )


def test_without_rows_nothing_moves():
    a = table("a")
    a.inherited = False
    assert not plan([(a, 80)]).moves
    a.published(70)
    assert plan([(a, 80)]).moves
    a.applied_to(80, 0.0)
    assert not plan([(a, 90)]).moves


def test_blocks_come_one_at_a_time_and_a_failure_makes_the_next_one_wait():
    it, a = together.Together([PIPELINE], "sys/slot", 3), table("a")
    (asked,) = it.due([(a, 100)], 1000.0)
    assert (asked.fence, asked.epoch, [part.table.name for part in asked.parts]) == (100, 3, ["a"])
    assert it.due([(a, 200)], 1001.0) == []
    failed = together.AppliedTogether(1, 100, 0, Kind.APPLY, "pipeline p", "it did not work", "")
    assert it.received(failed, {1: a}, 1002.0) == []
    assert it.due([(a, 200)], 1002.0) == []
    assert it.visible[0].waits == "apply at pipeline p: it did not work"
    assert it.due_at() == 1002.001
    (asked,) = it.due([(a, 200)], 1003.0)
    assert it.received(together.AppliedTogether(1, asked.fence, 0), {1: a}, 1018.0) == [(a, False)]
    assert (a.applied, it.visible[0].lsn, it.visible[0].waits) == (200, 200, "")
    a.published(250)
    assert it.due([(a, 300)], 1020.0) == []
    assert it.due_at() == 1033.0, "as long as the last one took"
    (asked,) = it.due([(a, 300)], 1034.0)
    assert [part.rows for part in asked.parts] == [True]


def test_a_table_that_is_gone_meanwhile_is_passed_by():
    it, new = together.Together([PIPELINE], "sys/slot", 3), table("new", Phase.CATCHUP, applied=0, shown=0)
    assert it.due([(new, 100)], 1.0)
    assert it.received(together.AppliedTogether(1, 100, 0), {}, 2.0) == []
    assert it.due([(new, 100)], 3.0), "a table that joins does not wait for the interval"
    assert it.received(together.AppliedTogether(1, 100, 0), {1: new}, 4.0) == [(new, True)]
    assert new.phase is Phase.READY
