"""Rows equal, and no position landed twice, whatever dies in the middle. Every failpoint is visited, and the log says that the kill landed."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from pathlib import Path

import psycopg
import pytest

from etl_supervisor.failpoints import NAMES
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_postgres import Database
from tests.support.load import load_on
from tests.support.proxy import Proxy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

KEYS = {"items": ("id",), "pairs": ("a", "b")}
ROWS = 2_000
SECONDS_OF_SILENCE = 12.0  # longer than two status intervals, so that a lost one shows


def make_tables(database: Database) -> None:
    database.execute(
        "create table items (id int primary key, n int, note text, big text, at timestamptz default now())"
    )
    database.execute("alter table items alter big set storage external")
    database.execute("create table pairs (a int, b text, v numeric(10,2), primary key (a, b))")
    database.execute(
        f"insert into items select g, g, 'n' || g, repeat(md5(g::text), 100) from generate_series(1, {ROWS}) g"
    )
    database.execute("insert into pairs select g, 'b' || g, g / 3.0 from generate_series(1, 500) g")
    database.execute("create publication p for all tables")


def change(connection: psycopg.Connection, chance: random.Random) -> None:
    """A small transaction: inserts, updates that leave TOAST alone, key changes, deletes, now and then a truncate."""
    for _ in range(chance.randint(1, 8)):
        number = chance.randint(1, ROWS)
        match chance.randint(0, 9):
            case 0:
                connection.execute(
                    "insert into items values (%s, 1, 'new', repeat('x', 3000)) on conflict (id) do nothing",
                    [chance.randint(ROWS, ROWS * 5)],
                )
            case 1:
                connection.execute("delete from items where id = %s", [number])
            case 2:
                connection.execute(
                    "update items set id = -id where id = %s and not exists (select from items where id = -%s)",
                    [number, number],
                )
            case 3:
                connection.execute("update items set big = md5(random()::text) where id = %s", [number])
            case 4:
                connection.execute("insert into pairs values (%s, 'z', 1) on conflict do nothing", [number])
            case 5 if chance.random() < 0.02:
                connection.execute("truncate pairs")
            case _:
                connection.execute("update items set n = n + 1 where id = %s", [number])


def landed(deploy: Deployment) -> set[str]:
    path = deploy.folder / "failpoints.log"
    return {line.split()[0] for line in path.read_text().splitlines()} if path.exists() else set()


@pytest.mark.parametrize(
    ("who", "store"),
    [("reader", "redis"), ("actor", "redis"), ("copy", "redis"), ("reader", "postgres"), ("copy", "postgres")],
)
def test_every_failpoint_of_a_process_may_kill_it(deploy: Deployment, who: str, store: str) -> None:
    deploy.keep_state_in(store)
    names = {name for name in NAMES if name.startswith(f"{who}.")}
    make_tables(deploy.source)
    deploy.server.set(commit_delay_s=0.3)
    deploy.add("shop", table_error_retry_max_attempts=20)
    environment = {
        "ETL_FAILPOINTS": ",".join(f"{name}=kill@{1 if name == 'actor.after_open' else 2}" for name in names)
    }
    if who == "copy":  # of a table with many ranges, which become durable one after the other: 20 MB by way of 4
        deploy.source.execute(
            "insert into items select g, g, 'n', repeat(md5(g::text), 100) from generate_series(20001, 26000) g"
        )
        visits = {"copy.after_snapshot": 1, "copy.mid_rows": 5, "copy.after_range": 1, "copy.before_finish": 1}
        environment["ETL_FAILPOINTS"] = ",".join(f"{name}=kill@{visits[name]}" for name in names)
        environment |= {"COPY_RANGE_PAGES": "4", "SHARED_MEMORY_BUDGET_MB": "4"}
    deploy.start(**environment)
    with load_on(deploy.source, change):
        wait_for(f"all kills at {who}", lambda: landed(deploy) == names, 150)
    deploy.ready("shop", 2)
    deploy.caught_up("shop")
    deploy.same("shop", **KEYS)
    if who == "copy":
        assert re.search(r'"rows":\d+,"taken_over":[1-9]', deploy.log), "a later worker goes on from finished ranges"
    assert deploy.stop() == 0


def test_the_replication_connection_may_be_cut_at_every_failpoint(deploy: Deployment) -> None:
    names = {name for name in NAMES if name.startswith("reader.")}
    make_tables(deploy.source)
    deploy.add("shop")
    armed = [f"{name}=cut@{2 + 4 * number}" for number, name in enumerate(sorted(names))]
    deploy.start(ETL_FAILPOINTS=",".join(armed))
    with load_on(deploy.source, change):
        wait_for("all cuts", lambda: landed(deploy) == names, 150)
    deploy.ready("shop", 2)
    deploy.caught_up("shop")
    deploy.same("shop", **KEYS)
    assert '"kind":"stream"' in deploy.log
    assert "child_crashed" not in deploy.log
    assert deploy.stop() == 0


@pytest.mark.timeout(480)  # four starts, each with a copy that begins
def test_a_new_supervisor_takes_over_from_one_killed_at_a_failpoint(deploy: Deployment) -> None:
    names = ["supervisor.after_desired", "supervisor.after_spawn", "supervisor.after_reap"]
    make_tables(deploy.source)
    deploy.server.set(commit_delay_s=0.3)
    deploy.add("shop")
    with load_on(deploy.source, change):
        for name, visit in zip(names, (1, 5, 1), strict=True):
            deploy.start(ETL_FAILPOINTS=f"{name}=kill@{visit}")
            assert deploy.supervisor is not None
            assert deploy.supervisor.wait(120) == -signal.SIGKILL
            assert name in landed(deploy)
        deploy.start()
        deploy.ready("shop", 2)
    deploy.caught_up("shop")
    deploy.same("shop", **KEYS)
    assert deploy.stop() == 0


def test_kill_9_of_actor_reader_and_supervisor_under_load(deploy: Deployment) -> None:
    make_tables(deploy.source)
    deploy.server.set(commit_delay_s=1.0)
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop", 2)
    with load_on(deploy.source, change) as done:
        for name in ("etl-actor-0", "etl-actor-1", "etl-reader-shop"):
            before, pid = done[0], deploy.children()[name]
            os.kill(pid, signal.SIGKILL)
            wait_for(f"a new {name}", lambda n=name, p=pid: deploy.children().get(n, p) != p)  # type: ignore[misc]
            wait_for("load in the meantime", lambda b=before: done[0] > b + 30)  # type: ignore[misc]
        deploy.kill()
        deploy.start()
        before = done[0]
        wait_for("load under the new supervisor", lambda: done[0] > before + 100)
    deploy.caught_up("shop")
    deploy.same("shop", **KEYS)
    assert deploy.stop() == 0
    assert len(deploy.copied) == 2, "a restart must not copy again"


def test_an_actor_that_is_renewed_under_load(deploy: Deployment) -> None:
    """As it does by itself when it has held too much for hours: it ends in order."""
    make_tables(deploy.source)
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop", 2)
    with load_on(deploy.source, change) as done:
        for name in ("etl-actor-0", "etl-actor-1"):
            before, pid = done[0], deploy.children()[name]
            os.kill(pid, signal.SIGTERM)
            wait_for(f"a new {name}", lambda n=name, p=pid: deploy.children().get(n, p) != p)  # type: ignore[misc]
            wait_for("load in the meantime", lambda b=before: done[0] > b + 30)  # type: ignore[misc]
    deploy.caught_up("shop")
    deploy.same("shop", **KEYS)
    ended = {event["child"]: event["code"] for event in deploy.events("child_ended")}
    assert (ended["actor-0"], ended["actor-1"]) == (0, 0)
    assert "table_trouble" not in deploy.log
    assert deploy.stop() == 0


def test_a_cut_replication_connection_is_made_again(deploy: Deployment) -> None:
    make_tables(deploy.source)
    proxy = Proxy(("127.0.0.1", deploy.source.server.port))
    deploy.add("shop", pg_host="127.0.0.1", pg_port=proxy.port)
    deploy.start()
    deploy.ready("shop", 2)
    with load_on(deploy.source, change) as done:
        for _ in range(3):
            before = done[0]
            wait_for("load", lambda b=before: done[0] > b + 50)  # type: ignore[misc]
            wait_for("a connection to cut", proxy.cut)
    deploy.caught_up("shop")
    deploy.same("shop", **KEYS)
    assert proxy.cuts >= 3
    assert deploy.stop() == 0
    proxy.close()
    assert "child_crashed" not in deploy.log


def test_a_channel_that_breaks_is_opened_again_and_nothing_is_lost(deploy: Deployment) -> None:
    make_tables(deploy.source)
    deploy.add("shop", table_error_retry_max_attempts=20)
    deploy.start()
    deploy.ready("shop", 2)
    broken = {"path": "/(rows|filebuffer)$", "count": 3, "status": 400, "body": {"code": "ERR_INJECTED", "message": ""}}
    with load_on(deploy.source, change) as done:
        for apply in (False, True):
            deploy.server.set(faults=[{**broken, "apply": apply}])
            before, stopped = done[0], deploy.log.count('"kind":"channel"')
            wait_for("load", lambda b=before: done[0] > b + 100)  # type: ignore[misc]
            wait_for("a broken channel", lambda s=stopped: deploy.log.count('"kind":"channel"') > s)  # type: ignore[misc]
    deploy.server.set(faults=[])
    deploy.caught_up("shop")
    deploy.same("shop", **KEYS)
    assert deploy.stop() == 0


def memory_of(pid: int) -> int:
    """Anonymous and shared memory in use, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return sum(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith(("RssAnon", "RssShmem")))


