"""Rows that can't be loaded: the others arrive, the position moves on, the dead letter has every one of them."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import Any

import orjson
import pytest

from tests.support.fix_deployment import Deployment, wait_for
from tests.support.fix_local_snowflake import sql_session

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

MB = 1 << 20


def dead(deploy: Deployment) -> list[dict[str, Any]]:
    """The heads of the dead letter, in order of position."""
    schema = f'"{deploy.destination.database}"."{deploy.destination.landing_schema}"'
    with sql_session(deploy.destination) as session, session.cursor() as cursor:
        cursor.execute(
            f"SELECT OP, ROW_KEY, REASON, COLUMN_NAME, BYTES, LEFT_OUT, PAYLOAD FROM {schema}._ETL_DEAD_LETTER"
            " WHERE PART = 0 ORDER BY COMMIT_LSN, LSN, ORDINAL"
        )
        titles = [item[0] for item in cursor.description]
        return [dict(zip(titles, row, strict=True)) for row in cursor.fetchall()]


def target_ids(deploy: Deployment) -> list[int]:
    with sql_session(deploy.destination) as session, session.cursor() as cursor:
        cursor.execute(
            f'SELECT ID FROM "{deploy.destination.database}"."{deploy.destination.schema}"."ITEMS" ORDER BY ID'
        )
        return [int(row[0]) for row in cursor.fetchall()]


def test_values_beyond_snowflakes_limits_go_to_the_dead_letter_and_all_else_arrives(deploy: Deployment) -> None:
    database = deploy.source
    database.execute("create table items (id int primary key, note text, image bytea)")
    database.execute("insert into items select g, 'n' || g from generate_series(1, 10) g")
    database.execute(f"insert into items values (11, repeat('c', {17 * MB}))")
    database.execute("create publication p for all tables")
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop")
    database.execute(
        f"insert into items values (12, repeat('x', {20 * MB})), (13, 'good'), (14, repeat('y', {15 * MB}))"
    )
    database.execute(f"insert into items values (15, 'image', convert_to(repeat('z', {9 * MB}), 'UTF8'))")
    deploy.caught_up("shop")
    assert target_ids(deploy) == [*range(1, 11), 13, 14]
    found = dead(deploy)
    assert [(row["OP"], row["ROW_KEY"], row["COLUMN_NAME"]) for row in found] == [
        ("R", '{"id":11}', "note"),
        ("I", '{"id":12}', "note"),
        ("I", '{"id":15}', "image"),
    ]
    assert found[1]["BYTES"] == 20 * MB
    digest = hashlib.sha256(b"x" * 20 * MB).hexdigest()
    assert orjson.loads(found[1]["LEFT_OUT"]) == {"note": {"bytes": 20 * MB, "sha256": digest}}
    assert orjson.loads(found[2]["PAYLOAD"])["NOTE"] == "image"
    assert deploy.states("shop")["items"].dead == 3
    assert deploy.log.count('"event":"row_dead_lettered"') == 3
    assert "xxxx" not in deploy.log
    assert deploy.stop() == 0


def test_rows_that_snowflake_refuses_go_to_the_dead_letter_and_the_table_goes_on(deploy: Deployment) -> None:
    database = deploy.source
    database.execute("create table items (id int primary key, note text)")
    database.execute(
        "insert into items select g, case when g % 10 = 0 then 'bad' else 'n' end from generate_series(1, 50) g"
    )
    database.execute("create publication p for all tables")
    deploy.server.set(reject=[{"table": "LANDING_ITEMS", "column": "NOTE", "like": "bad%"}])
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop")
    for start in (100, 200, 300):
        database.execute(
            f"insert into items select g, case when g % 50 = 7 then 'bad' else 'n' end from generate_series({start}, {start + 99}) g"
        )
    deploy.caught_up("shop")
    refused = {10, 20, 30, 40, 50, 107, 157, 207, 257, 307, 357}
    assert set(target_ids(deploy)) == {*range(1, 51), *range(100, 400)} - refused
    assert {orjson.loads(row["ROW_KEY"])["id"] for row in dead(deploy)} == refused
    wait_for("the baseline", lambda: deploy.states("shop")["items"].errors == 6)
    assert deploy.stop() == 0
    assert "table_stopped" not in deploy.log


def cli(deploy: Deployment, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "etl_supervisor.cli.main", "dead-letter", *words],
        env={**deploy.environment, "COLUMNS": "250"},
        cwd=deploy.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout + done.stderr


def status(deploy: Deployment) -> str:
    command = [sys.executable, "-m", "etl_supervisor.cli.main", "status"]
    environment = {**deploy.environment, "COLUMNS": "250"}
    return subprocess.run(
        command, env=environment, cwd=deploy.folder, capture_output=True, text=True, check=True
    ).stdout


def test_refused_rows_are_replayed_to_their_place_when_the_cause_is_gone(deploy: Deployment) -> None:
    database = deploy.source
    database.execute(
        "create table items (id int primary key, note text, big text, doc jsonb, image bytea, at timestamptz)"
    )
    database.execute("alter table items alter big set storage external")
    values = '\'{"a": [1, "é\\""]}\', \'\\x00ff\', now()'
    database.execute(f"insert into items select g, 'n', repeat('b', 3000), {values} from generate_series(1, 9) g")
    database.execute("create publication p for all tables")
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop")
    assert "no row is in the dead letter" in cli(deploy, "list")
    deploy.server.set(reject=[{"table": "LANDING_ITEMS", "column": "NOTE", "like": "bad%"}])
    database.execute(f"insert into items values (20, 'bad', repeat('c', 3000), {values})")  # never changed again
    database.execute(f"insert into items values (21, 'bad', repeat('d', 3000), {values})")
    database.execute("update items set note = 'later, big is not sent' where id = 21")
    database.execute(f"insert into items values (22, 'bad', repeat('e', 3000), {values})")
    database.execute("delete from items where id = 22")
    database.execute("update items set note = 'bad', big = repeat('f', 3000) where id = 1")
    database.execute("update items set note = 'good again' where id = 1")
    deploy.caught_up("shop")
    listed = [orjson.loads(line) for line in cli(deploy, "list", "--pipeline", "shop", "--json").splitlines()]
    assert [orjson.loads(row["row_key"])["id"] for row in listed] == [20, 21, 22, 1]
    assert "dead letter: 4 of pipeline shop, table public.items" in status(deploy)
    assert "Snowflake refuses the row" in cli(deploy, "list")
    deploy.server.set(reject=[])
    assert cli(deploy, "replay", "shop", "--id", listed[0]["id"]) == f"{listed[0]['id']}  replayed\n"
    assert cli(deploy, "replay", "shop").count("replayed") == 3
    deploy.caught_up("shop")
    deploy.same("shop", items=("id",))
    deploy.server.set(reject=[{"table": "LANDING_ITEMS", "column": "NOTE", "like": "bad%"}])
    database.execute(f"insert into items values (30, 'bad', repeat('g', 3000), {values})")
    database.execute("update items set id = 31, note = 'moved, big is not sent' where id = 30")
    deploy.caught_up("shop")
    deploy.server.set(reject=[])
    assert "replayed" in cli(deploy, "replay", "shop")
    deploy.same("shop", items=("id",))
    assert "no row is in the dead letter" in cli(deploy, "list")
    assert "dead letter" not in status(deploy)
    assert deploy.stop() == 0


def test_dropped_rows_are_forgotten_and_wrong_words_are_one_clear_line(deploy: Deployment) -> None:
    database = deploy.source
    database.execute("create table items (id int primary key, note text)")
    database.execute("insert into items values (1, 'bad'), (2, 'n'), (3, 'bad')")
    database.execute("create publication p for all tables")
    deploy.server.set(reject=[{"table": "LANDING_ITEMS", "column": "NOTE", "like": "bad%"}])
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop")
    first, second = (orjson.loads(line)["id"] for line in cli(deploy, "list", "--json").splitlines())
    assert "there is no pipeline of this name" in cli(deploy, "drop", "nowhere", "--all", code=78)
    assert "no dead row has the id x" in cli(deploy, "drop", "shop", "--id", "x", code=78)
    assert "give --id, --table or --all" in cli(deploy, "drop", "shop", code=2)
    assert "no dead row is of table public.x" in cli(deploy, "drop", "shop", "--table", "public.x", code=78)
    assert "1 dropped" in cli(deploy, "drop", "shop", "--id", first)
    assert second in cli(deploy, "list")
    assert "1 dropped" in cli(deploy, "drop", "shop", "--table", "public.items")
    assert "0 dropped" in cli(deploy, "drop", "shop", "--all")
    assert "no row is in the dead letter" in cli(deploy, "list")
    assert deploy.stop() == 0


def test_values_of_hundreds_of_megabytes_pass_or_are_kept_by_their_digest(deploy: Deployment) -> None:
    database = deploy.source
    database.execute("create table items (id int primary key, note text, doc jsonb)")
    database.execute("create publication p for all tables")
    deploy.add("shop")
    deploy.start()
    deploy.ready("shop")
    database.execute(f"insert into items values (1, 'good'), (2, repeat('x', {300 * MB})), (3, 'good')")
    deploy.caught_up("shop")
    database.execute(f"insert into items values (4, 'passes', to_jsonb(repeat('d', {40 * MB})))")
    deploy.caught_up("shop")
    database.execute(f"insert into items values (5, 'refused', to_jsonb(repeat('d', {100 * MB}))), (6, 'good', '1')")
    deploy.caught_up("shop")
    assert target_ids(deploy) == [1, 3, 4, 6]
    found = dead(deploy)
    assert [(row["ROW_KEY"], orjson.loads(row["LEFT_OUT"])) for row in found] == [
        ('{"id":2}', {"note": {"bytes": 300 * MB, "sha256": hashlib.sha256(b"x" * 300 * MB).hexdigest()}}),
        (
            '{"id":5}',
            {"doc": {"bytes": 100 * MB + 2, "sha256": hashlib.sha256(b'"%s"' % (b"d" * 100 * MB)).hexdigest()}},
        ),
    ]
    assert found[1]["REASON"].startswith("Snowflake refuses the row")
    assert deploy.stop() == 0
