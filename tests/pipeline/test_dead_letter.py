"""Rows that can't be loaded: the others arrive, the position moves on, the dead letter has every one of them."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson
import pytest

from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_local_snowflake import sql_session

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

MB = 1 << 20


def dead(deploy: Deployment) -> list[dict[str, Any]]:
    """The heads of the dead letter, in order of position."""
    schema = f'"{deploy.destination.database}"."{deploy.destination.landing_schema}"'
    with sql_session(deploy.destination) as session, session.cursor() as cursor:
        cursor.execute(
            f"SELECT OP, ROW_KEY, REASON, COLUMN_NAME, BYTES, LEFT_OUT, PAYLOAD FROM {schema}._ETL_DEAD_LETTER"
            " WHERE PART = 0 ORDER BY COMMIT_LSN, LSN, ORDINAL"
        )
        titles = [item[0] for item in cursor.description]
        return [dict(zip(titles, row, strict=True)) for row in cursor.fetchall()]


def target_ids(deploy: Deployment) -> list[int]:
    with sql_session(deploy.destination) as session, session.cursor() as cursor:
        cursor.execute(
            f'SELECT ID FROM "{deploy.destination.database}"."{deploy.destination.schema}"."ITEMS" ORDER BY ID'
        )
        return [int(row[0]) for row in cursor.fetchall()]


def test_values_beyond_snowflakes_limits_go_to_the_dead_letter_and_all_else_arrives(deploy: Deployment) -> None:
    database = deploy.source
    database.execute("create table items (id int primary key, note text, image bytea)")
    database.execute("insert into items select g, 'n' || g from generate_series(1, 10) g")
    database.execute(f"insert into items values (11, repeat('c', {17 * MB}))")
    database.execute("create publication p for all tables")
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop")
    database.execute(
        f"insert into items values (12, repeat('x', {20 * MB})), (13, 'good'), (14, repeat('y', {15 * MB}))"
    )
    database.execute(f"insert into items values (15, 'image', convert_to(repeat('z', {9 * MB}), 'UTF8'))")
    deploy.caught_up("shop")
    assert target_ids(deploy) == [*range(1, 11), 13, 14]
    found = dead(deploy)
    assert [(row["OP"], row["ROW_KEY"], row["COLUMN_NAME"]) for row in found] == [
        ("R", '{"id":11}', "note"),
        ("I", '{"id":12}', "note"),
        ("I", '{"id":15}', "image"),
    ]
    assert found[1]["BYTES"] == 20 * MB
    digest = hashlib.sha256(b"x" * 20 * MB).hexdigest()
    assert orjson.loads(found[1]["LEFT_OUT"]) == {"note": {"bytes": 20 * MB, "sha256": digest}}
    assert orjson.loads(found[2]["PAYLOAD"])["NOTE"] == "image"
    assert deploy.states("shop")["items"].dead == 3
    assert deploy.log.count('"event":"row_dead_lettered"') == 3
    assert "xxxx" not in deploy.log
    assert deploy.stop() == 0


def test_rows_that_snowflake_refuses_go_to_the_dead_letter_and_the_table_goes_on(deploy: Deployment) -> None:
    database = deploy.source
    database.execute("create table items (id int primary key, note text)")
    database.execute(
        "insert into items select g, case when g % 10 = 0 then 'bad' else 'n' end from generate_series(1, 50) g"
    )
    database.execute("create publication p for all tables")
    deploy.server.set(reject=[{"table": "LANDING_ITEMS", "column": "NOTE", "like": "bad%"}])
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop")
    for start in (100, 200, 300):
        database.execute(
            f"insert into items select g, case when g % 50 = 7 then 'bad' else 'n' end from generate_series({start}, {start + 99}) g"
        )
    deploy.caught_up("shop")
    refused = {10, 20, 30, 40, 50, 107, 157, 207, 257, 307, 357}
    assert set(target_ids(deploy)) == {*range(1, 51), *range(100, 400)} - refused
    assert {orjson.loads(row["ROW_KEY"])["id"] for row in dead(deploy)} == refused
    wait_for("the baseline", lambda: deploy.states("shop")["items"].errors == 6)
    assert deploy.stop() == 0
    assert "table_stopped" not in deploy.log
