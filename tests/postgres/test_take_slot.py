"""A reader that has its source's lease ends the walsender of an older reader: that of its own slot, and no other's on the server."""

from __future__ import annotations

import random

from etl_supervisor.model.tenure import clock
from tests.support import least
from tests.support.fix_deployment import wait_for
from tests.support.fix_postgres import Database
from tests.support.streaming import make_slot, source_of, streaming
from workers.reader.source import take_slot

READER = "select active_pid from pg_replication_slots where active_pid is not null and database = current_database()"
LEASE_SECONDS = 60.0


def test_only_the_walsender_of_ones_own_slot_is_ended(database: Database, second_database: Database) -> None:
    number = random.SystemRandom().randrange(1_000_000, 2_000_000_000)
    source, _ = source_of(database, replication_id=number)
    for each, name in ((database, source.slot), (second_database, f"other_{number}")):
        each.execute("create table t (id int primary key); create publication p for table t")
        make_slot(each, name)
    with streaming(second_database, slot=f"other_{number}"), streaming(database, slot=source.slot):
        other = wait_for("the other's reader", lambda: second_database.execute(READER))
        wait_for("our older reader", lambda: database.execute(READER))
        with least.connect(database) as connection:
            take_slot(connection, source, clock() - 1, lambda: None)
            assert database.execute(READER), (
                "the lease is over: the walsender may be that of another supervisor's reader"
            )
            take_slot(connection, source, clock() + LEASE_SECONDS, lambda: None)
        assert database.execute(READER) == []
        assert second_database.execute(READER) == other
