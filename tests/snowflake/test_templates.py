"""Statements that differ in names and literals only are translated once: to the same SQL, with the same notes, as each by itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakesnow.instance import FakeSnow

from etl_supervisor.embedded.snowflake import statements, templates
from etl_supervisor.embedded.snowflake.gaps import close_gaps
from etl_supervisor.embedded.snowflake.templates import TEMPLATES, Templates, translated
from etl_supervisor.model.table import TableName
from tests.snowflake.test_passes import DESTINATION, STATEMENTS
from tests.support.histories import TABLE, opening
from workers.snowflake import apply, fresh, live
from workers.snowflake.identifiers import objects_of
from workers.snowflake.owner import Row as WatermarkRow
from workers.snowflake.owner import entry

NAMES = (
    "THINGS",
    "OTHERS",
    "lower case",
    "VALUE",
    "T",
    "K",
    "it's",
    "S",
    "INFORMATION_SCHEMA",
    "Größe",
    "DAY",
    "x.y",
    "DUAL",
)
VALUES = ("things", "others", "it''s", "", "2020-01-01", "123", "day", "%x%", '"q"', "a\\\\b", "1.5", "NULL")


@pytest.fixture
def cursor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    close_gaps()
    monkeypatch.setattr(TEMPLATES, "on", False)
    return FakeSnow(db_path=tmp_path).connect("ANALYTICS", "PUBLIC").cursor()


def of_table(name: str, number: int) -> list[str]:
    """What is said for a new table and its first windows."""
    table = replace(TABLE, name=TableName("public", name), oid=TABLE.oid + number)
    made = opening(DESTINATION, table, generation=1_700_000_000 + number)
    objects = objects_of(DESTINATION, table)
    found = apply.Survey(5, 0, moves=False, partial=False, unchanged={})
    told = [
        fresh.create_landing(table, objects, f"Changes of {name}"),
        fresh.create_target(made, objects, f"Rows of {name}"),
        live.view(made, objects),
        entry(made, objects, WatermarkRow("shape", "since", "policy", "digest")),
        *(text for text in apply.moves(made, 5000 + number, 9000 + number, found, first=False) if text[:3] != "LET"),
    ]
    return [statements.rewritten(text) for text in told]


def test_every_table_is_translated_as_by_itself(cursor: Any) -> None:
    ones = Templates()
    for number, name in enumerate([f"t_{number}" for number in range(4)] + list(NAMES)):
        before = ones.used
        for sql in of_table(name.replace("'", "_"), number):
            told = ones.translation(sql, lambda text: translated(cursor, text))
            assert told is None or told == translated(cursor, sql), sql
        assert (ones.used - before > 3) == (
            number > 1 and name not in ("T", "K", "S", "VALUE", "DUAL", "INFORMATION_SCHEMA")
        ), name


@pytest.mark.parametrize("sql", STATEMENTS)
def test_a_template_says_what_all_passes_say(cursor: Any, sql: str) -> None:
    """With every name and every string of a statement in turn as another one."""
    ones = Templates()
    qualified = re.sub(r"(FROM|JOIN|INTO|TABLE|VIEW|UPDATE) ([tuv])\b", r'\1 "ANALYTICS"."PUBLIC"."\2\2" \2', sql)
    for text in (sql, qualified):
        for other in (text, *_variants(text)):
            told = ones.translation(other, lambda text: translated(cursor, text))
            if told is not None:
                assert told == translated(cursor, other), other


def _variants(sql: str) -> Iterator[str]:
    for old in sorted(set(re.findall(r'"[^"]+"', sql))):
        yield from (sql.replace(old, f'"{name}"') for name in NAMES)
    for old in sorted(set(re.findall(r"'[^']*'", sql))):
        yield from (sql.replace(old, f"'{value}'") for value in VALUES)
    for old in ("5000", "123456789012345678"):
        yield re.sub(r"\b\d+\b", old, sql)


@pytest.mark.parametrize(
    "shape",
    [
        'SELECT TO_TIMESTAMP(\'{}\') FROM "A"."B"."C"',
        'SELECT DATEADD(\'{}\', 1, x) FROM "A"."B"."C"',
        'SELECT SUM(IFF(x = \'{}\', 1, 0)) FROM "A"."B"."C"',
        'SELECT \'{}\'::DATE FROM "A"."B"."C"',
        'SELECT PARSE_JSON(x):"{}" FROM "A"."B"."C"',
        'SELECT (\'{}\')::TIMESTAMP_TZ FROM "A"."B"."C"',
        'SELECT (IFF(a = b, \'{}\', 1))::DATE FROM "A"."B"."C" WHERE d = (1)',
        'SELECT IFF(a = b, \'{}\', 1)::DATE FROM "A"."B"."C"',
        "SELECT x FROM t WHERE y = '{}'",
        'CREATE TABLE "A"."B"."{}" CLONE "A"."B"."C"',
        "SHOW TABLES LIKE '{}'",
        'DESCRIBE TABLE "A"."B"."{}"',
        'USE SCHEMA "A"."{}"',
    ],
)
def test_what_may_depend_on_a_name_or_a_value_has_no_template(cursor: Any, shape: str) -> None:
    """A slot elsewhere in the statement may be filled; this one is translated each time."""
    ones = Templates()
    for value in ("year", "month", "INFORMATION_SCHEMA", "day"):
        for _ in range(2):
            assert ones.translation(shape.format(value), lambda text: translated(cursor, text)) is None


def test_a_name_that_a_pass_looks_for_is_translated_by_itself(cursor: Any) -> None:
    ones = Templates()
    told = [
        ones.translation(f'SELECT * FROM "A"."{name}"."TABLES"', lambda text: translated(cursor, text))
        for name in ("X", "Y", "Z", "INFORMATION_SCHEMA", "Z")
    ]
    assert [item and item.sql for item in told] == [None, None, *(['SELECT * FROM "A"."Z"."TABLES"', None] * 2)][:5]


@pytest.mark.filterwarnings("ignore:Arrow output")
def test_with_templates_or_without_the_same_is_in_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    close_gaps()
    found = []
    for on in (True, False):
        monkeypatch.setattr(templates, "TEMPLATES", Templates())
        templates.TEMPLATES.on = on
        folder = tmp_path / str(on)
        folder.mkdir()
        cursor = FakeSnow(db_path=folder).connect("ANALYTICS", "PUBLIC").cursor()
        told: list[Any] = []
        for number in range(5):
            name = f'"ANALYTICS"."PUBLIC"."N{number}"'
            for sql in (
                f"CREATE TABLE {name} (A NUMBER(10,0), B VARCHAR(20), C VARCHAR) COMMENT = 'of {number}'",
                f"CREATE TABLE IF NOT EXISTS {name} (A NUMBER(10,0), B VARCHAR(20), C VARCHAR) COMMENT = 'twice {number}'",
                f"INSERT INTO {name} (A, B) SELECT {10_000 + number} AS A, 'text {number}' AS B",
                f"UPDATE {name} SET B = 'new {number}' WHERE A = {10_000 + number}",
                f"SELECT * FROM {name} WHERE B = 'new {number}'",
                f'CREATE VIEW "ANALYTICS"."PUBLIC"."V{number}" AS SELECT A FROM {name} WHERE B = \'new {number}\'',
                f"DELETE FROM {name} WHERE A = {20_000 + number}",
            ):
                cursor.execute(sql, server=True)
                told.append((cursor.fetchall(), cursor.rowcount, cursor._describe_last_sql()))
        beside = "SELECT * FROM _fs_global._fs_information_schema.{} ORDER BY ALL"
        told += [
            cursor._duck_conn.execute(beside.format(table)).fetchall()
            for table in ("_fs_tables_ext", "_fs_columns_ext")
        ]
        told += [cursor._duck_conn.execute("SELECT sql FROM duckdb_views() WHERE NOT internal ORDER BY 1").fetchall()]
        assert (templates.TEMPLATES.used > 15) == on
        found.append(told)
    assert found[0] == found[1]


def test_an_error_of_a_template_is_that_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    close_gaps()
    monkeypatch.setattr(templates, "TEMPLATES", Templates())
    cursor = FakeSnow(db_path=tmp_path).connect("ANALYTICS", "PUBLIC").cursor()
    errors = []
    for number in range(4):
        with pytest.raises(Exception) as raised:
            cursor.execute(f'SELECT X FROM "ANALYTICS"."PUBLIC"."MISSING{number}"', server=True)
        errors.append((type(raised.value), raised.value.errno, raised.value.sqlstate, cursor.sqlstate))
    assert templates.TEMPLATES.used == 2
    assert len(set(errors)) == 1
