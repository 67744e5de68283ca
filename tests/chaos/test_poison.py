"""A row that kills every actor that it comes to is found, and goes to the dead letter; everything else is loaded."""

from __future__ import annotations

import os
import signal

import pytest

from etl_supervisor.exits import Exit
from etl_supervisor.supervision.shortage import kills
from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_local_snowflake import sql_session
from tests.support.small_machine import small_machine, within

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

POISON = "row of doom"
MEGABYTES = 1000  # for the supervisor and its children, which need 400
FOUND_SECONDS_MAX = 150.0


def dead(deploy: Deployment) -> list[tuple[str, str]]:
    there = deploy.destination
    table = f'"{there.database}"."{there.landing_schema}"._ETL_DEAD_LETTER'
    with sql_session(there) as session, session.cursor() as cursor:
        return [
            tuple(row)
            for row in cursor.execute(f"SELECT ROW_KEY, REASON FROM {table} WHERE PART = 0 ORDER BY ROW_KEY").fetchall()
        ]


def values(deploy: Deployment, table: str) -> list[int]:
    there = deploy.destination
    with sql_session(there) as session, session.cursor() as cursor:
        found = cursor.execute(f'SELECT ID FROM "{there.database}"."{there.schema}".{table} ORDER BY ID').fetchall()
        return [int(number) for (number,) in found]


def landed(deploy: Deployment, table: str) -> list[int]:
    """Every row of the change log, also one that is there twice."""
    there = deploy.destination
    with sql_session(there) as session, session.cursor() as cursor:
        landing = f'"{there.database}"."{there.landing_schema}"."LANDING_{table}"'
        return [int(row[0]) for row in cursor.execute(f"SELECT ID FROM {landing} ORDER BY 1").fetchall()]


def test_a_row_that_kills_its_actors_is_found_among_the_others(deploy: Deployment) -> None:
    deploy.source.execute("create table items (id int primary key, note text)")
    deploy.source.execute("create table other (id int primary key, note text)")
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop", batch_max_size=200, table_error_retry_max_attempts=50)
    deploy.start(ETL_FAILPOINTS=f"poison.encode=poison:{POISON}", SNOWFLAKE_ACTOR_POOL_SIZE="1")
    deploy.ready("shop", 2)
    deploy.source.execute(
        f"insert into items select g, case g when 11 then '{POISON}' else 'n' || g end from generate_series(1, 16) g"
    )
    deploy.source.execute("insert into other select g, 'o' from generate_series(1, 50) g")
    wait_for("the row to be in the dead letter", lambda: "row_kills_actors" in deploy.log, FOUND_SECONDS_MAX)
    deploy.source.execute("insert into items values (100, 'after'), (101, 'it')")
    deploy.caught_up("shop")
    assert dead(deploy) == [('{"id":11}', "alone it has killed every actor that it came to")]
    assert values(deploy, "ITEMS") == [*range(1, 11), *range(12, 17), 100, 101]
    assert values(deploy, "OTHER") == list(range(1, 51))
    assert "trial_ended" in deploy.log
    assert deploy.stop() == 0


@pytest.mark.parametrize("place", ["encode", "upload"])
@pytest.mark.parametrize("path", ["snowpipe", "copy"])
def test_a_row_that_kills_on_its_way_into_a_file_is_found_and_no_row_is_in_two_files(
    deploy: Deployment, path: str, place: str
) -> None:
    """Killed while it is written nothing is planned; while it is uploaded a file is planned with it, and is made again without it."""
    for table in ("items", "other"):
        deploy.source.execute(f"create table {table} (id int primary key, note text)")
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop", load_path=path, file_max_age_seconds=1, batch_max_size=5, table_error_retry_max_attempts=50)
    deploy.start(ETL_FAILPOINTS=f"poison.{place}=poison:{POISON}", SNOWFLAKE_ACTOR_POOL_SIZE="1")
    deploy.ready("shop", 2)
    deploy.source.execute(
        f"insert into items select g, case g when 11 then '{POISON}' else 'n' || g end from generate_series(1, 16) g"
    )
    deploy.source.execute("insert into other select g, 'o' from generate_series(1, 50) g")
    wait_for("the row to be found", lambda: deploy.events("row_kills_actors"), FOUND_SECONDS_MAX)
    deploy.source.execute("insert into items values (100, 'after'), (101, 'it')")
    deploy.caught_up("shop")
    assert dead(deploy) == [('{"id":11}', "alone it has killed every actor that it came to")]
    assert landed(deploy, "ITEMS") == values(deploy, "ITEMS") == [*range(1, 11), *range(12, 17), 100, 101]
    assert landed(deploy, "OTHER") == values(deploy, "OTHER") == list(range(1, 51))
    assert deploy.stop() == 0


