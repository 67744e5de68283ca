"""fakesnow's translation of statements, with the passes left out that have nothing to do: the same SQL as with all of them."""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import Any

import duckdb
import fakesnow.cursor
import pytest
from fakesnow.dialect import parse_one
from fakesnow.instance import FakeSnow
from sqlglot import exp
from sqlglot.expressions.core import Expr

from etl_supervisor.embedded.snowflake import answers, passes
from etl_supervisor.embedded.snowflake.gaps import close_gaps
from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model.pipeline import Destination
from tests.support.histories import TABLE, opening
from workers.snowflake import apply, fresh, live, marks
from workers.snowflake.identifiers import Objects, objects_of
from workers.snowflake.owner import Row as WatermarkRow
from workers.snowflake.owner import Watermark, entry

STATEMENTS = """
SELECT a, "b", SUM(c), AVG(d) AS e FROM t WHERE a = 1 GROUP BY 1, 2 HAVING COUNT(*) > 1 ORDER BY 1
SELECT Sum(x) s FROM (SELECT b AS x FROM db.s.t WHERE x > 1) q JOIN u ON q.x = u.y AND s > 2
SELECT a AS k, b AS v FROM t JOIN u ON k = u.k WHERE v IS NOT NULL
SELECT v:name::varchar, v:list[0]::string, v['key'], UPPER(v:x), v:a.b::number(10,2) FROM t
SELECT PARSE_JSON('{"a": 1}'):a::text = 'x', TRY_PARSE_JSON(b), TO_VARIANT(c), OBJECT_CONSTRUCT('a', 1, 'b', c), OBJECT_CONSTRUCT(*) FROM t
SELECT f.value::varchar FROM t, LATERAL FLATTEN(input => t.v) f
SELECT value FROM TABLE(FLATTEN(input => PARSE_JSON('[1, 2]')))
SELECT SPLIT(a, ','), TRIM(b), TRIM(c, 'x'), REGEXP_REPLACE(a, 'x\\\\d', 'y'), REGEXP_SUBSTR(a, '\\\\d+', 1, 2) FROM t
SELECT TO_DATE(a), TO_TIMESTAMP(b), TO_TIMESTAMP_NTZ('2020-01-01'), c::timestamp_ntz, '2020-01-01 00:00:00 +0100'::timestamp_tz FROM t
SELECT TO_DECIMAL(a, 10, 2), TO_NUMBER(b), c::float, d::int, SHA2(a), SHA2(a, 512), X'00ff', HAVERSINE(1, 2, 3, 4) FROM t
SELECT DATEADD(day, 1, '2020-01-01'::date), DATEADD(hour, 1, '2020-01-01'), DATEDIFF(day, '2020-01-01', '2020-01-02') FROM t
SELECT ARRAY_AGG(a) WITHIN GROUP (ORDER BY b), ARRAY_SIZE(c), ARRAY_CONSTRUCT(1, 2), OBJECT_AGG(a, b), ARRAY_CAT([1], [2]) FROM t
SELECT ROW_NUMBER() OVER (PARTITION BY a ORDER BY b) AS n FROM t QUALIFY n = 1
SELECT * FROM (VALUES (1, 'a'), (2, 'b'))
SELECT * FROM t SAMPLE (10)
SELECT RANDOM(1), UNIFORM(1, 2, RANDOM()), CURRENT_VERSION(), seq.NEXTVAL FROM t
SELECT * FROM IDENTIFIER('db.s.t')
SELECT * FROM INFORMATION_SCHEMA.TABLES JOIN db.INFORMATION_SCHEMA.COLUMNS USING (TABLE_NAME)
SELECT * FROM INFORMATION_SCHEMA.DATABASES
WITH w AS (SELECT a AS x FROM t WHERE x > 1) SELECT * FROM w UNION ALL SELECT b FROM u WHERE EXISTS (SELECT 1 FROM w WHERE w.x = u.b)
CREATE TABLE t (a NUMBER(38,0) NOT NULL, b VARCHAR(20) COMMENT 'x', c VARIANT, d TIMESTAMP_NTZ(6), e FLOAT, PRIMARY KEY (a)) COMMENT = 'y'
CREATE OR REPLACE TABLE t (a, b) AS SELECT x, SUM(y) FROM u GROUP BY x
CREATE TABLE t AS SELECT a::varchar(3) AS b FROM u
CREATE TABLE t CLONE u
CREATE SCHEMA s
CREATE OR REPLACE VIEW v (a) AS SELECT b FROM t
CREATE TEMPORARY TABLE t LIKE u
ALTER TABLE t ADD COLUMN a VARCHAR(10)
ALTER TABLE t ALTER COLUMN a COMMENT 'x'
ALTER TABLE t CLUSTER BY (a)
ALTER TABLE t SET COMMENT = 'x'
ALTER SESSION SET AUTOCOMMIT = FALSE
COMMENT ON TABLE t IS 'x'
DROP SCHEMA s
DROP TABLE IF EXISTS t
TRUNCATE TABLE t
USE SCHEMA db.s
USE WAREHOUSE w
SET x = 7
SHOW TABLES IN SCHEMA s
SHOW SCHEMAS
SHOW COLUMNS IN TABLE t
SHOW PRIMARY KEYS IN TABLE t
SHOW USERS
DESCRIBE TABLE t
INSERT INTO t (a, b) SELECT x, PARSE_JSON(y) FROM u
INSERT INTO t VALUES (1, 'a'), (2, NULL)
UPDATE t SET a = u.b, c = IFF(d IS NULL, 1, 2) FROM u WHERE t.k = u.k
DELETE FROM t USING u WHERE t.k = u.k
MERGE INTO t USING u ON t.k = u.k WHEN MATCHED AND u.d THEN DELETE WHEN MATCHED THEN UPDATE SET a = u.a WHEN NOT MATCHED THEN INSERT (k) VALUES (u.k)
""".strip().splitlines()
NAMED = [
    Template(f"SELECT '{text}' as 'status'") for text in ("Table ${name} successfully created.", "${name} dropped")
]
NAMED.append(Template("SELECT '${name} already exists, statement succeeded.' as status"))
COUNTED = [fakesnow.cursor.SQL_INSERTED_ROWS, fakesnow.cursor.SQL_UPDATED_ROWS, fakesnow.cursor.SQL_DELETED_ROWS]
DESTINATION = Destination(
    1, "d", "snowflake", "LOCAL", "ETL", "ANALYTICS", "PUBLIC", None, None, "k", None, None, "ETL_LANDING", 5.0
)


