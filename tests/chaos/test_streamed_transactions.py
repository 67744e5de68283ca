"""Large transactions come in pieces before their commit, and go to disk; whatever dies meanwhile, rows are equal and no position is landed twice."""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from etl_supervisor.errors import Kind
from etl_supervisor.model import lsn
from etl_supervisor.state.choose import open_store
from tests.chaos.test_crashes import KEYS, change, landed, make_tables
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_postgres import Database
from tests.support.load import load_on, neighbours

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

LITTLE_MEMORY = "64kB"  # the least that PostgreSQL takes; a transaction with more than that of changes is streamed
KILLS = (
    "reader.after_seal",
    "reader.after_publish",
    "reader.before_save",
    "reader.after_save",
    "actor.before_append",
    "actor.after_append",
    "actor.before_durable",
    "actor.before_apply",
)
BAND = 100_000  # ids of one session's rows; sessions do not wait for each other
ROWS_OF_A_STEP = 400
PAUSE_SECONDS = 1.0  # the local Snowflake has to keep up


@contextmanager
def large_transactions_on(database: Database) -> Iterator[list[int]]:
    """Two sessions whose transactions are large; the list counts them."""
    done, stop = [0], threading.Event()

    def work(session: int) -> None:
        chance = random.Random(session)
        with psycopg.connect(database.dsn) as connection:
            for number in range(1, 1000):
                if stop.is_set():
                    break
                large(connection, chance, BAND * session, lost=number % 5 == 0)
                done[0] += 1
                stop.wait(PAUSE_SECONDS)

    workers = [threading.Thread(target=work, args=(session,)) for session in (1, 2)]
    for worker in workers:
        worker.start()
    try:
        yield done
    finally:
        stop.set()
        for worker in workers:
            worker.join()


def large(connection: psycopg.Connection, chance: random.Random, base: int, *, lost: bool) -> None:
    """Several steps in savepoints, some of them rolled back; the whole transaction too where it is `lost`."""
    for _ in range(chance.randint(2, 5)):
        with connection.transaction():
            neighbours(
                connection, chance.randint(base, base + 20 * ROWS_OF_A_STEP), ROWS_OF_A_STEP, chance.choice("iudk")
            )
            with connection.transaction():
                neighbours(
                    connection, chance.randint(base, base + 20 * ROWS_OF_A_STEP), ROWS_OF_A_STEP, chance.choice("iudk")
                )
                if chance.random() < 0.4:
                    raise psycopg.Rollback
    (connection.rollback if lost else connection.commit)()


def metric(deploy: Deployment, name: str) -> float:
    """Of the source."""
    url = f"http://{deploy.environment['METRICS_ADDR']}/metrics"
    with urllib.request.urlopen(url, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith(name + "{")).split()[-1])


def test_transactions_that_come_in_pieces_survive_the_death_of_reader_and_actors(deploy: Deployment) -> None:
    make_tables(deploy.source)
    deploy.source.execute(f"alter database {deploy.source.name} set logical_decoding_work_mem = '{LITTLE_MEMORY}'")
    deploy.server.set(commit_delay_s=0.3)
    deploy.add("shop", table_error_retry_max_attempts=20, batch_max_size=500)
    deploy.start(SPOOL_MEMORY_MB="1")
    deploy.ready("shop", 2)
    with load_on(deploy.source, change), large_transactions_on(deploy.source) as done:
        wait_for("large transactions", lambda: done[0] > 5)
        deploy.kill()
        deploy.start(SPOOL_MEMORY_MB="1", ETL_FAILPOINTS=",".join(f"{name}=kill@3" for name in KILLS))
        wait_for("all kills", lambda: landed(deploy) == set(KILLS), 120)
        wait_for("pieces", lambda: metric(deploy, "etl_reader_pieces_total") > 100)
    end = deploy.written("shop")
    wait_for("what had piled up", lambda: deploy.confirmed("shop") >= end, 150)
    deploy.caught_up("shop")
    deploy.same("shop", **KEYS)
    wait_for("empty spools", lambda: metric(deploy, "etl_reader_spooled_bytes") == 0)
    assert deploy.stop() == 0
    assert len(deploy.copied) == 2, "a restart must not copy again"
    assert '"in_progress":false' not in deploy.log, "the stream went on with whole transactions"


def give_room(deploy: Deployment, disk_mb: int) -> None:
    """For the readers that start from now on."""
    (deploy.folder / ".env").write_text(f"SPOOL_MEMORY_MB=1\nSPOOL_DISK_MB={disk_mb}\n")
    if deploy.supervisor is not None:
        deploy.supervisor.send_signal(signal.SIGHUP)


def trouble(deploy: Deployment, source: str) -> str:
    """What `status` says of it."""
    with contextlib.closing(open_store(deploy.settings)) as store:
        report = store.report(source)
    return report.trouble if report is not None and report.trouble else ""


def test_a_transaction_beyond_the_disk_stops_its_source_alone_until_there_is_room(
    deploy: Deployment, second_source: Database
) -> None:
    make_tables(deploy.source)
    deploy.source.execute("create table bulk (id int primary key, body text)")
    deploy.source.execute(f"alter database {deploy.source.name} set logical_decoding_work_mem = '{LITTLE_MEMORY}'")
    second_source.execute("create table others (id int primary key, note text); create publication p for all tables")
    deploy.add("shop")
    deploy.add("depot", second_source)
    give_room(deploy, 1)
    deploy.start()
    deploy.ready("shop", 3)
    deploy.ready("depot")
    with psycopg.connect(deploy.source.dsn) as connection:
        connection.execute("insert into bulk select g, repeat('x', 1000) from generate_series(1, 5000) g")
        ((text,),) = deploy.source.execute("select pg_current_wal_insert_lsn()::text")
        behind = lsn.parse(text)
        deploy.source.execute("update items set n = n + 1 where id < 100")
        wait_for("two tries", lambda: len(refusals(deploy)) > 1)
        wait_for("its status", lambda: trouble(deploy, "shop").startswith("spool at source shop: more than 1 MiB"))
        second_source.execute("insert into others values (1, 'goes on')")
        deploy.caught_up("depot")
        assert deploy.confirmed("shop") <= behind, "what lies behind pieces that were not kept was confirmed"
        connection.commit()
    assert deploy.confirmed("shop") <= behind
    give_room(deploy, 20)
    deploy.caught_up("shop", 120)
    assert {(line["place"], line["remedy"].partition(",")[0]) for line in refusals(deploy)} == {
        ("source shop", "raise SPOOL_DISK_MB")
    }
    deploy.same("shop", bulk=("id",), **KEYS)
    deploy.same("depot", others=("id",))
    wait_for("an end of the trouble", lambda: not trouble(deploy, "shop"))
    assert deploy.stop() == 0


def refusals(deploy: Deployment) -> list[dict[str, str]]:
    """Readers that ended for want of room for transactions in progress."""
    return [line for line in deploy.events("child_failed") if line["kind"] == Kind.SPOOL]
