"""Tables that are copied again because somebody asks for it, while everything else streams."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_local_snowflake import sql_session

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

ROWS = 3_000


def resync(deploy: Deployment, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "etl_supervisor.cli.main", "resync", *words]
    return subprocess.run(command, env=deploy.environment, cwd=deploy.folder, capture_output=True, text=True)


def target(deploy: Deployment, table: str) -> str:
    return f'"{deploy.destination.database}"."{deploy.destination.schema}"."{table.upper()}"'


def at_snowflake(deploy: Deployment, statement: str) -> list[tuple[object, ...]]:
    with sql_session(deploy.destination) as session, session.cursor() as cursor:
        return list(cursor.execute(statement).fetchall())


def prepared(deploy: Deployment) -> None:
    deploy.source.execute("create table items (id int primary key, note text)")
    deploy.source.execute("create table others (id int primary key, note text)")
    deploy.source.execute(f"insert into items select g, 'n' || g from generate_series(1, {ROWS}) g")
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop", 2)


def begun_anew(deploy: Deployment, table: str, generation: int) -> None:
    wait_for("the new generation", lambda: deploy.states("shop")[table].generation > generation)
    wait_for("the table to be ready again", lambda: deploy.states("shop")[table].phase == "READY")


@contextmanager
def counting(deploy: Deployment, table: str) -> Iterator[set[int]]:
    """How many rows readers of a target see meanwhile."""
    seen: set[int] = set()
    done = threading.Event()

    def count() -> None:
        with sql_session(deploy.destination) as session, session.cursor() as cursor:
            while not done.wait(0.02):
                (found,) = cursor.execute(f"SELECT COUNT(*) FROM {target(deploy, table)}").fetchone()
                seen.add(int(found))

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def test_a_table_is_replaced_in_one_step_while_the_others_stream(deploy: Deployment) -> None:
    prepared(deploy)
    deploy.caught_up("shop")
    at_snowflake(deploy, f"DELETE FROM {target(deploy, 'items')} WHERE ID % 3 = 0")  # by whatever accident
    at_snowflake(deploy, f"INSERT INTO {target(deploy, 'items')} (ID, NOTE) VALUES (-1, 'never was')")
    before = deploy.states("shop")
    with counting(deploy, "items") as seen:
        done = resync(deploy, "shop", "public.items")
        assert (done.returncode, done.stdout.strip()) == (
            0,
            "table public.items of pipeline shop is copied again now",
        )
        deploy.source.execute("insert into others select g, 'streamed' from generate_series(1, 50) g")
        begun_anew(deploy, "items", before["items"].generation)
    assert seen <= {ROWS - ROWS // 3 + 1, ROWS}
    deploy.caught_up("shop")
    deploy.same("shop", items=("id",), others=("id",))
    assert deploy.states("shop")["others"].generation == before["others"].generation
    assert deploy.stop() == 0


def test_a_pipeline_is_copied_again_under_load_and_loses_nothing(deploy: Deployment) -> None:
    prepared(deploy)
    generation = deploy.states("shop")["items"].generation
    done = resync(deploy, "shop")
    assert done.stdout.strip() == "every table of pipeline shop is copied again now"
    for round_ in range(20):
        deploy.source.execute(f"update items set note = 'r{round_}' where id % 20 = {round_}")
        deploy.source.execute(f"delete from items where id = {round_ * 7 + 1}")
        deploy.source.execute(f"insert into others values ({round_}, 'o')")
    begun_anew(deploy, "items", generation)
    begun_anew(deploy, "others", generation)
    deploy.caught_up("shop")
    deploy.same("shop", items=("id",), others=("id",))
    assert deploy.stop() == 0


def test_a_held_table_comes_back_by_it(deploy: Deployment) -> None:
    """However often it was held: each rewrite holds it anew."""
    deploy.environment["ON_REWRITE"] = "hold"
    prepared(deploy)
    deploy.source.execute("alter table items alter id type bigint using id * 2")
    wait_for("the table to be held", lambda: deploy.events("table_held"))
    deploy.source.execute("alter table items alter note type varchar using note || '!'")
    deploy.source.execute("insert into items values (1, 'after')")
    wait_for("it to be held again", lambda: len(deploy.events("table_held")) > 1)
    assert resync(deploy, "shop", "items").returncode == 0
    wait_for("the table to be ready again", lambda: deploy.states("shop")["items"].phase == "READY")
    deploy.caught_up("shop")
    deploy.same("shop", items=("id",))
    assert deploy.stop() == 0


def test_a_request_outlives_everything_until_it_is_carried_out(deploy: Deployment) -> None:
    prepared(deploy)
    generation = deploy.states("shop")["items"].generation
    deploy.kill()
    assert resync(deploy, "shop", "items").returncode == 0
    deploy.source.execute("delete from items where id < 100")
    deploy.start()
    begun_anew(deploy, "items", generation)
    deploy.caught_up("shop")
    deploy.same("shop", items=("id",))
    generation = deploy.states("shop")["items"].generation
    deploy.stop()
    deploy.start()
    wait_for("the third reader", lambda: deploy.log.count('"reader_started"') == 3)
    deploy.source.execute("insert into others values (-1, 'later')")
    deploy.caught_up("shop")
    assert deploy.states("shop")["items"].generation == generation
    assert deploy.stop() == 0


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("ship",), "config at pipeline ship: there is no pipeline of this name (see `status`)"),
        (("shop", "itms"), "config at pipeline shop: it has no table itms (see `status` for the tables it has)"),
    ],
)
def test_what_is_not_known_is_one_line(deploy: Deployment, words: tuple[str, ...], line: str) -> None:
    deploy.add("shop")
    done = resync(deploy, *words)
    assert (done.returncode, done.stderr.strip()) == (78, f"etl-supervisor: {line}")
