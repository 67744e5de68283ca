"""A quiet database in a busy cluster: its slot holds no WAL."""

from __future__ import annotations

import pytest

from etl_supervisor.model import lsn
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_postgres import Database

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SLOT = "select restart_lsn::text, confirmed_flush_lsn::text from pg_replication_slots where slot_name like 'etl_stream_%%' and database = %s"


@pytest.mark.parametrize("seconds", [1, 0], ids=["with a heartbeat", "by keepalives alone"])
def test_a_quiet_database_in_a_busy_cluster_holds_no_wal(
    deploy: Deployment, second_source: Database, seconds: float
) -> None:
    deploy.source.execute("create table items (id int primary key, note text)")
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop", heartbeat_seconds=seconds)
    deploy.start()
    deploy.ready("shop")
    second_source.execute("create table noise (id int, filler text)")
    for _ in range(4):
        second_source.execute("insert into noise select g, repeat('x', 1000) from generate_series(1, 10000) g")
        second_source.execute("checkpoint")
    ((text,),) = second_source.execute("select pg_current_wal_lsn()::text")
    written = lsn.parse(text)

    def moved() -> bool:
        # A checkpoint logs the running transactions: the places from which decoding can start again.
        second_source.execute("insert into noise values (0, '')")
        second_source.execute("checkpoint")
        ((restart, confirmed),) = deploy.source.execute(SLOT, deploy.source.name)
        return lsn.parse(restart) >= written and lsn.parse(confirmed) >= written

    wait_for("the slot to pass the noise", moved)
    assert deploy.confirmed("shop") >= written
    deploy.source.execute("insert into items values (1, 'after')")
    deploy.caught_up("shop")
    deploy.same("shop", items=("id",))
    assert deploy.stop() == 0
    assert "source_trouble" not in deploy.log
