"""The three load paths: the same rows in the same tables, whatever way they take."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.fix_deployment import Deployment
from tests.support.fix_local_snowflake import sql_session

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SMALL_FILES = {"file_max_age_seconds": 0.3}


def prepare(deploy: Deployment, rows: int = 3000) -> None:
    deploy.source.execute("create table items (id int primary key, note text, doc jsonb, at timestamptz, b bytea)")
    deploy.source.execute(
        "insert into items select g, 'n' || g, jsonb_build_object('a', g), now(), decode(md5(g::text), 'hex')"
        f" from generate_series(1, {rows}) g"
    )
    deploy.source.execute("create publication p for all tables")


def change(deploy: Deployment, start: int) -> None:
    deploy.source.execute(
        f"insert into items select g, 'late', '[1, 2.50]', now(), null from generate_series({start}, {start + 99}) g"
    )
    deploy.source.execute("update items set note = note || '!' where id % 7 = 0")
    deploy.source.execute("delete from items where id % 11 = 0")


def asked(deploy: Deployment, query: str) -> list[tuple[Any, ...]]:
    with sql_session(deploy.destination) as session, session.cursor() as cursor:
        return cursor.execute(query).fetchall()


def stage(deploy: Deployment) -> str:
    return f'"{deploy.destination.database}"."{deploy.destination.landing_schema}"."_ETL_STAGE"'


@pytest.mark.parametrize("path", ["snowpipe", "copy"])
def test_changes_and_first_copies_travel_as_files(deploy: Deployment, path: str) -> None:
    prepare(deploy)
    deploy.add("shop", load_path=path, copy_load_path=path, **SMALL_FILES)
    deploy.start()
    deploy.ready("shop")
    for number in range(3):
        change(deploy, 10_000 + number * 100)
    deploy.source.execute("alter table items add column extra text default 'é'")
    change(deploy, 20_000)
    deploy.caught_up("shop")
    deploy.same("shop", items=("id",))
    assert deploy.stop() == 0
    assert asked(deploy, f"LIST @{stage(deploy)}") == []
    assert deploy.server.state()["channels"] == {} or not any(
        deploy.destination.database in name for name in deploy.server.state()["channels"]
    )
    assert "child_crashed" not in deploy.log
    assert "table_stopped" not in deploy.log
