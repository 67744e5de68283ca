"""What is said of tables in Snowflake, and how they are kept sorted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from etl_supervisor.embedded.snowflake.launch import LocalSnowflake
from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.apply_policy import ApplyMode, ApplyPolicy
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.model.table import TableName
from tests.support.fix_local_snowflake import sql_session
from tests.support.histories import TABLE, insert, opening
from workers.snowflake import ddl
from workers.snowflake.apply import apply
from workers.snowflake.identifiers import objects_of

REFUSED = {"success": False, "code": "003001", "message": "seen", "data": {"errorCode": "003001", "sqlState": "42501"}}


@pytest.fixture
def session(destination: Destination) -> Iterator[Any]:
    with sql_session(destination) as connection:
        yield connection


def comments(session: Any, destination: Destination) -> dict[str, str]:
    with session.cursor() as cursor:
        cursor.execute(
            f'SELECT TABLE_NAME, COMMENT FROM "{destination.database}".INFORMATION_SCHEMA.TABLES WHERE COMMENT IS NOT NULL'
        )
        return {name: comment for name, comment in cursor.fetchall() if comment}


def test_tables_say_what_they_hold_and_whose_they_are(session: Any, destination: Destination) -> None:
    named = replace(TABLE, name=TableName("sales", "it's"))
    ddl.ensure(session, opening(destination, table=named, pipeline="shop"))
    assert comments(session, destination) == {
        "LANDING_SALES__IT'S": "Change log of sales.it's by ETL Stream, pipeline shop",
        "SALES__IT'S": "Current rows of sales.it's by ETL Stream, pipeline shop",
    }


def test_a_log_alone_is_described_alone(session: Any, destination: Destination) -> None:
    ddl.ensure(session, opening(destination, policy=ApplyPolicy(mode=ApplyMode.APPEND)))
    assert list(comments(session, destination)) == ["LANDING_THINGS"]


def clustering(session: Any, server: LocalSnowflake, destination: Destination, *columns: str, refuse: str) -> str:
    """Open with `cluster_by`; the reason if a statement like `refuse` was sent."""
    server.set(faults=[{"path": "query-request", "sql": refuse, "count": 1, "status": 200, "body": REFUSED}])
    try:
        ddl.ensure(session, opening(destination, policy=ApplyPolicy(cluster_by=columns)))
    except EtlError as error:
        return error.reason
    finally:
        server.set(faults=[])
    return ""


def test_a_target_is_clustered_when_asked_and_no_longer_when_not(
    session: Any, destination: Destination, local_snowflake: LocalSnowflake
) -> None:
    def sent(statement: str, *columns: str) -> bool:
        return bool(clustering(session, local_snowflake, destination, *columns, refuse=statement))

    assert not sent("CLUSTER")
    assert sent(r'\."THINGS" CLUSTER BY \("A", "K"\)', "a", "k")
    assert not sent("DROP CLUSTERING", "a", "k")
    assert not sent("CLUSTER", "a", "k"), "it is so already"
    assert sent(r'\."THINGS" DROP CLUSTERING KEY')
    assert not sent("CLUSTER BY")


def test_a_target_is_not_clustered_by_a_column_that_is_not_there(session: Any, destination: Destination) -> None:
    with pytest.raises(EtlError) as caught:
        ddl.ensure(session, opening(destination, policy=ApplyPolicy(cluster_by=("a", "when"))))
    assert caught.value.kind is Kind.DESTINATION_SETUP
    assert caught.value.reason == "cluster_by names when, which the table does not have"


def test_two_tables_that_would_share_a_name_are_refused(session: Any, destination: Destination) -> None:
    ddl.ensure(session, opening(destination, table=replace(TABLE, name=TableName("sales", "orders"))))
    for other in (TableName("public", "sales__orders"), TableName("sales", "ORDERS")):
        with pytest.raises(EtlError) as caught:
            ddl.ensure(session, opening(destination, table=replace(TABLE, name=other)))
        assert caught.value.reason == "LANDING_SALES__ORDERS belongs to table sales.orders of pipeline pipe"


@pytest.mark.parametrize(
    ("purged", "dropped", "reason"),
    [
        (True, "target", "THINGS is gone, and rows have left LANDING_THINGS"),
        (False, "landing", "LANDING_THINGS is gone, with changes that may not be applied"),
    ],
)
def test_a_table_that_can_not_be_made_again_is_not_made_empty(
    session: Any, destination: Destination, purged: bool, dropped: str, reason: str
) -> None:
    it = opening(destination)
    mark = ddl.ensure(session, it).watermark
    insert(session, destination, [("I", 100, 10, 1, 0, None, None, 1, 1, "x", None)])
    apply(session, it, mark, 20)
    objects = objects_of(destination, TABLE)
    with session.cursor() as cursor:
        cursor.execute(f"UPDATE {objects.watermark_sql} SET PURGED = {100 if purged else 0}")
        cursor.execute(f"DROP TABLE {objects.target_sql if dropped == 'target' else objects.landing_sql}")
    with pytest.raises(EtlError) as caught:
        ddl.ensure(session, it)
    assert (caught.value.kind, caught.value.reason) == (Kind.DESTINATION_SETUP, reason)
