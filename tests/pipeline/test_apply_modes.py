"""Every way to keep current tables, through the whole pipeline and through crashes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import orjson
import pytest

from tests.support import least
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_local_snowflake import sql_session

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

TABLES = ("merged", "kept", "seen", "tasked", "dynamic", "logged")
CHANGES = (
    "insert into {t} select g, 'n' || g, repeat('x', 3000) from generate_series(100, 130) g",
    "update {t} set note = 'again' where id % 2 = 0",
    "delete from {t} where id % 5 = 0",
    "update {t} set id = id + 1000 where id in (1, 101)",
    "begin; truncate {t}; insert into {t} values (7, 'seven', repeat('y', 3000)); commit",
    "update {t} set note = 'last' where id = 7",
)


def rows_of(deploy: Deployment, name: str, columns: str = "ID, NOTE, BIG") -> list[tuple[Any, ...]]:
    there = deploy.destination
    with sql_session(there) as session, session.cursor() as cursor:
        return [
            tuple(row) for row in cursor.execute(f'SELECT {columns} FROM "{there.database}"."{there.schema}".{name}')
        ]


def source_of(deploy: Deployment, table: str) -> Counter[tuple[Any, ...]]:
    return Counter(deploy.source.execute(f"select id, note, big from {table}"))


def test_every_mode_shows_what_the_source_has(deploy: Deployment) -> None:
    deploy.server.set(minute_s=0.5)
    for table in TABLES:
        deploy.source.execute(
            f"create table {table} (id int primary key, note text, big text); alter table {table} alter big set storage external;"
            f" insert into {table} select g, 'n', repeat('b', 3000) from generate_series(1, 20) g"
        )
    deploy.source.execute(
        "create table bag (id int, note text, big text); alter table bag replica identity full;"
        " insert into bag select g % 3, 'n', repeat('b', 3000) from generate_series(1, 20) g;"
        " create publication p for all tables"
    )
    own = {
        "public.kept": {"apply_delete": "soft", "apply_history": True},
        "public.seen": {"apply": "view"},
        "public.tasked": {"apply": "task"},
        "public.dynamic": {"apply": "dynamic_table"},
        "public.logged": {"apply": "append"},
    }
    least.administer(deploy.destination, deploy.allowed.user, *least.FOR_TASKS, *least.FOR_DYNAMIC_TABLES)
    deploy.add("shop", apply_tables=own, landing_retention_hours=0)
    deploy.start()
    deploy.ready("shop", 7)
    for number, change in enumerate(CHANGES):
        for table in (*TABLES, "bag"):
            deploy.source.execute(change.format(t=table))
        if number == 2:
            deploy.kill()
            deploy.start()
    for table in ("merged", "tasked", "dynamic", "bag", "seen_live", "kept_live", "tasked_live", "bag_live"):
        wanted = source_of(deploy, table.removesuffix("_live"))
        wait_for(f"{table} to be current", lambda name=table, rows=wanted: Counter(rows_of(deploy, name)) == rows)
    (row,) = rows_of(deploy, "KEPT", "COUNT(*), COUNT_IF(NOT _ETL_DELETED), COUNT_IF(_ETL_DELETED_AT IS NULL)")
    assert row == (53, 1, 1)
    versions = Counter(key for (key,) in rows_of(deploy, "KEPT_HISTORY", "ID"))
    assert (versions[2], versions[3], versions[7], versions[1001]) == (2, 1, 3, 1)
    (open_versions,) = rows_of(deploy, "KEPT_HISTORY", "COUNT_IF(_ETL_TO_LSN IS NULL)")
    assert open_versions == (1,)
    assert deploy.stop() == 0
    purged = [line for line in map(orjson.loads, deploy.log.splitlines()) if line["event"] == "landing_purged"]
    assert "public.merged" in {line["table"] for line in purged}
    deploy.server.set(minute_s=60)
