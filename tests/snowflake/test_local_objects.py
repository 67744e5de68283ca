"""What the local Snowflake tells of its pipes, tasks, streams and channels, the rows that it refused, and a MERGE that can't be right."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from snowflake.connector.errors import ProgrammingError

from etl_supervisor.embedded.snowflake.launch import LocalSnowflake
from etl_supervisor.model.pipeline import Destination
from tests.support.fix_deployment import wait_for
from tests.support.fix_local_snowflake import sql_session
from tests.support.histories import opening
from workers.snowflake import ddl
from workers.snowflake.identifiers import Objects, objects_of
from workers.snowflake.streaming import StreamingClient


@pytest.fixture
def destination(all_powerful: Destination) -> Destination:
    return all_powerful  # the server is asked, not the product


@pytest.fixture
def cursor(destination: Destination) -> Iterator[Any]:
    with sql_session(destination) as session, session.cursor() as found:
        found.execute(f'CREATE DATABASE IF NOT EXISTS "{destination.database}"')
        found.execute(f'CREATE SCHEMA IF NOT EXISTS "{destination.database}"."{destination.schema}"')
        found.execute(f'USE SCHEMA "{destination.database}"."{destination.schema}"')
        yield found


@pytest.fixture
def landing(destination: Destination) -> Iterator[tuple[Objects, StreamingClient]]:
    """A landing table, with a client of its streams."""
    it = opening(destination)
    with sql_session(destination) as session:
        ddl.ensure(session, it)
    objects = objects_of(destination, it.table)
    client = StreamingClient(destination, objects, "shown", lambda _: "", Path())
    yield objects, client
    client.close()


def shown(cursor: Any, sql: str, *titles: str) -> list[tuple[Any, ...]]:
    rows = cursor.execute(sql).fetchall()
    at = [column[0] for column in cursor.description]
    return [tuple(row[at.index(title)] for title in titles) for row in rows]


def test_tasks_and_streams_are_shown_with_what_they_do(cursor: Any, destination: Destination) -> None:
    here = f'"{destination.database}"."{destination.schema}"'
    cursor.execute(f"CREATE TABLE {here}.T (K INT)")
    cursor.execute(f"CREATE STREAM {here}.S ON TABLE {here}.T APPEND_ONLY = TRUE")
    cursor.execute(
        f"CREATE TASK {here}.ETL_ONE SCHEDULE = '5 MINUTE' WHEN SYSTEM$STREAM_HAS_DATA('{here}.S') AS SELECT 1"
    )
    cursor.execute(f"CREATE TASK {here}.OTHER SCHEDULE = '1 MINUTE' AS SELECT 2")
    cursor.execute(f"ALTER TASK {here}.ETL_ONE RESUME")
    titles = ("name", "schedule", "state", "definition")
    one = ("ETL_ONE", "5 MINUTE", "started", "SELECT 1")
    assert shown(cursor, f"SHOW TASKS IN SCHEMA {here}", *titles) == [
        one,
        ("OTHER", "1 MINUTE", "suspended", "SELECT 2"),
    ]
    assert shown(cursor, "SHOW TASKS LIKE 'etl%'", *titles) == [one]
    assert shown(cursor, f'SHOW TASKS IN DATABASE "{destination.database}"', "name") == [("ETL_ONE",), ("OTHER",)]
    assert shown(cursor, "SHOW TASKS IN SCHEMA ELSEWHERE", "name") == []
    table = f"{destination.database}.{destination.schema}.T"
    assert shown(cursor, "SHOW STREAMS", "name", "table_name", "mode") == [("S", table, "APPEND_ONLY")]


def test_pipes_and_channels_are_shown_with_their_tokens(
    cursor: Any, destination: Destination, landing: tuple[Objects, StreamingClient]
) -> None:
    objects, client = landing
    client.open("etl-one", "token 7")
    schema = f'"{destination.database}"."{destination.landing_schema}"'
    found = shown(cursor, f"SHOW CHANNELS IN SCHEMA {schema}", "name", "table_name", "offset_token")
    assert found == [("etl-one", objects.landing, "token 7")]
    assert shown(cursor, f"SHOW CHANNELS IN TABLE {objects.landing_sql}", "name") == [("etl-one",)]
    assert shown(cursor, f"SHOW PIPES IN SCHEMA {schema}", "name") == [(f"{objects.landing}-STREAMING",)]


def test_a_merge_that_meets_a_row_twice_is_refused_as_snowflake_does(cursor: Any) -> None:
    cursor.execute("CREATE TABLE TWICE (K INT, V INT)")
    cursor.execute("INSERT INTO TWICE VALUES (1, 0)")
    merge = (
        "MERGE INTO TWICE t USING (SELECT 1 AS K, 5 AS V UNION ALL SELECT 1, 6) s ON t.K = s.K"
        " WHEN MATCHED THEN UPDATE SET V = s.V"
    )
    for sql in (merge, f"EXECUTE IMMEDIATE $$ BEGIN {merge}; RETURN 1; END $$"):
        with pytest.raises(ProgrammingError) as caught:
            cursor.execute(sql)
        assert caught.value.errno == 100090
    assert cursor.execute("SELECT K, V FROM TWICE").fetchall() == [(1, 0)]


def test_refused_rows_of_a_load_are_in_the_error_table(cursor: Any, destination: Destination, tmp_path: Path) -> None:
    here = f'"{destination.database}"."{destination.schema}"'
    cursor.execute(f"CREATE TABLE {here}.KEPT (K INT NOT NULL, V VARCHAR) ERROR_LOGGING = TRUE")
    cursor.execute(f"CREATE STAGE {here}.FILES")
    pa.parquet.write_table(pa.table({"K": [1, None], "V": ["fits", "does not"]}), tmp_path / "f.parquet")
    cursor.execute(f"PUT 'file://{tmp_path}/f.parquet' @{here}.FILES AUTO_COMPRESS = FALSE")
    cursor.execute(
        f'COPY INTO {here}.KEPT ("K", "V") FROM (SELECT $1:"K"::NUMBER(38,0), $1:"V"::VARCHAR FROM @{here}.FILES)'
        " FILES = ('f.parquet') FILE_FORMAT = (TYPE = PARQUET) ON_ERROR = CONTINUE"
    )
    assert cursor.execute(f"SELECT K, V FROM {here}.KEPT").fetchall() == [(1, "fits")]
    query = f"SELECT ERROR_CODE, ERROR_METADATA, ERROR_DATA FROM ERROR_TABLE({here}.KEPT)"
    ((code, metadata, data),) = cursor.execute(query).fetchall()
    assert (code, json.loads(data)) == (100071, {"K": None, "V": "does not"})
    assert json.loads(metadata)["service"] == "copy"
    cursor.execute(f"TRUNCATE TABLE ERROR_TABLE({here}.KEPT)")
    assert cursor.execute(query).fetchall() == []
    cursor.execute(f"ALTER TABLE {here}.KEPT UNSET ERROR_LOGGING")
    with pytest.raises(ProgrammingError) as caught:
        cursor.execute(query)
    assert caught.value.errno == 2003


def test_rows_that_streaming_refuses_are_in_the_error_table(
    cursor: Any, landing: tuple[Objects, StreamingClient]
) -> None:
    objects, client = landing
    cursor.execute(f"ALTER TABLE {objects.landing_sql} SET ERROR_LOGGING = TRUE")
    channel, _ = client.open("etl-one")
    good = {"_ETL_OP": "I", "_ETL_GENERATION": 1, "_ETL_COMMIT_LSN": 1, "_ETL_LSN": 1, "_ETL_INDEX": 0, "K": 1}
    channel.append_rows([good, {**good, "K": "no number"}], "1", "2")
    channel.initiate_flush()
    query = f"SELECT ERROR_METADATA, ERROR_DATA FROM ERROR_TABLE({objects.landing_sql})"
    ((metadata, data),) = wait_for("the refused row", lambda: cursor.execute(query).fetchall())
    assert json.loads(data)["K"] == "no number"
    assert json.loads(metadata)["channel"] == "etl-one"


def test_a_dropped_database_goes_with_all_that_is_in_it(
    cursor: Any, destination: Destination, landing: tuple[Objects, StreamingClient], local_snowflake: LocalSnowflake
) -> None:
    objects, client = landing
    name, here = destination.database, f'"{destination.database}"."{destination.schema}"'
    cursor.execute(f"CREATE STAGE {here}.FILES")
    cursor.execute(f"CREATE TABLE {here}.T (K NUMBER, TEXT VARCHAR(7))")
    cursor.execute(f"CREATE PIPE {here}.P AS COPY INTO {here}.T FROM @{here}.FILES")
    local_snowflake.set(commit_delay_s=1.0)
    channel, _ = client.open("c")
    channel.append_row({"_ETL_GENERATION": 1}, "T1")
    key = f"{name}|{objects.landing_schema}|{objects.landing}-STREAMING|c"
    wait_for("the row to be pending", lambda: local_snowflake.state()["channels"][key]["pending"])
    assert list(local_snowflake.data_dir.rglob(f"{name}*"))
    assert cursor.execute(f'DROP DATABASE "{name}"').fetchall() == [(f"{name} successfully dropped.",)]
    assert not list(local_snowflake.data_dir.rglob(f"{name}*"))
    wait_for("its channel to be forgotten", lambda: key not in local_snowflake.state()["channels"])
    with pytest.raises(ProgrammingError, match="does not exist"):
        cursor.execute(f'DROP DATABASE "{name}"')
    assert "already dropped" in cursor.execute(f'DROP DATABASE IF EXISTS "{name}"').fetchone()[0]
    cursor.execute(f'CREATE DATABASE "{name}"')
    cursor.execute(f'CREATE SCHEMA IF NOT EXISTS "{name}"."{destination.schema}"')
    assert cursor.execute(f"SHOW PIPES IN SCHEMA {here}").fetchall() == []
    cursor.execute(f"CREATE TABLE {here}.T (K NUMBER, TEXT VARCHAR)")
    cursor.execute(f"CREATE PIPE {here}.P AS COPY INTO {here}.T FROM @{here}.FILES")
    assert len(cursor.execute(f"SHOW PIPES IN SCHEMA {here}").fetchall()) == 1
    (text,) = [row for row in cursor.execute(f"DESCRIBE TABLE {here}.T").fetchall() if row[0] == "TEXT"]
    assert "(7)" not in text[1]
