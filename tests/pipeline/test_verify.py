"""`verify`: source and target at one LSN, while the pipeline runs."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import pytest

from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_local_snowflake import sql_session

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ROWS = 3_000
EQUAL, DIFFERENT = 0, 1


def verify(deploy: Deployment, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "etl_supervisor.cli.main", "verify", *words]
    return subprocess.run(command, env=deploy.environment, cwd=deploy.folder, capture_output=True, text=True)


def verdicts(deploy: Deployment, *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = verify(deploy, *words, "--json")
    assert done.stderr == ""
    found = [orjson.loads(line) for line in done.stdout.splitlines()]
    return done.returncode, {item["table"].removeprefix("public."): item for item in found}


def at_target(deploy: Deployment, statement: str) -> None:
    schema = f'"{deploy.destination.database}"."{deploy.destination.schema}"'
    with sql_session(deploy.destination) as session, session.cursor() as cursor:
        cursor.execute(statement.format(schema=schema))


def started(deploy: Deployment, tables: int, **changes: Any) -> None:
    deploy.source.execute("create publication p for all tables")
    deploy.add("shop", **changes)
    deploy.start()
    deploy.ready("shop", tables)
    deploy.caught_up("shop")


@contextmanager
def working(deploy: Deployment) -> Iterator[None]:
    """Inserts, updates, deletes and key changes meanwhile, several rows a transaction."""
    ended = threading.Event()

    def work() -> None:
        turn = 0
        while not ended.wait(0.01):
            turn += 1
            deploy.source.execute(
                f"update items set note = 'r{turn}' where id % 50 = {turn % 50};"
                f"insert into items values ({ROWS + turn}, 'new');"
                f"delete from items where id = {turn};"
                f"update items set id = -{turn} where id = {ROWS + turn - 5}"
            )

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def items(deploy: Deployment) -> None:
    deploy.source.execute("create table items (id int primary key, note text)")
    deploy.source.execute(f"insert into items select g, 'n' || g from generate_series(1, {ROWS}) g")


def test_a_row_that_was_changed_deleted_or_added_in_the_target_is_found_and_named(deploy: Deployment) -> None:
    items(deploy)
    started(deploy, 1)
    code, found = verdicts(deploy, "shop")
    assert (code, found["items"]["equal"], found["items"]["source_rows"]) == (EQUAL, True, ROWS)
    at_target(deploy, "UPDATE {schema}.ITEMS SET NOTE = 'changed' WHERE ID = 7")
    at_target(deploy, "DELETE FROM {schema}.ITEMS WHERE ID IN (11, 12)")
    at_target(deploy, "INSERT INTO {schema}.ITEMS (ID, NOTE) VALUES (-1, NULL)")
    code, found = verdicts(deploy, "shop", "--table", "items")
    seen = found["items"]
    assert (code, seen["different_keys"], seen["missing_keys"], seen["extra_keys"]) == (
        DIFFERENT,
        [["7"]],
        [["11"], ["12"]],
        [["-1"]],
    )
    assert (seen["different"], seen["missing"], seen["extra"]) == (1, 2, 1)
    generation = deploy.states("shop")["items"].generation
    done = verify(deploy, "shop", "--repair")
    assert done.returncode == DIFFERENT
    assert "2 missing, 1 extra, 1 different of 3,000 rows" in done.stdout
    wait_for("the new generation", lambda: deploy.states("shop")["items"].generation > generation)
    deploy.ready("shop", 1)
    assert verify(deploy, "shop").returncode == EQUAL
    assert "changed" not in deploy.log
    assert deploy.stop() == 0


def test_a_workload_raises_no_false_alarm(deploy: Deployment) -> None:
    items(deploy)
    started(deploy, 1)
    with working(deploy):
        for _ in range(20):
            done = verify(deploy, "shop")
            assert done.returncode == EQUAL, done.stdout + done.stderr
    assert deploy.stop() == 0
