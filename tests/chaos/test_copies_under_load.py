"""Rows change and processes die while tables are copied: every mode ends with what the source has, on every load path."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter

import psycopg
import pytest

from etl_supervisor.failpoints import NAMES
from tests.chaos.test_crashes import landed
from tests.pipeline.test_apply_modes import rows_of, source_of
from tests.support import least
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_postgres import Database
from tests.support.load import load_on
from tests.support.proxy import Proxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

MODES = {
    "public.kept": {"apply_delete": "soft", "apply_history": True},
    "public.seen": {"apply": "view"},
    "public.tasked": {"apply": "task"},
    "public.dynamic": {"apply": "dynamic_table"},
}
TABLES = ("merged", "kept", "seen", "tasked", "dynamic", "bag")
ROWS = 600
KILLS = {"copy.after_snapshot": 1, "copy.mid_rows": 3, "copy.after_range": 1, "copy.before_finish": 1}


def make_tables(database: Database) -> None:
    for table in TABLES:
        key = "" if table == "bag" else " primary key"
        database.execute(
            f"create table {table} (id int{key}, note text, big text); alter table {table} alter big set storage external;"
            f" insert into {table} select g, 'n', repeat(md5(g::text), 60) from generate_series(1, {ROWS}) g"
        )
    database.execute("alter table bag replica identity full; create publication p for all tables")


def change(connection: psycopg.Connection, chance: random.Random) -> None:
    """A small transaction in one table: inserts, updates that leave the large value alone, key changes, deletes, seldom a truncate."""
    table, number = chance.choice(TABLES), chance.randint(1, ROWS)
    here = f"update {table} set id = -id where id = {number} and not exists (select from {table} where id = -{number})"
    for _ in range(chance.randint(1, 6)):
        number = chance.randint(1, ROWS)
        match chance.randint(0, 9):
            case 0 | 1:
                connection.execute(
                    f"insert into {table} select {ROWS + number}, 'new', repeat('x', 3000)"
                    f" where not exists (select from {table} where id = {ROWS + number})"
                )
            case 2:
                connection.execute(f"delete from {table} where id = {number}")
            case 3:
                connection.execute(here)
            case 4:
                connection.execute(f"update {table} set big = repeat(md5(random()::text), 60) where id = {number}")
            case 5 if chance.random() < 0.01:
                connection.execute(f"truncate {table}; insert into {table} values (7, 'seven', repeat('y', 3000))")
            case _:
                connection.execute(f"update {table} set note = 'n' || {chance.random()} where id = {number}")


@pytest.mark.parametrize("path", ["streaming", "snowpipe", "copy"])
def test_tables_that_change_while_their_copies_die_end_as_the_source_in_every_mode(
    deploy: Deployment, path: str
) -> None:
    deploy.server.set(minute_s=0.1)
    make_tables(deploy.source)
    paths = {"load_path": path, "copy_load_path": path, "file_max_age_seconds": 0.5}
    least.administer(deploy.destination, deploy.allowed.user, *least.FOR_TASKS, *least.FOR_DYNAMIC_TABLES)
    deploy.add("shop", apply_tables=MODES, table_error_retry_max_attempts=50, **paths)
    assert set(KILLS) == {name for name in NAMES if name.startswith("copy.")}
    armed = ",".join(f"{name}=kill@{visit}" for name, visit in KILLS.items())
    with load_on(deploy.source, change, seed=5) as done:
        deploy.start(ETL_FAILPOINTS=armed, COPY_RANGE_PAGES="4", SHARED_MEMORY_BUDGET_MB="4")
        for number, child in enumerate(("etl-actor-0", "etl-reader-shop", "etl-actor-1"), start=1):
            wait_for("kills of the copy", lambda n=number: len(landed(deploy)) >= n, 150)  # type: ignore[misc]
            os.kill(wait_for(child, lambda c=child: deploy.children().get(c)), signal.SIGKILL)  # type: ignore[misc]
        wait_for("all kills", lambda: landed(deploy) == set(KILLS), 150)
        deploy.ready("shop", len(TABLES))
        before = done[0]
        wait_for("load afterwards", lambda: done[0] > before + 20)
    end = deploy.written("shop")
    wait_for("everything to be landed", lambda: deploy.confirmed("shop") >= end)
    for shown in ("merged", "kept_live", "seen_live", "tasked", "tasked_live", "dynamic", "bag"):
        wanted = source_of(deploy, shown.removesuffix("_live"))
        wait_for(f"{shown} to be current", lambda name=shown, rows=wanted: Counter(rows_of(deploy, name)) == rows)  # type: ignore[misc]
    deploy.same("shop", merged=("id",))
    kept = source_of(deploy, "kept")
    wait_for("kept to be applied", lambda: Counter(rows_of(deploy, "KEPT WHERE NOT _ETL_DELETED")) == kept)
    assert Counter(rows_of(deploy, "KEPT_HISTORY WHERE _ETL_TO_LSN IS NULL")) == kept
    assert deploy.stop() == 0
    deploy.server.set(minute_s=60)


def standing(deploy: Deployment, seconds: float = 1.0) -> int | None:
    """The process of a COPY that waited for its reader whenever one looked for some time."""
    query = (
        "select pid from pg_stat_activity where datname = current_database() and query like 'COPY %'"
        " and wait_event = 'ClientWrite'"
    )
    since, first = time.monotonic(), deploy.source.execute(query)
    while first and deploy.source.execute(query) == first:
        if time.monotonic() > since + seconds:
            return int(first[0][0])
    return None


@pytest.mark.parametrize("how", ["cut", "ended"])
def test_a_copy_whose_connection_breaks_off_says_so_in_one_line_and_goes_on(deploy: Deployment, how: str) -> None:
    deploy.source.execute(
        "create table wide (id int primary key, big text); create publication p for all tables;"
        " insert into wide select g, repeat(md5(g::text), 60) from generate_series(1, 40000) g"
    )  # 77 MB: sockets' buffers and shared memory hold 25
    proxy = Proxy(("127.0.0.1", deploy.source.server.port))
    deploy.add("shop", pg_host="127.0.0.1", pg_port=proxy.port, table_error_retry_max_attempts=0)
    busy = {"path": "/(rows|filebuffer)$", "count": 100_000, "status": 503}
    deploy.server.set(faults=[busy])  # the copy fills its memory and stands in the middle of a COPY
    deploy.start(SHARED_MEMORY_BUDGET_MB="4", COPY_RANGE_PAGES="100000")
    pid = wait_for("a COPY that stands", lambda: standing(deploy), 150)
    if how == "cut":
        proxy.cut()
    else:
        deploy.source.execute(f"select pg_terminate_backend({pid})")
    deploy.server.set(faults=[])
    deploy.ready("shop", 1)
    deploy.caught_up("shop")
    deploy.same("shop", wide=("id",))
    assert "child_crashed" not in deploy.log
    if how == "ended":  # a cut ends the reader, too, which may end its copy worker before that has noticed
        assert "the connection broke off: " in deploy.log
    assert deploy.stop() == 0
    proxy.close()
