"""Many tables, few of them with rows: channels are opened by rows and closed when they are idle."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest

from etl_supervisor.model.table_state import Phase
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_local_snowflake import sql_session
from workers.snowflake.identifiers import Objects
from workers.snowflake.streaming import StreamingChannel, StreamingClient

log = logging.getLogger(__name__)

TABLES, BUSY = 8, 3
MANY, SPREAD = int(os.environ.get("ETL_MANY_TABLES", "200")), 20  # the local Snowflake makes about one table a second
ACTOR_MB_MAX = 250
EMPTY, EMPTY_SECONDS_MAX = 60, 200.0  # a few seconds on a machine that has nothing else to do


def make_tables(deploy: Deployment, tables: int, busy: int) -> None:
    """`t<n>`, of which the first `busy` have a row."""
    step = 500  # locks of one transaction
    for start in range(0, tables, step):
        deploy.source.execute(
            f"do $$ begin for n in {start}..{min(start + step, tables) - 1} loop"
            " execute format('create table t%s (id int primary key, v text)', n); end loop; end $$"
        )
    touch(deploy, busy, 0)
    deploy.source.execute("create publication p for all tables")


def touch(deploy: Deployment, busy: int, number: int) -> None:
    """A row for each of the first `busy` tables, in one transaction."""
    rows = "; ".join(f"insert into t{table} values ({number}, 'v')" for table in range(busy))
    deploy.source.execute(rows)


def channels_of(deploy: Deployment) -> list[str]:
    """The streams' channels that Snowflake has."""
    found = deploy.server.state()["channels"]
    return [name for name in map(str, found) if deploy.destination.database in name and "-copy-" not in name]


def actor_bytes(deploy: Deployment) -> dict[str, int]:
    """Anonymous memory in use by each actor."""
    found = {}
    for name, pid in deploy.children().items():
        if name.startswith("etl-actor"):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            found[name] = next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))
    return found


def test_channels_are_opened_by_rows_and_closed_when_idle(deploy: Deployment) -> None:
    make_tables(deploy, TABLES, BUSY)
    deploy.add("shop")
    deploy.start(SNOWFLAKE_CHANNEL_IDLE_SECONDS="2", SNOWFLAKE_CHANNELS_MAX="1")
    deploy.ready("shop", TABLES)
    assert channels_of(deploy) == [], "a first copy does not open the stream's channel"
    for number in (1, 2, 3):
        touch(deploy, BUSY, number)
        deploy.caught_up("shop")
        assert len(channels_of(deploy)) == BUSY
        rested = number * BUSY
        wait_for("idle channels to be closed", lambda n=rested: deploy.log.count('"event":"channel_rests"') >= n)  # type: ignore[misc]
    deploy.same("shop", **{f"t{table}": ("id",) for table in range(BUSY)})
    assert deploy.stop() == 0


@pytest.mark.timeout(300)
def test_empty_tables_are_ready_soon_and_kept_in_snowflake(deploy: Deployment) -> None:
    make_tables(deploy, EMPTY, 0)
    deploy.add("shop")
    deploy.start()
    started = time.monotonic()
    wait_for("tables to be known", lambda: len(deploy.states("shop")) == EMPTY, EMPTY_SECONDS_MAX)
    wait_for(
        "tables to be READY",
        lambda: {state.phase for state in deploy.states("shop").values()} == {Phase.READY},
        EMPTY_SECONDS_MAX,
    )
    log.info("%d empty tables READY: %.1f s", EMPTY, time.monotonic() - started)
    assert deploy.log.count('"event":"copy_started"') < EMPTY / 5, "small tables share a copy worker"
    wait_for("states to be kept in Snowflake", lambda: all(state.kept for state in deploy.states("shop").values()))
    with sql_session(deploy.destination) as session:
        states = f'"{deploy.destination.database}"."{deploy.destination.landing_schema.upper()}"."_ETL_STATE"'
        assert session.cursor().execute(f"SELECT COUNT(*) FROM {states}").fetchone() == (EMPTY,)
    assert deploy.stop() == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thousands_of_tables_open_no_more_channels_than_have_rows(deploy: Deployment) -> None:
    """Run with --log-cli-level=INFO to see the figures."""
    make_tables(deploy, MANY, SPREAD)
    deploy.add("shop", max_table_sync_workers=2)
    started = time.monotonic()
    deploy.start(SNOWFLAKE_ACTOR_POOL_SIZE="4")
    wait_for("all tables", lambda: len(deploy.states("shop")) == MANY, 600)
    wait_for("READY", lambda: {str(state.phase) for state in deploy.states("shop").values()} == {"READY"}, 3000)
    log.info("READY after %.0f s", time.monotonic() - started)
    touch(deploy, SPREAD, 1)
    deploy.caught_up("shop")
    used = actor_bytes(deploy)
    log.info("actors: %s MB", [size >> 20 for size in used.values()])
    assert len(channels_of(deploy)) == SPREAD
    assert max(used.values()) < ACTOR_MB_MAX << 20
    assert deploy.stop() == 0


def test_rows_that_come_again_to_a_channel_that_snowflake_forgot_are_not_doubled(deploy: Deployment) -> None:
    """As after a month in which another table held the slot."""
    deploy.source.execute("create table t0 (id int primary key, v text); create table stuck (id int primary key)")
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop", 2)
    deploy.server.set(faults=[{"path": "STUCK.*/rows$", "count": 1_000_000, "status": 503}])
    deploy.source.execute("insert into stuck values (1)")
    for number in range(10):
        deploy.source.execute("insert into t0 values (%s, 'v')", number)
    landing = Objects(deploy.destination.database, "PUBLIC", deploy.destination.landing_schema, "T0", "LANDING_T0")
    with sql_session(deploy.destination) as session, session.cursor() as cursor:
        count = f"SELECT COUNT(*) FROM {landing.landing_sql}"
        wait_for("the rows to be landed", lambda: cursor.execute(count).fetchone()[0] == 10)
    assert deploy.confirmed("shop") < deploy.written("shop"), "the other table holds the slot"
    deploy.kill()
    (name,) = [channel.split("|")[3] for channel in channels_of(deploy) if "LANDING_T0" in channel]
    client = StreamingClient(deploy.destination, landing, "forgetting", lambda secret: "", Path())
    StreamingChannel(client, name).close(flush=False, drop=True)
    deploy.server.set(faults=[])
    deploy.source.execute("insert into t0 values (10, 'v')")
    deploy.start()
    deploy.caught_up("shop")
    deploy.same("shop", t0=("id",), stuck=("id",))
    assert '"committed":null' not in deploy.log.rpartition('"event":"supervisor_started"')[2]
    assert deploy.stop() == 0


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_channel_that_can_not_be_opened_is_tried_again_at_growing_distances(deploy: Deployment) -> None:
    make_tables(deploy, 2, 0)
    deploy.add("shop", table_error_retry_max_attempts=1)
    deploy.start()
    deploy.ready("shop", 2)
    deploy.server.set(faults=[{"path": "T0.*/channels/", "count": 1_000_000, "status": 503}])
    touch(deploy, 2, 1)
    wait_for("an end of the tries", lambda: '"kind":"destination_unreachable"' in deploy.log, 90)
    wait_for("the other table", lambda: "LANDING_T1" in "".join(channels_of(deploy)))
    deploy.server.set(faults=[])
    deploy.caught_up("shop")
    deploy.same("shop", t0=("id",), t1=("id",))
    assert deploy.stop() == 0
