"""The three load paths: the same rows in the same tables, whatever way they take."""

from __future__ import annotations

import time
from typing import Any

import pytest
from snowflake.connector.errors import ProgrammingError

from etl_supervisor.state.choose import open_store
from tests.support.fix_deployment import Deployment, wait_for
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
    streamed = [name for name in deploy.server.state()["channels"] if name.startswith(deploy.destination.database)]
    assert streamed == []
    assert "child_crashed" not in deploy.log
    assert "table_stopped" not in deploy.log


def test_a_change_of_the_load_path_needs_no_copy_and_doubles_nothing(deploy: Deployment) -> None:
    prepare(deploy, 500)
    deploy.add("shop", load_path="streaming", **SMALL_FILES)
    deploy.start()
    deploy.ready("shop")
    for number, path in enumerate(["snowpipe", "streaming", "copy", "snowpipe", "streaming"]):
        change(deploy, 10_000 + number * 200)
        deploy.add("shop", load_path=path, **SMALL_FILES)
        change(deploy, 10_100 + number * 200)

        def taken(wanted: str = path) -> bool:
            deploy.source.execute("update items set note = note || '?' where id = 1")  # rows open the channel
            return recorded(deploy) == ([] if wanted == "streaming" else [(wanted,)])

        wait_for(f"the path {path}", taken)
    deploy.caught_up("shop")
    deploy.same("shop", items=("id",))
    assert deploy.stop() == 0
    assert len(deploy.copied) == 1


def received(deploy: Deployment) -> int:
    store = open_store(deploy.settings)
    try:
        report = store.report("shop")
        return report.received if report else 0
    finally:
        store.close()


def recorded(deploy: Deployment) -> list[tuple[Any, ...]]:
    table = stage(deploy).replace("_ETL_STAGE", "_ETL_FILES")
    try:
        return asked(deploy, f"SELECT LOAD_PATH FROM {table} WHERE CHANNEL NOT LIKE '%copy%'")
    except ProgrammingError:
        return []


@pytest.mark.parametrize("path", ["snowpipe", "copy"])
def test_refused_rows_of_files_are_dead_lettered_and_the_others_loaded(deploy: Deployment, path: str) -> None:
    deploy.source.execute("create table items (id int primary key, note text)")
    deploy.source.execute(
        "insert into items select g, case when g % 100 = 0 then 'bad' else 'n' end from generate_series(1, 500) g"
    )
    deploy.source.execute("create publication p for all tables")
    deploy.server.set(reject=[{"table": "LANDING_ITEMS", "column": "NOTE", "like": "bad%"}])
    deploy.add("shop", load_path=path, copy_load_path=path, **SMALL_FILES)
    deploy.start()
    deploy.ready("shop")
    deploy.source.execute(
        "insert into items values (1001, 'n'), (1002, 'bad'), (1003, repeat('x', 16777217)), (1004, 'n')"
    )
    deploy.caught_up("shop")
    deploy.source.execute("insert into items select g, 'bad' from generate_series(2001, 2010) g")
    deploy.caught_up("shop")
    landing = stage(deploy).replace('"_ETL_STAGE"', "")
    (dead,) = asked(
        deploy, f"SELECT COUNT(*), COUNT_IF(REASON LIKE '%refuses%') FROM {landing}_ETL_DEAD_LETTER WHERE PART = 0"
    )
    assert dead == (17, 16)
    assert asked(deploy, f"SELECT COUNT(*), COUNT(DISTINCT ID) FROM {landing}LANDING_ITEMS") == [(497, 497)]
    assert deploy.stop() == 0


@pytest.mark.parametrize("path", ["snowpipe", "copy"])
def test_nobody_waits_for_the_age_of_a_file_when_memory_is_short_or_the_end_has_come(
    deploy: Deployment, path: str
) -> None:
    prepare(deploy, 20_000)
    deploy.add("shop", load_path=path, copy_load_path=path, file_max_age_seconds=600)
    deploy.start(SHARED_MEMORY_BUDGET_MB="4")
    deploy.ready("shop")
    deploy.source.execute("insert into items select g, repeat(md5(g::text), 30) from generate_series(100001, 120000) g")
    count = f"SELECT COUNT(*) FROM {stage(deploy).replace('_ETL_STAGE', 'LANDING_ITEMS')}"
    wait_for("rows that made room for others", lambda: asked(deploy, count)[0][0] > 30_000)
    deploy.source.execute("alter table items add column extra int default 7")
    deploy.source.execute("insert into items values (200001, 'last')")
    deploy.source.execute("select pg_logical_emit_message(true, 'another', 'whose WAL is not for us')")
    end = deploy.written("shop")
    wait_for("the last row to be read", lambda: received(deploy) >= end)
    started = time.monotonic()
    assert deploy.stop() == 0
    assert time.monotonic() - started < 20
    assert "drain_cut_short" not in deploy.log
    assert asked(deploy, f"{count} WHERE ID = 200001") == [(1,)]
    assert asked(deploy, count) == [(40_001,)]
