"""Whole pipelines from a standby, and through a promotion."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

import pytest

from etl_supervisor.model import lsn
from etl_supervisor.state.choose import open_store
from tests.support import least
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_standby import Pair

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def items(pair: Pair, rows: int = 100) -> None:
    pair.primary.execute("create table items (id int primary key, note text)")
    pair.primary.execute(f"insert into items select g, 'n' || g from generate_series(1, {rows}) g")
    pair.primary.execute("create publication p for all tables")


def copied(pair: Pair) -> bool:
    """True when the standby has a lasting copy of the slot."""
    pair.primary.execute("select pg_log_standby_snapshot()")
    synced = (
        "select count(*) from pg_replication_slots where synced and not temporary and slot_name like 'etl_stream_%'"
    )
    return pair.standby.execute(synced) == [(1,)]


def test_a_pipeline_reads_from_a_standby(deploy: Deployment, pair: Callable[..., Pair]) -> None:
    servers = pair()
    items(servers)
    allowed = least.source_role(servers.primary)
    role = allowed["pg_username"]
    servers.primary.execute(least.FOR_STANDBYS.format(role))
    there = f"select 1 from pg_roles where rolname = '{role}'"
    wait_for("the role on the standby", lambda: servers.standby.execute(there))
    primary = least.url_of(servers.primary, role)
    deploy.add("shop", servers.standby, primary_url=primary, heartbeat_seconds=1, **allowed)
    deploy.pipelines["shop"] = servers.primary  # where the end of WAL and the rows are asked for
    deploy.start()
    deploy.ready("shop")
    servers.primary.execute("update items set note = 'changed' where id <= 10; delete from items where id > 90")
    deploy.caught_up("shop")
    deploy.same("shop", items=("id",))
    servers.promote()
    deploy.pipelines["shop"] = servers.standby
    servers.standby.execute("insert into items values (1000, 'after the promotion')")
    deploy.caught_up("shop")
    deploy.same("shop", items=("id",))
    assert deploy.stop() == 0
    deploy.start()
    servers.standby.execute("insert into items values (1001, 'after another start')")
    deploy.caught_up("shop")
    deploy.same("shop", items=("id",))
    assert deploy.stop() == 0
    assert "slot_lost" not in deploy.log


def test_a_promotion_loses_nothing_with_a_failover_slot(deploy: Deployment, pair: Callable[..., Pair]) -> None:
    servers = pair(sync_slots=True)
    items(servers)
    deploy.add("shop", servers.primary, slot_failover=True)
    deploy.start()
    deploy.ready("shop")
    wait_for("the slot on the standby", lambda: copied(servers))
    for number in range(20):
        servers.primary.execute(f"update items set note = 'round {number}' where id % 20 = {number}")
    flushed = "select pg_current_wal_flush_lsn() <= replay_lsn from pg_stat_replication where application_name <> 'etl-stream'"
    wait_for("the standby to have it all", lambda: servers.primary.execute(flushed) == [(True,)])
    servers.promote()
    servers.standby.execute("delete from items where id <= 5")
    deploy.add("shop", servers.standby, slot_failover=True)
    deploy.caught_up("shop")
    deploy.same("shop", items=("id",))
    assert deploy.stop() == 0
    assert "slot_lost" not in deploy.log


def test_rows_landed_from_a_history_that_was_lost_stop_the_source(
    deploy: Deployment, pair: Callable[..., Pair]
) -> None:
    servers = pair(sync_slots=True, first=False)
    items(servers)
    deploy.add("shop", servers.primary, slot_failover=True)
    deploy.start()
    deploy.ready("shop")
    wait_for("the slot on the standby", lambda: copied(servers))
    servers.standby.server.stop()
    servers.primary.execute("insert into items values (1000, 'the standby never had it')")
    deploy.caught_up("shop")
    assert deploy.stop() == 0
    servers.lose_primary()  # first: else the standby gets the row after all
    servers.standby.server.start()
    servers.promote()
    ((confirmed,),) = servers.standby.execute("select confirmed_flush_lsn::text from pg_replication_slots where synced")
    with contextlib.closing(open_store(deploy.settings)) as store:  # as if we had died before we confirmed more
        progress = store.progress("shop")
        assert progress is not None
        store.save_progress("shop", replace(progress, confirmed=lsn.parse(confirmed)), store.next_epoch("shop"))
    servers.standby.execute("insert into items values (1001, 'of the new history')")
    deploy.add("shop", servers.standby, slot_failover=True)
    deploy.start()
    wait_for("the loss to be told", lambda: "history forked at" in deploy.log)
    assert deploy.stop() == 0
    assert '"kind":"slot_lost"' in deploy.log
