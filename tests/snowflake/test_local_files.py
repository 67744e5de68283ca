"""The local Snowflake's file side, by the real connector and the real snowflake-ingest: stages, COPY, pipes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from snowflake.connector.errors import ProgrammingError
from snowflake.ingest.error import IngestResponseError
from snowflake.ingest.simple_ingest_manager import SimpleIngestManager, StagedFile

from etl_supervisor.embedded.snowflake.launch import LocalSnowflake
from etl_supervisor.model.pipeline import Destination
from tests.support.fix_deployment import wait_for
from tests.support.fix_local_snowflake import fresh_destination, sql_session

SELECT = 'SELECT $1:"ID"::NUMBER(10,0), PARSE_JSON($1:"DOC"::VARCHAR), $1:"AT"::TIMESTAMP_TZ(6), $1:"B"::BINARY'


@pytest.fixture
def destination(all_powerful: Destination) -> Destination:
    return all_powerful  # the server is asked, not the product


@pytest.fixture
def session(destination: Destination) -> Iterator[Any]:
    with prepared(destination) as cursor:
        yield cursor


@contextmanager
def prepared(destination: Destination) -> Iterator[Any]:
    """A session in a schema with a table and a stage."""
    with sql_session(destination) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE DATABASE IF NOT EXISTS {destination.database}")
        cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {destination.database}.S")
        cursor.execute(f"USE SCHEMA {destination.database}.S")
        cursor.execute('CREATE TABLE T ("ID" NUMBER(10,0), "DOC" VARIANT, "AT" TIMESTAMP_TZ(6), "B" BINARY)')
        cursor.execute("CREATE STAGE IF NOT EXISTS FILES")
        yield cursor


def write(path: Path, ids: list[Any]) -> Path:
    columns = {
        "ID": pa.array(ids),
        "DOC": pa.array(['{"a": 0.12345678901234567890}'] * len(ids)),
        "AT": pa.array(["2024-01-01 12:00:00.123456+00:00"] * len(ids)),
        "B": pa.array([b"\x00\xff"] * len(ids)),
    }
    pa.parquet.write_table(pa.table(columns), path, compression="zstd")
    return path


def piped(session: Any, destination: Destination, server: LocalSnowflake) -> SimpleIngestManager:
    """A pipe over the stage, and who tells it of files."""
    here = f'"{destination.database}"."S"'
    session.execute(
        f'CREATE PIPE IF NOT EXISTS {here}."T-FILES" AS COPY INTO {here}."T" ("ID", "DOC", "AT", "B")'
        f' FROM ({SELECT} FROM @{here}."FILES"/in) FILE_FORMAT = (TYPE = PARQUET) ON_ERROR = CONTINUE'
    )
    return ingest(destination, server, "T-FILES")


def ingest(destination: Destination, server: LocalSnowflake, pipe: str) -> SimpleIngestManager:
    name = f'"{destination.database}"."S"."{pipe}"'
    return SimpleIngestManager(
        "LOCAL", "ETL", name, server.key_file.read_text(), scheme="https", host="127.0.0.1", port=server.port
    )


def put(session: Any, path: Path, options: str = "") -> Any:
    return session.execute(f"PUT 'file://{path}' @FILES/in AUTO_COMPRESS = FALSE {options}").fetchall()


def test_files_are_put_listed_fetched_and_removed(session: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [1])
    assert put(session, path)[0][6] == "UPLOADED"
    write(path, [1, 2, 3])
    size = session.execute("LIST @FILES/in/a.parquet").fetchone()[1]
    put(session, path)
    assert session.execute("LIST @FILES/in").fetchall()[0][:2] == ("files/in/a.parquet", size)
    put(session, path, "OVERWRITE = TRUE")
    assert session.execute("LIST @FILES/in").fetchone()[1] == path.stat().st_size
    (tmp_path / "back").mkdir()
    session.execute(f"GET @FILES/in/a.parquet 'file://{tmp_path}/back'")
    assert (tmp_path / "back" / "a.parquet").read_bytes() == path.read_bytes()
    assert session.execute("REMOVE @FILES/in/a.parquet").fetchall() == [("files/in/a.parquet", "removed")]
    assert session.execute("LIST @FILES").fetchall() == []
    with pytest.raises(ProgrammingError, match="does not exist"):
        session.execute("LIST @NOWHERE")


def test_a_file_is_copied_once_and_bad_rows_are_skipped(session: Any, tmp_path: Path, destination: Destination) -> None:
    copy = (
        f'COPY INTO "{destination.database}"."S"."T" ("ID", "DOC", "AT", "B") FROM ({SELECT} FROM @FILES/in)'
        " FILES = ('a.parquet', 'b.parquet') FILE_FORMAT = (TYPE = PARQUET) ON_ERROR = CONTINUE"
    )
    put(session, write(tmp_path / "a.parquet", [1, 2]))
    put(session, write(tmp_path / "b.parquet", ["3", "no number"]))
    rows = session.execute(copy).fetchall()
    assert [(r[0], r[1], r[2], r[3], r[5]) for r in rows] == [
        ("a.parquet", "LOADED", 2, 2, 0),
        ("b.parquet", "PARTIALLY_LOADED", 2, 1, 1),
    ]
    assert [row[1] for row in session.execute(copy).fetchall()] == ["LOAD_SKIPPED", "LOAD_SKIPPED"]
    found = session.execute('SELECT "ID", "DOC"::VARCHAR, "AT"::VARCHAR, HEX_ENCODE("B") FROM T ORDER BY 1').fetchall()
    assert [row[0] for row in found] == [1, 2, 3]
    assert "0.12345678901234567890" in found[0][1]
    assert found[0][3] == "00FF"


def test_a_pipe_loads_what_snowflake_ingest_names(
    session: Any, tmp_path: Path, destination: Destination, local_snowflake: LocalSnowflake
) -> None:
    manager = piped(session, destination, local_snowflake)
    put(session, write(tmp_path / "a.parquet", [1, 2]))
    put(session, write(tmp_path / "b.parquet", ["x", "y"]))
    for _ in range(2):
        answer = manager.ingest_files([StagedFile(name, None) for name in ("a.parquet", "b.parquet", "c.parquet")])
        assert answer["responseCode"] == "SUCCESS"
    wait_for("the files", lambda: len(manager.get_history()["files"]) == 3, 20)
    report = {file["path"]: file for file in manager.get_history(recent_seconds=60)["files"]}
    assert {name: file["status"] for name, file in report.items()} == {
        "a.parquet": "LOADED",
        "b.parquet": "LOAD_FAILED",
        "c.parquet": "LOAD_FAILED",
    }
    assert report["b.parquet"]["errorsSeen"] == 2
    start = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(time.time() - 60))
    assert len(manager.get_history_range(start)["files"]) == 3
    assert session.execute("SELECT COUNT(*) FROM T").fetchone() == (2,)
    with pytest.raises(IngestResponseError, match="404"):
        ingest(destination, local_snowflake, "U-FILES").get_history()


@pytest.mark.parametrize("gone", ['DATABASE "{}"', 'SCHEMA "{}"."_streaming" CASCADE'], ids=["database", "own tables"])
def test_a_pipe_that_is_dropped_with_all_around_it_while_a_file_waits_leaves_the_others_alone(
    session: Any, tmp_path: Path, destination: Destination, local_snowflake: LocalSnowflake, gone: str
) -> None:
    others = fresh_destination(local_snowflake)
    other = next(others)
    with prepared(other) as beside:
        local_snowflake.set(commit_delay_s=1.0)
        managers = [piped(*each, local_snowflake) for each in ((session, destination), (beside, other))]
        for cursor, manager in zip((session, beside), managers, strict=True):
            put(cursor, write(tmp_path / "a.parquet", [1, 2]))
            manager.ingest_files([StagedFile("a.parquet", None)])
        session.execute(f"DROP {gone.format(destination.database)}")
        wait_for("the other's file", lambda: managers[1].get_history()["files"], 20)
        assert beside.execute("SELECT COUNT(*) FROM T").fetchone() == (2,)
    next(others, None)