def ours() -> list[str]:
    """What this program asks a Snowflake for."""
    made: OpenTable = opening(DESTINATION)
    objects: Objects = objects_of(DESTINATION, made.table)
    keyless = opening(DESTINATION, TABLE)
    mark, found = Watermark(100, 0, 1), apply.Survey(5, 1, moves=True, partial=False, unchanged={"big": ('["big"]',)})
    return [
        marks.create(objects),
        fresh.create_landing(made.table, objects, "note"),
        fresh.create_target(made, objects, "it's"),
        live.view(made, objects),
        entry(made, objects, WatermarkRow("shape", "since", "policy", "digest")),
        *apply.moves(keyless, 0, 200, found, first=True),
        apply.block(made, objects, mark, 200, 0, found).partition("BEGIN TRANSACTION;")[2].partition(";")[0],
    ]


def translated(cursor: Any, sql: str) -> list[tuple[str, dict[str, str]]]:
    """DuckDB's SQL, and what fakesnow notes beside it; of each statement that it becomes."""
    found = []
    for statement in cursor._transform_explode(parse_one(sql)):
        new = cursor._transform(statement, None)
        beside = {key: str(value) for key, value in new.args.items() if not isinstance(value, (Expr, list))}
        found.append((new.sql(dialect="duckdb"), beside))
    return found


def test_statements_are_translated_as_with_all_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    close_gaps()
    cursor = FakeSnow(db_path=tmp_path).connect("ANALYTICS", "PUBLIC").cursor()
    for sql in STATEMENTS + ours():
        monkeypatch.setattr(passes, "KINDS", {})
        plain = _outcome(cursor, sql)
        monkeypatch.undo()
        assert _outcome(cursor, sql) == plain, sql


@pytest.mark.filterwarnings("ignore:Arrow output")
@pytest.mark.parametrize("count", [0, 1, 999_999_999, 1_000_000_000, 3_000_000_000])
def test_status_lines_and_counts_are_what_duckdb_says(count: int) -> None:
    connection = duckdb.connect()
    names = ("T", "it''s", "a b")
    told = [fakesnow.cursor.SQL_SUCCESS, *(made.substitute(name=name) for made in NAMED for name in names)]
    for sql in told + [made.substitute(count=count) for made in COUNTED]:
        whole = connection.execute(sql).to_arrow_table()
        assert (count > 999_999_999 and answers.of(sql) is None) or answers.of(sql) == whole
        answering = answers.Answering(connection)
        assert answering.execute(sql).to_arrow_table().equals(whole)
        assert answering.execute(sql).fetchall() == [tuple(row.values()) for row in whole.to_pylist()]


def test_a_pass_that_is_not_known_sees_every_node() -> None:
    close_gaps()
    seen = []

    def unheard_of(node: Expr) -> Expr:
        seen.append(type(node))
        return exp.Literal.number(2) if isinstance(node, exp.Literal) else node

    tree = parse_one("SELECT 1 FROM t").transform(unheard_of)
    assert tree.sql() == "SELECT 2 FROM t"
    assert {exp.Select, exp.Literal, exp.From, exp.Table, exp.Identifier} <= set(seen)


def test_every_pass_of_fakesnow_is_known() -> None:
    close_gaps()
    called: list[str] = []

    class Tree:
        def transform(self, fun: Any, **_: Any) -> Tree:
            called.append(passes._name(fun))
            return self

    class Connection:
        variables = database = schema = db_path = table_stages = None

    class Cursor:
        _conn, _duck_conn = Connection(), None

    fakesnow.cursor.FakeSnowflakeCursor._transform(Cursor(), Tree(), None)  # type: ignore[arg-type]
    assert len(called) > 70
    assert set(called) <= passes.KINDS.keys()


def _outcome(cursor: Any, sql: str) -> Any:
    try:
        return translated(cursor, sql)
    except Exception as error:
        return type(error), str(error)
