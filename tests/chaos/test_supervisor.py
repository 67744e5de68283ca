"""The supervisor process itself: what it may not become, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_local_snowflake import sql_session

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def shop(deploy: Deployment) -> None:
    deploy.source.execute("create table items (id int primary key, note text)")
    deploy.source.execute("insert into items select g, 'n' from generate_series(1, 10) g")
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop")


def test_the_parent_has_one_thread_and_nothing_heavy(deploy: Deployment) -> None:
    shop(deploy)
    deploy.start()
    deploy.ready("shop")
    assert deploy.supervisor is not None
    process = Path(f"/proc/{deploy.supervisor.pid}")
    assert len(list((process / "task").iterdir())) == 1
    maps = (process / "maps").read_text()
    for library in ("libarrow", "snowflake", "libpq", "numpy"):
        assert library not in maps, library
    assert deploy.stop() == 0


def test_a_child_that_is_stopped_is_found_and_replaced(deploy: Deployment) -> None:
    shop(deploy)
    deploy.start(HEARTBEAT_TIMEOUT_SECONDS="4")
    deploy.ready("shop")
    victim = deploy.children()["etl-actor-0"]
    os.kill(victim, signal.SIGSTOP)
    wait_for("another actor-0", lambda: deploy.children().get("etl-actor-0", victim) != victim)
    deploy.source.execute("insert into items values (100, 'after')")
    deploy.caught_up("shop")
    deploy.same("shop", items=("id",))
    assert "child_silent" in deploy.log
    assert deploy.stop() == 0


def test_children_die_with_a_killed_supervisor_and_leave_nothing(deploy: Deployment) -> None:
    shop(deploy)
    deploy.start()
    deploy.ready("shop")
    deploy.kill()
    walsenders = "select count(*) from pg_stat_replication where application_name = 'etl-stream'"
    wait_for("the slot to be free", lambda: deploy.source.execute(walsenders) == [(0,)])
    assert not [path for path in Path("/dev/shm").iterdir() if "etl" in path.name]


def drain_with_rows(deploy: Deployment) -> subprocess.Popen[bytes]:
    """Have a supervisor drain while Snowflake does not answer, and rows wait for it."""
    shop(deploy)
    deploy.start()
    deploy.ready("shop")
    deploy.server.set(blackhole=True)
    deploy.source.execute("insert into items select g, 'x' from generate_series(100, 200) g")
    metrics = f"http://{deploy.environment['METRICS_ADDR']}/metrics"
    used = re.compile(r'etl_shared_memory_used_bytes\{source="shop"\} [1-9]')
    wait_for("rows in flight", lambda: used.search(urllib.request.urlopen(metrics, timeout=5).read().decode()))
    assert deploy.supervisor is not None
    deploy.supervisor.send_signal(signal.SIGTERM)
    wait_for("the drain to begin", lambda: '"event":"draining"' in deploy.log)
    return deploy.supervisor


def test_an_actor_that_dies_while_its_reader_drains_is_replaced(deploy: Deployment) -> None:
    supervisor = drain_with_rows(deploy)
    for name, pid in deploy.children().items():
        if name.startswith("etl-actor"):
            os.kill(pid, signal.SIGKILL)
    deploy.server.set(blackhole=False)
    assert supervisor.wait(20) == 0  # the grace is longer: nobody waited for it
    assert not deploy.events("drain_cut_short")
    there = deploy.destination
    with sql_session(there) as session, session.cursor() as cursor:
        landed = f"SELECT COUNT(*) FROM {there.database}.{there.landing_schema}.LANDING_ITEMS WHERE ID >= 100"
        assert cursor.execute(landed).fetchone() == (101,)
    actors = [line["child"] for line in deploy.events("child_started") if line["child"].startswith("actor")]
    assert sorted(actors) == ["actor-0", "actor-0", "actor-1", "actor-1"]


def test_a_second_signal_ends_at_once(deploy: Deployment) -> None:
    supervisor = drain_with_rows(deploy)
    started = time.monotonic()
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(25) == 1
    assert time.monotonic() - started < 20, "the grace is 30 s"
    deploy.server.set(blackhole=False)


def test_a_restart_goes_on_without_another_copy(deploy: Deployment) -> None:
    shop(deploy)
    deploy.start()
    deploy.ready("shop")
    assert deploy.stop() == 0
    deploy.source.execute("update items set note = 'while it was down' where id < 5; delete from items where id = 9")
    deploy.start()
    deploy.caught_up("shop")
    deploy.same("shop", items=("id",))
    assert deploy.stop() == 0
    assert len(deploy.copied) == 1


def test_without_redis_positions_wait_and_then_go_on(deploy: Deployment) -> None:
    shop(deploy)
    deploy.start(STATE_STORE="postgres")
    wait_for("the table", lambda: '"event":"table_ready"' in deploy.log)
    assert deploy.config.execute("select source from etl.progress") == [("shop",)]
    assert deploy.stop() == 0
