"""`consistency: transaction`: accounts in several tables, money moves between them in single transactions, and no reader of the warehouse ever sees
another sum."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from tests.chaos.test_crashes import landed
from tests.pipeline.test_resync import resync
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_local_snowflake import sql_session
from tests.support.fix_postgres import Database
from tests.support.load import load_on

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

BANKS = ("north", "south", "east")
ACCOUNTS, MONEY = 20, 1000
TOTAL = len(BANKS) * ACCOUNTS * MONEY


def make_banks(database: Database) -> None:
    for bank in BANKS:
        database.execute(
            f"create table {bank} (id int primary key, money int not null, big text);"
            f" alter table {bank} alter big set storage external;"
            f" insert into {bank} select g, {MONEY}, repeat('b', 3000) from generate_series(1, {ACCOUNTS}) g"
        )
    database.execute("create publication p for all tables")


def transfer(connection: psycopg.Connection[Any], chance: random.Random) -> None:
    """Some money from one account to another; accounts are closed, opened again and renumbered with what they hold."""
    one, other = chance.sample(BANKS, 2)
    giver, taker, amount = chance.randint(1, ACCOUNTS), chance.randint(1, ACCOUNTS), chance.randint(1, 50)
    connection.execute(f"update {one} set money = money - %s where id = %s", [amount, giver])
    connection.execute(f"update {other} set money = money + %s where id = %s", [amount, taker])
    if chance.random() < 0.1:
        (money,) = connection.execute(f"delete from {one} where id = %s returning money", [giver]).fetchone()  # type: ignore[misc]
        connection.execute(f"insert into {one} values (%s, %s, 'new')", [giver, money])
    if chance.random() < 0.1:
        connection.execute(f"update {other} set id = id + 1000 where id = %s", [taker])
        connection.execute(f"update {other} set id = id - 1000 where id > 1000")


class Auditor:
    """Reads all banks in one statement, as often as it is asked, and keeps what it saw."""

    def __init__(self, deploy: Deployment, session: Any) -> None:
        there = deploy.destination
        schema = f'"{there.database}"."{there.schema}"'
        mark = f'"{there.database}"."{there.landing_schema}"._ETL_WATERMARK'
        self._session = session
        sums = ", ".join(f"(SELECT SUM(MONEY) FROM {schema}.{bank.upper()})" for bank in BANKS)
        self._query = f"SELECT {sums}, (SELECT APPLIED FROM {mark} WHERE PIPELINE = 'shop' AND SOURCE_TABLE = '')"
        self.seen: list[tuple[int, ...]] = []

    def look(self) -> tuple[int, ...]:
        """One sample: (money of each bank, LSN); the sum counts as soon as all of them are there."""
        with self._session.cursor() as cursor:
            found = tuple(int(value or 0) for value in cursor.execute(self._query).fetchone())
        assert not all(found) or sum(found[:-1]) == TOTAL, (found, len(self.seen))
        self.seen.append(found)
        return found

    def moves_on(self, times: int = 3) -> None:
        """Look on until the pipeline has been moved so often."""
        before = len({found[-1] for found in self.seen})
        wait_for("the tables to move", lambda: self.look() and len({lsn for *_, lsn in self.seen}) >= before + times)


@contextmanager
def auditor(deploy: Deployment) -> Iterator[Auditor]:
    with sql_session(deploy.destination) as session:
        yield Auditor(deploy, session)


def test_money_is_never_seen_twice_or_nowhere(deploy: Deployment) -> None:
    make_banks(deploy.source)
    deploy.server.set(commit_delay_s=0.3)
    deploy.add("shop", consistency="transaction", apply_interval_seconds_max=1)
    deploy.start()
    deploy.ready("shop", len(BANKS))
    with auditor(deploy) as audit, load_on(deploy.source, transfer, seed=5, prepare_threshold=None) as done:
        wait_for("a first sight", audit.look)
        wait_for("many moves", lambda: audit.look() and len(set(audit.seen)) > 8 and done[0] > 200)
    deploy.caught_up("shop")
    deploy.same("shop", **dict.fromkeys(BANKS, ("id",)))
    lsns = [found[-1] for found in audit.seen]
    assert lsns == sorted(lsns)
    assert deploy.stop() == 0


def test_crashes_before_and_after_the_block_leave_no_half_of_a_transfer(deploy: Deployment) -> None:
    make_banks(deploy.source)
    deploy.server.set(commit_delay_s=0.3)
    deploy.add("shop", consistency="transaction", apply_interval_seconds_max=1, table_error_retry_max_attempts=20)
    armed = {
        "actor.before_apply": 4,
        "actor.after_apply": 6,
        "reader.after_publish": 30,
        "actor.before_durable": 40,
        "reader.after_save": 20,
    }
    deploy.start(ETL_FAILPOINTS=",".join(f"{name}=kill@{visit}" for name, visit in armed.items()))
    deploy.ready("shop", len(BANKS))
    with auditor(deploy) as audit, load_on(deploy.source, transfer, seed=5, prepare_threshold=None) as done:
        wait_for("all kills", lambda: audit.look() and landed(deploy) == set(armed), 120)
        os.kill(wait_for("a reader", lambda: deploy.children().get("etl-reader-shop")), signal.SIGKILL)
        before, moves = done[0], len(set(audit.seen))
        wait_for("more moves", lambda: audit.look() and len(set(audit.seen)) > moves + 4 and done[0] > before + 50)
        deploy.kill()
        audit.look()
        deploy.start()
        moves = len(set(audit.seen))
        wait_for("moves under another supervisor", lambda: audit.look() and len(set(audit.seen)) > moves + 2)
    deploy.caught_up("shop")
    deploy.same("shop", **dict.fromkeys(BANKS, ("id",)))
    assert [found[-1] for found in audit.seen] == sorted(found[-1] for found in audit.seen)
    assert deploy.stop() == 0


def status(deploy: Deployment) -> str:
    command = [sys.executable, "-m", "etl_supervisor.cli.main", "status"]
    done = subprocess.run(
        command, env=deploy.environment, cwd=deploy.folder, capture_output=True, text=True, check=True
    )
    return " ".join(done.stdout.split())


def test_a_table_that_comes_later_or_again_comes_at_the_moment_of_the_others(deploy: Deployment) -> None:
    make_banks(deploy.source)
    deploy.source.execute("drop publication p; create publication p for table north, south")
    deploy.add("shop", consistency="transaction", apply_interval_seconds_max=1)
    deploy.start()
    with load_on(deploy.source, transfer, seed=5, prepare_threshold=None):
        deploy.ready("shop", 2)
        deploy.source.execute("alter publication p add table east")
        deploy.ready("shop", 3)
        with auditor(deploy) as audit:
            audit.moves_on()
            assert all(audit.seen[-1]), "all banks are there"
            generation = deploy.states("shop")["south"].generation
            assert resync(deploy, "shop", "public.south").returncode == 0
            wait_for("a copy", lambda: audit.look() and deploy.states("shop")["south"].generation > generation)
            wait_for("the copy to be shown", lambda: audit.look() and deploy.states("shop")["south"].phase == "READY")
            audit.moves_on()
    deploy.caught_up("shop")
    deploy.same("shop", **dict.fromkeys(BANKS, ("id",)))
    assert deploy.stop() == 0


def test_a_table_that_is_stopped_stops_the_others_and_says_so(deploy: Deployment) -> None:
    make_banks(deploy.source)
    deploy.environment["ON_REWRITE"] = "hold"
    deploy.add("shop", consistency="transaction", apply_interval_seconds_max=1, landing_retention_hours=0)
    deploy.start()
    deploy.ready("shop", len(BANKS))
    with auditor(deploy) as audit, load_on(deploy.source, transfer, seed=5, prepare_threshold=None):
        audit.moves_on()
        deploy.source.execute("alter table south alter money type bigint")
        told = "it waits: table public.south is stopped: schema at pipeline shop, table public.south"
        wait_for("status to say so", lambda: audit.look() and told in status(deploy))
        assert resync(deploy, "shop", "public.south").returncode == 0
        audit.moves_on()
    deploy.caught_up("shop")
    deploy.same("shop", **dict.fromkeys(BANKS, ("id",)))
    assert deploy.stop() == 0
