"""First copies through the whole pipeline: many tables, large ones, what is told of them meanwhile."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import orjson
import pytest
from rich.console import Console

from etl_supervisor.cli import status
from tests.support.fix_deployment import Deployment, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

TABLES = 12


def command(deploy: Deployment, *arguments: str) -> str:
    """What `etl-supervisor` answers."""
    program = [sys.executable, "-m", "etl_supervisor.cli.main", *arguments]
    done = subprocess.run(
        program, env=deploy.environment, cwd=deploy.folder, capture_output=True, text=True, check=True
    )
    return done.stdout


def copy_of(deploy: Deployment, table: str) -> dict[str, Any] | None:
    """How far a table's copy is, as `status --json` tells."""
    told = orjson.loads(status.as_json(deploy.settings))
    return next((item["copy"] for item in told["tables"] if item["table"] == table), None)


def test_small_tables_share_workers_and_a_large_one_has_its_own(deploy: Deployment) -> None:
    for number in range(TABLES):
        rows = f"insert into t{number} select g, 'n' from generate_series(1, {number % 3}) g"
        deploy.source.execute(f"create table t{number} (id int primary key, note text); {rows}")
    deploy.source.execute("create table large (id int primary key, note text)")
    deploy.source.execute("insert into large select g, repeat('n', 900) from generate_series(1, 12000) g")
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop", max_table_sync_workers=2)
    deploy.start()
    deploy.ready("shop", TABLES + 1)
    deploy.caught_up("shop")
    deploy.same("shop", large=("id",), t0=("id",), t1=("id",), **{f"t{TABLES - 1}": ("id",)})
    assert re.search(r'"tables":\[("public.t\d+",?){3,}\]', deploy.log)
    assert re.search(r'"tables":\["public.large"\]', deploy.log)
    assert deploy.states("shop")["large"].rows_copied == 12_000
    assert deploy.stop() == 0


def test_a_table_that_can_not_be_copied_does_not_hold_those_of_its_worker(deploy: Deployment) -> None:
    for number, name in enumerate(("a", "b", "c", "d")):
        deploy.source.execute(f"create table {name} (id int primary key); insert into {name} values ({number - 1})")
    deploy.source.execute("create publication p for table a, b where (10 / id > 0), c, d")  # b's row is 0
    deploy.add("shop", max_table_sync_workers=1)
    deploy.start()
    good = {"a", "c", "d"}
    wait_for("the others", lambda: {n for n, s in deploy.states("shop").items() if s.phase == "READY"} == good, 90)
    wait_for("the reason", lambda: "(SQLSTATE 22012)" in deploy.states("shop")["b"].trouble)
    deploy.source.execute("truncate b")
    deploy.ready("shop", 4)
    deploy.caught_up("shop")
    deploy.same("shop", a=("id",), b=("id",))
    assert deploy.stop() == 0


def test_status_tells_how_far_a_copy_is(deploy: Deployment) -> None:
    deploy.source.execute("create table large (id int primary key, note text)")
    deploy.source.execute("insert into large select g, repeat('n', 900) from generate_series(1, 40000) g; analyze")
    deploy.source.execute("create publication p for all tables")
    deploy.server.set(commit_delay_s=1.5)
    deploy.add("shop")
    deploy.start(SHARED_MEMORY_BUDGET_MB="8", COPY_RANGE_PAGES="128")
    copy = wait_for("a part of it", lambda: (found := copy_of(deploy, "large")) and found["done"] > 0 and found)
    assert copy["rows_total"] == 40_000
    assert 0 < copy["rows"] < 40_000
    assert 0 < copy["bytes"] < copy["bytes_total"]
    assert copy["rows_per_second"] > 0
    assert copy["seconds_left"] > 0
    console = Console(record=True, width=200, force_terminal=False)
    status.watch(deploy.settings, console, seconds=0)
    assert re.search(
        r"shop public\.large .*of about 40,000 rows, \d+%, [\d,]+ rows/s, \d:\d\d:\d\d left", console.export_text()
    )
    deploy.ready("shop")
    told = orjson.loads(command(deploy, "status", "--json"))
    (table,) = told["tables"]
    assert (table["state"], table["rows_copied"], table["copy"]) == ("READY", 40_000, None)
    assert told["sources"][0]["state"] == "streaming"
    assert "40,000" in command(deploy, "status")
    assert deploy.stop() == 0
