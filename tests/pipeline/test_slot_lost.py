"""Slots that can't go on: asked about, or replaced by policy; rows that were deleted in the gap disappear."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from etl_supervisor.embedded.postgres import EmbeddedPostgres
from tests.support.fix_deployment import Deployment, drop_slot, wait_for
from tests.support.fix_postgres import FAST_SETTINGS, Database

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

LIMITS = {"max_slot_wal_keep_size": "1MB", "min_wal_size": "32MB", "max_wal_size": "32MB"}


@dataclass
class Own:
    """A server of this test's own: it may be broken."""

    server: EmbeddedPostgres
    database: Database


@pytest.fixture
def own(open_folder: Path) -> Iterator[Own]:
    with EmbeddedPostgres(open_folder / "own", settings=FAST_SETTINGS | LIMITS) as server:
        yield Own(server, Database(server, "postgres"))


def prepared(deploy: Deployment, database: Database) -> None:
    for table in ("items", "others"):
        database.execute(f"create table {table} (id int primary key, note text)")
        database.execute(f"insert into {table} select g, 'n' || g from generate_series(1, 50) g")
    database.execute("create publication p for all tables")
    deploy.add("shop", database, on_slot_lost="resync")
    deploy.start()
    deploy.ready("shop", 2)
    database.execute("update items set note = 'streamed' where id < 10")
    deploy.caught_up("shop")


def slot_of(database: Database) -> str:
    ((name,),) = database.execute(
        "select slot_name::text from pg_replication_slots where slot_name like 'etl_stream_%%' and database = current_database()"
    )
    return str(name)


def test_a_slot_that_was_dropped_is_replaced_and_rows_deleted_in_the_gap_disappear(deploy: Deployment) -> None:
    prepared(deploy, deploy.source)
    assert deploy.stop() == 0
    before = deploy.states("shop")["items"].generation
    slot = slot_of(deploy.source)
    drop_slot(deploy.source, slot)
    deploy.source.execute("delete from items where id < 20")
    deploy.source.execute("insert into items values (100, 'in the gap')")
    deploy.start()
    (line,) = wait_for("the slot to be replaced", lambda: deploy.events("slot_replaced"))
    assert (line["slot"], line["old"]) == (slot, None)
    assert line["ours"] < line["new"]
    deploy.source.execute("insert into items values (101, 'after it')")
    wait_for("a new generation", lambda: deploy.states("shop")["items"].generation > before)
    deploy.ready("shop", 2)
    deploy.caught_up("shop")
    deploy.same("shop", items=("id",), others=("id",))
    assert deploy.stop() == 0


def test_a_slot_that_was_invalidated_while_nothing_ran_is_replaced(deploy: Deployment, own: Own) -> None:
    prepared(deploy, own.database)
    deploy.kill()
    own.database.execute("delete from others where id > 40")
    for _ in range(4):
        own.database.execute("select pg_switch_wal()")
        own.database.execute("select pg_logical_emit_message(false, 'fill', repeat('x', 2000000))")
    own.database.execute("checkpoint")
    wait_for(
        "the slot to be lost",
        lambda: own.database.execute("select 1 from pg_replication_slots where wal_status = 'lost'"),
    )
    deploy.start()
    wait_for("the slot to be replaced", lambda: deploy.events("slot_replaced"))
    wait_for("the reader to go on", lambda: deploy.events("reader_started")[1:])
    deploy.ready("shop", 2)
    deploy.caught_up("shop")
    deploy.same("shop", items=("id",), others=("id",))
    assert "raise max_slot_wal_keep_size" in deploy.log
    assert deploy.stop() == 0


def test_a_database_that_was_restored_from_an_older_state_is_noticed_and_copied_again(
    deploy: Deployment, own: Own, open_folder: Path
) -> None:
    prepared(deploy, own.database)
    assert deploy.stop() == 0
    own.server.stop()
    backup = open_folder / "backup"
    shutil.copytree(own.server.data_dir, backup, symlinks=True)
    for path in (backup, *backup.rglob("*")):
        owner = (own.server.data_dir / path.relative_to(backup)).stat()
        shutil.chown(path, owner.st_uid, owner.st_gid)
    own.server.start()
    deploy.start()
    wait_for("the second reader", lambda: len(deploy.events("reader_started")) == 2)
    own.database.execute("insert into items values (200, 'only before the restore')")
    own.database.execute("update others set note = 'only before the restore'")
    deploy.caught_up("shop")
    assert deploy.stop() == 0
    own.server.stop()
    shutil.rmtree(own.server.data_dir)
    backup.rename(own.server.data_dir)
    own.server.start()
    deploy.start()
    wait_for("the slot to be replaced", lambda: deploy.events("slot_replaced"))
    assert "it is of an older state" in deploy.log
    wait_for("the third reader", lambda: len(deploy.events("reader_started")) == 3)
    own.database.execute("insert into items values (300, 'after the restore')")
    deploy.ready("shop", 2)
    deploy.caught_up("shop")
    deploy.same("shop", items=("id",), others=("id",))
    assert deploy.stop() == 0


def test_another_cluster_takes_over_the_tables_only_where_the_policy_says_so(deploy: Deployment, own: Own) -> None:
    prepared(deploy, deploy.source)
    assert deploy.stop() == 0
    own.database.execute("create table items (id int primary key, note text)")
    own.database.execute("insert into items values (1, 'of the other cluster')")
    own.database.execute("create publication p for all tables")
    deploy.add("shop", own.database, on_slot_lost="ask")
    deploy.start()
    (line, *_) = wait_for("the line", lambda: deploy.events("child_failed"))
    assert (line["kind"], line["reason"][:31]) == ("slot_lost", "this is another database cluste")
    deploy.add("shop", own.database, on_slot_lost="resync")
    wait_for("the slot to be made", lambda: deploy.events("slot_replaced"))
    wait_for("the table to be ready", lambda: set(deploy.states("shop")) == {"items"})
    deploy.ready("shop")
    deploy.caught_up("shop")
    deploy.same("shop", items=("id",))
    assert deploy.stop() == 0