def found_among_large_rows(deploy: Deployment) -> None:
    """The third of four rows of a megabyte, each a segment of its own, is poison; the others are loaded."""
    deploy.ready("shop", 1)
    deploy.source.execute(
        f"insert into items select g, case g when 3 then '{POISON}' else 'n' || g end, repeat('x', 1100000)"
        " from generate_series(1, 4) g"
    )
    wait_for("the row to be found", lambda: deploy.events("row_kills_actors"), FOUND_SECONDS_MAX)
    deploy.caught_up("shop")
    assert [key for key, _ in dead(deploy)] == ['{"id":3}']
    assert landed(deploy, "ITEMS") == values(deploy, "ITEMS") == [1, 2, 4]


@pytest.mark.parametrize("path", ["streaming", "copy"])
def test_a_row_for_which_there_is_not_enough_memory_is_found_too(deploy: Deployment, path: str) -> None:
    deploy.source.execute("create table items (id int primary key, note text, large text)")
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop", load_path=path, file_max_age_seconds=1, table_error_retry_max_attempts=50)
    deploy.start(ETL_FAILPOINTS=f"poison.encode=hoard:{POISON}", SNOWFLAKE_ACTOR_POOL_SIZE="1")
    found_among_large_rows(deploy)
    assert {line["code"] for line in deploy.events("child_ended") if line["child"] == "actor-0"} == {int(Exit.MEMORY)}
    assert deploy.stop() == 0


def test_a_row_for_which_the_kernel_kills_is_found_too(deploy: Deployment) -> None:
    deploy.source.execute("create table items (id int primary key, note text, large text)")
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop", table_error_retry_max_attempts=50)
    with small_machine(MEGABYTES) as group:
        with within(group):
            deploy.start(ETL_FAILPOINTS=f"poison.encode=fill:{POISON}", SNOWFLAKE_ACTOR_POOL_SIZE="1")
        found_among_large_rows(deploy)
        ended = [line["code"] for line in deploy.events("child_ended") if line["child"] == "actor-0"]
        assert set(ended) == {-signal.SIGKILL}
        assert kills(group / "memory.oom_control") == len(ended)
        assert deploy.stop() == 0


def test_a_row_of_the_first_copy_that_kills_is_found_too(deploy: Deployment) -> None:
    deploy.source.execute("create table items (id int primary key, note text)")
    deploy.source.execute(
        f"insert into items select g, case g when 3 then '{POISON}' else 'n' || g end from generate_series(1, 8) g"
    )
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop", table_error_retry_max_attempts=50)
    deploy.start(ETL_FAILPOINTS=f"poison.encode=poison:{POISON}", SNOWFLAKE_ACTOR_POOL_SIZE="1")
    wait_for("the row to be in the dead letter", lambda: deploy.events("row_kills_actors"), FOUND_SECONDS_MAX)
    deploy.ready("shop", 1)
    deploy.caught_up("shop")
    assert [key for key, _ in dead(deploy)] == ['{"id":3}']
    assert values(deploy, "ITEMS") == [1, 2, 4, 5, 6, 7, 8]
    assert len(deploy.copied) == 1, "the copy goes on"
    assert deploy.stop() == 0


@pytest.mark.parametrize("path", ["streaming", "copy"])
def test_a_kill_from_outside_puts_no_table_on_trial(deploy: Deployment, path: str) -> None:
    deploy.source.execute("create table items (id int primary key, note text)")
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop", load_path=path, file_max_age_seconds=0.5)
    deploy.start(SNOWFLAKE_ACTOR_POOL_SIZE="1")
    deploy.ready("shop", 1)
    deploy.server.set(commit_delay_s=2.0)
    for number in range(3):
        deploy.source.execute(f"insert into items select g, 'n' from generate_series({number}00, {number}50) g")
        victim = deploy.children()["etl-actor-0"]
        os.kill(victim, signal.SIGKILL)
        wait_for("another actor", lambda v=victim: deploy.children().get("etl-actor-0", v) != v)  # type: ignore[misc]
    deploy.server.set(commit_delay_s=0)
    deploy.caught_up("shop")
    deploy.same("shop", items=("id",))
    assert "table_on_trial" not in deploy.log
    assert deploy.stop() == 0
