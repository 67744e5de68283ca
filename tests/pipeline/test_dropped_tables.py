"""Somebody drops a table in Snowflake."""

from __future__ import annotations

import pytest

from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_local_snowflake import sql_session


def administer(deploy: Deployment, statement: str) -> None:
    with sql_session(deploy.destination) as session, session.cursor() as cursor:
        cursor.execute(statement)


def drop_after(deploy: Deployment, change: str, table: str, **policy: bool) -> None:
    """Copy the tables that are there, apply a change, then drop what is in Snowflake under this name."""
    deploy.add("one", **policy)
    deploy.start()
    deploy.ready("one")
    deploy.source.execute(change)
    deploy.caught_up("one")
    administer(deploy, f'DROP TABLE "{deploy.destination.database}"."PUBLIC"."{table}"')


@pytest.mark.timeout(120)
def test_a_target_that_was_dropped_is_made_again_whole(deploy: Deployment) -> None:
    deploy.source.execute(
        "create table t (k serial primary key, v text); insert into t (v) select 'copied' from generate_series(1, 50);"
        " create publication p for table t"
    )
    drop_after(deploy, "update t set v = 'changed' where k % 3 = 0; delete from t where k % 5 = 0", "T")
    deploy.source.execute("insert into t (v) values ('after')")
    wait_for("the target", lambda: "target_made_again" in deploy.log)
    deploy.caught_up("one")
    deploy.same("one", t=("k",))


@pytest.mark.timeout(120)
def test_a_history_that_was_dropped_begins_again_with_the_rows_of_the_target(deploy: Deployment) -> None:
    deploy.source.execute(
        "create table t (k int primary key, v text); insert into t select g, 'copied' from generate_series(1, 20) g;"
        " create publication p for table t"
    )
    drop_after(deploy, "update t set v = 'changed' where k <= 5", "T_HISTORY", apply_history=True)
    deploy.source.execute("update t set v = 'after' where k = 1")
    deploy.caught_up("one")
    versions = (
        f'SELECT K, V FROM "{deploy.destination.database}"."PUBLIC"."T_HISTORY" WHERE _ETL_TO_LSN IS NULL ORDER BY K'
    )
    with sql_session(deploy.destination) as session, session.cursor() as cursor:
        found = [(int(key), value) for key, value in cursor.execute(versions).fetchall()]
    assert found == deploy.source.execute("select k, v from t order by k")
