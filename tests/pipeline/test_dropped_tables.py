"""Somebody drops a table in Snowflake."""

from __future__ import annotations

import pytest

from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_local_snowflake import sql_session


def administer(deploy: Deployment, statement: str) -> None:
    with sql_session(deploy.destination) as session, session.cursor() as cursor:
        cursor.execute(statement)


@pytest.mark.timeout(120)
def test_a_target_that_was_dropped_is_made_again_whole(deploy: Deployment) -> None:
    deploy.source.execute(
        "create table t (k serial primary key, v text); insert into t (v) select 'copied' from generate_series(1, 50);"
        " create publication p for table t"
    )
    deploy.add("one")
    deploy.start()
    deploy.ready("one")
    deploy.source.execute("update t set v = 'changed' where k % 3 = 0; delete from t where k % 5 = 0")
    deploy.caught_up("one")
    administer(deploy, f'DROP TABLE "{deploy.destination.database}"."PUBLIC"."T"')
    deploy.source.execute("insert into t (v) values ('after')")
    wait_for("the target", lambda: "target_made_again" in deploy.log)
    deploy.caught_up("one")
    deploy.same("one", t=("k",))