def test_a_destination_that_hangs_costs_no_memory_and_no_connection(deploy: Deployment) -> None:
    database = deploy.source
    database.execute("create table items (id int primary key, filler text)")
    database.execute("create publication p for all tables")
    deploy.add("shop", batch_max_size=1000)
    deploy.start(SHARED_MEMORY_BUDGET_MB="8")
    deploy.ready("shop", 1)
    deploy.server.set(blackhole=True)
    walsender = "select pid, reply_time from pg_stat_replication where application_name = 'etl-stream'"
    ((before, _),) = database.execute(walsender)
    reader = deploy.children()["etl-reader-shop"]
    for start in range(0, 40_000, 5_000):
        database.execute(
            f"insert into items select g, repeat(md5(g::text), 60) from generate_series({start}, {start + 4_999}) g"
        )
    sizes: list[int] = []
    settled = time.monotonic() + SECONDS_OF_SILENCE / 3
    end = time.monotonic() + SECONDS_OF_SILENCE
    wait_for("silence", lambda: sizes.append(memory_of(reader)) or time.monotonic() > settled)
    sizes.clear()
    wait_for("silence", lambda: sizes.append(memory_of(reader)) or time.monotonic() > end)
    assert max(sizes) - min(sizes) < 8 << 20, "memory grows while the destination hangs"
    assert max(sizes) < 200 << 20
    ((now,),) = database.execute("select now()")
    wait_for("a status update", lambda: all(replied > now for _, replied in database.execute(walsender)), 30)
    assert [pid for pid, _ in database.execute(walsender)] == [before], "the walsender was lost"
    deploy.server.set(blackhole=False)
    deploy.caught_up("shop")
    deploy.same("shop", items=("id",))
    assert deploy.stop() == 0
