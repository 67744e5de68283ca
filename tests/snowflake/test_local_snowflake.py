"""The local Snowflake, by the real connector and the real SDK."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from etl_supervisor.embedded.ports import choose_port
from etl_supervisor.embedded.snowflake import loading, scripting
from etl_supervisor.embedded.snowflake.launch import LocalSnowflake
from etl_supervisor.errors import EtlError
from etl_supervisor.exits import Exit
from etl_supervisor.model.pipeline import Destination
from tests.support.fix_deployment import wait_for
from tests.support.fix_local_snowflake import destination_in, sql_session
from workers.snowflake.identifiers import Objects
from workers.snowflake.streaming import StreamingChannel, StreamingClient

KILLS = 6
COLUMNS = '"ID" NUMBER(19,0) NOT NULL, "S" VARCHAR, "F" FLOAT, "B" BINARY, "TZ" TIMESTAMP_TZ(6), "V" VARIANT, "N" NUMBER(12,2)'


@pytest.fixture
def destination(all_powerful: Destination) -> Destination:
    return all_powerful  # the server is asked, not the product


@pytest.fixture
def landing(destination: Destination) -> Iterator[tuple[Destination, Objects, Any]]:
    with sql_session(destination) as session, session.cursor() as cursor:
        cursor.execute(f'CREATE TABLE "{destination.database}"."PUBLIC"."LANDING_T" ({COLUMNS})')
        yield destination, Objects(destination.database, "PUBLIC", "PUBLIC", "T", "LANDING_T"), cursor


def channel_in(destination: Destination, objects: Objects, name: str = "c", client: str = "one") -> StreamingChannel:
    return StreamingChannel(
        StreamingClient(destination, objects, f"{client}-{time.time_ns()}", lambda secret: "", Path()), name
    )


def append(channel: StreamingChannel, first: int, count: int, line: str = '{"ID":%d,"S":"x"}') -> str:
    data = "".join(line % number + "\n" for number in range(first, first + count)).encode()
    channel.append(pa.py_buffer(data), count, f"T{first:08d}", f"T{first + count - 1:08d}")
    return f"T{first + count - 1:08d}"


def committed(channel: StreamingChannel, token: str) -> None:
    wait_for(f"token {token}", lambda: (channel.status().committed or "") >= token, 20)


def count(cursor: Any, objects: Objects) -> int:
    return int(cursor.execute(f"SELECT COUNT(*) FROM {objects.landing_sql}").fetchone()[0])


def test_small_flushes_and_large_ones_arrive_with_their_token(landing: Any) -> None:
    destination, objects, cursor = landing
    channel = channel_in(destination, objects)
    committed(channel, append(channel, 0, 10))
    big = '{"ID":%d,"S":"' + "y" * 500 + '"}'
    committed(channel, append(channel, 10, 20_000, big))
    assert count(cursor, objects) == 20_010
    channel.close(flush=True)


def test_values_of_every_type_read_back(landing: Any) -> None:
    destination, objects, cursor = landing
    channel = channel_in(destination, objects)
    line = '{"ID":%d,"S":"é\\"\\n","F":"NaN","B":"AP8=","TZ":"2024-01-31 08:00:00.500000+00:00","V":{"a":[1,2.50]},"N":"-0.05","X":1}'
    committed(channel, append(channel, 1, 1, line))
    row = cursor.execute(f"SELECT S, F, B, TO_CHAR(TZ), V, N FROM {objects.landing_sql}").fetchone()
    assert (row[0], str(row[1]), bytes(row[2]), str(row[5])) == ('é"\n', "nan", b"\x00\xff", "-0.05")
    assert row[3].startswith("2024-01-31 08:00:00.5")
    assert '"a"' in row[4]
    channel.close(flush=True)


def test_a_row_that_does_not_fit_is_counted_and_skipped(landing: Any) -> None:
    destination, objects, cursor = landing
    channel = channel_in(destination, objects)
    append(channel, 1, 1)
    append(channel, 2, 1, '{"ID":%d,"N":"12345678901234"}')
    append(channel, 3, 1, '{"ID":null,"S":"%d"}')
    committed(channel, append(channel, 4, 1))
    assert (count(cursor, objects), channel.status().errors) == (2, 2)
    channel.close(flush=True)


def test_a_newer_open_fences_the_older_owner(landing: Any) -> None:
    destination, objects, cursor = landing
    old = channel_in(destination, objects, client="old")
    committed(old, append(old, 0, 5))
    new = channel_in(destination, objects, client="new")
    assert new.opened.committed == "T00000004"
    with pytest.raises(Exception, match=r"INVALID|invalid state"):
        wait_for("the old owner to notice", lambda: append(old, 5, 5) and not old.status().valid, 20)
    committed(new, append(new, 5, 5))
    assert count(cursor, objects) == 10
    new.close(flush=True)


def test_rows_are_seen_only_when_they_are_committed(landing: Any, local_snowflake: LocalSnowflake) -> None:
    destination, objects, cursor = landing
    local_snowflake.set(commit_delay_s=2.0)
    channel = channel_in(destination, objects)
    token = append(channel, 0, 3)
    wait_for("rows to be pending", lambda: any(c["pending"] for c in local_snowflake.state()["channels"].values()), 10)
    assert count(cursor, objects) == 0
    assert channel.status().committed is None
    committed(channel, token)
    assert count(cursor, objects) == 3
    channel.close(flush=True)


def test_what_was_committed_survives_kill_9(tmp_path: Path) -> None:
    folder = tmp_path / "snowflake"
    server = LocalSnowflake(folder).start()
    destination = destination_in(server)
    objects = Objects(destination.database, "PUBLIC", "PUBLIC", "T", "LANDING_T")
    with sql_session(destination) as session, session.cursor() as cursor:
        cursor.execute(f'CREATE TABLE "{destination.database}"."PUBLIC"."LANDING_T" ({COLUMNS})')
    channel = channel_in(destination, objects)
    token = append(channel, 0, 7)
    committed(channel, token)
    os.kill(server.pid, signal.SIGKILL)
    wait_for("the server to end", lambda: not server.running)
    with contextlib.suppress(Exception):  # whatever the SDK makes of a server that is gone
        channel.close(flush=False)
    (left := folder / "scratch" / "left by the kill.ndjson").write_text("")
    with LocalSnowflake(folder) as again, sql_session(destination) as session, session.cursor() as cursor:
        assert not left.exists()
        assert again.host == destination.host, "the port stays"
        reopened = channel_in(destination, objects)
        assert reopened.opened.committed == token
        assert count(cursor, objects) == 7
        reopened.close(flush=False)


def test_two_servers_on_one_directory_are_one_too_many(local_snowflake: LocalSnowflake) -> None:
    with pytest.raises(EtlError, match=r"^embedded at local Snowflake: "):
        LocalSnowflake(local_snowflake.data_dir).start()


def test_the_command_serves_alone_and_leaves_nothing_behind(tmp_path: Path) -> None:
    program = [
        sys.executable,
        "-m",
        "etl_supervisor.cli.main",
        "local-snowflake",
        "--data",
        str(tmp_path / "it" / "data"),
    ]
    (tmp_path / "tmp").mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "TMPDIR": str(tmp_path / "tmp"),
    }
    options: dict[str, Any] = {"env": environment, "cwd": tmp_path, "text": True}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*program, "--port", str(choose_port())], **options, **pipes) as server:
        assert server.stdout is not None
        lines = server.stdout.readline(), server.stdout.readline()
        assert "snowflake_host = 127.0.0.1:" in lines[1]
        wait_for("its data", (tmp_path / "it" / "data" / "data").exists)
        second = subprocess.run([*program, "--port", str(choose_port())], capture_output=True, check=False, **options)
        assert second.returncode == Exit.TEMPORARY
        assert f"in use by another run (process {server.pid})" in second.stderr
        server.send_signal(signal.SIGINT)
        out, errors = server.communicate(timeout=20)
    assert (server.returncode, out, errors) == (0, "", "")
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("statement", "row"),
    [
        ("SELECT 12345678901234567890123456789012345678::NUMBER(38,0)", 12345678901234567890123456789012345678),
        ("SELECT IFF(1 = 1, 'a', 'b')", "a"),
        ("SELECT COUNT_IF(x > 1) FROM (VALUES (1), (2), (3)) v (x)", 2),
        ("WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) SELECT MAX(n) FROM r", 5),
        ("SELECT x FROM (VALUES (1), (2)) v (x) QUALIFY ROW_NUMBER() OVER (ORDER BY x DESC) = 1", 2),
        ("SELECT NULL::TIMESTAMP_TZ", None),
        ("ALTER SESSION SET QUERY_TAG = 'x'", "Statement executed successfully."),
        ("USE WAREHOUSE any_name", "Statement executed successfully."),
        ("BEGIN RETURN 1 + 1; END;", "2"),
        (
            "EXECUTE IMMEDIATE $$ BEGIN LET x := 5; IF (x > 3) THEN RETURN 'more'; ELSE RETURN 'less'; END IF; END; $$",
            "more",
        ),
    ],
)
def test_statements_that_the_product_and_people_use(landing: Any, statement: str, row: Any) -> None:
    found = landing[2].execute(statement).fetchone()[0]
    assert found == row


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_column_comes_with_its_comment_or_not_at_all_whenever_the_server_is_killed(tmp_path: Path) -> None:
    added: list[int] = []

    def add(there: Destination) -> None:
        with contextlib.suppress(Exception), sql_session(there) as session, session.cursor() as cursor:
            while True:  # until the server is gone, whatever the connector makes of that
                number = len(added)
                cursor.execute(
                    f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS \"C{number}\" VARCHAR COMMENT 'etl: {number}'"
                )
                added.append(number)

    with LocalSnowflake(tmp_path / "data") as server:
        there = destination_in(server)
        table = f'"{there.database}"."{there.schema}"."T"'
        with sql_session(there) as session, session.cursor() as cursor:
            cursor.execute(f'CREATE SCHEMA IF NOT EXISTS "{there.database}"."{there.schema}"')
            cursor.execute(f"CREATE TABLE {table} (ID NUMBER)")
        for number in range(KILLS):
            adding = threading.Thread(target=add, args=(there,))
            adding.start()
            before = len(added)
            wait_for("columns", lambda count=before + 3: len(added) >= count)  # type: ignore[misc]
            time.sleep(number * 0.002)  # another moment of a statement each time
            os.kill(server.pid, signal.SIGKILL)
            wait_for("its end", lambda: not server.running)
            server.start()
            adding.join()
            with sql_session(there) as session, session.cursor() as cursor:
                rows = cursor.execute(f"DESCRIBE TABLE {table}").fetchall()
                comment = [item[0] for item in cursor.description].index("comment")
            assert {row[0]: row[comment] for row in rows if row[0] != "ID"} == {
                f"C{number}": f"etl: {number}" for number in range(len(rows) - 1)
            }


def test_a_table_is_described_with_types_defaults_and_comments(landing: Any) -> None:
    destination, _, cursor = landing
    name = f'"{destination.database}"."PUBLIC"."a ""b"" c\'d"'
    columns = (
        """"ID" NUMBER(19,0) NOT NULL, "S" VARCHAR(10) COMMENT 'it''s a text', "T" VARCHAR, "V" VARIANT, "F" FLOAT"""
    )
    cursor.execute(f'CREATE TABLE {name} ({columns}, "AT" TIMESTAMP_TZ(6), "B" BINARY)')
    cursor.execute(f'CREATE TABLE IF NOT EXISTS {name} ("OTHER" VARCHAR)')
    cursor.execute(f'CREATE SCHEMA IF NOT EXISTS "{destination.database}"."PUBLIC"')
    cursor.execute(f"DESCRIBE TABLE {name}")
    titles = [item[0] for item in cursor.description]
    rows = [dict(zip(titles, row, strict=True)) for row in cursor.fetchall()]
    assert [(row["name"], row["type"], row["null?"], row["comment"]) for row in rows] == [
        ("ID", "NUMBER(19,0)", "N", None),
        ("S", "VARCHAR(10)", "Y", "it's a text"),
        ("T", "VARCHAR(16777216)", "Y", None),
        ("V", "VARIANT", "Y", None),
        ("F", "FLOAT", "Y", None),
        ("AT", "TIMESTAMP_TZ(9)", "Y", None),
        ("B", "BINARY(8388608)", "Y", None),
    ]
    with pytest.raises(Exception, match="does not exist") as caught:
        cursor.execute(f'DESCRIBE TABLE "{destination.database}"."PUBLIC"."NOT_THERE"')
    assert caught.value.errno == 2003


def test_an_error_has_a_number_and_comes_at_once(landing: Any) -> None:
    started = time.monotonic()
    for statement, number in (("SELECT * FROM nowhere", 2003), ("SELEKT 1", 1003)):
        with pytest.raises(Exception) as caught:
            landing[2].execute(statement)
        assert caught.value.errno == number
    assert time.monotonic() - started < 5


def test_a_block_that_fails_rolls_back_and_raises(landing: Any) -> None:
    _, objects, cursor = landing
    block = (
        f"EXECUTE IMMEDIATE $$\nBEGIN\n  BEGIN TRANSACTION;\n  INSERT INTO {objects.landing_sql} (ID) VALUES (1);\n"
        "  SELECT * FROM nowhere;\n  COMMIT;\nEXCEPTION\n  WHEN OTHER THEN\n    ROLLBACK;\n    RAISE;\nEND;\n$$"
    )
    with pytest.raises(Exception) as caught:
        cursor.execute(block)
    assert caught.value.errno == 2003
    assert count(cursor, objects) == 0


def test_structure_inside_strings_is_no_structure() -> None:
    seen = []

    def execute(sql: str) -> tuple[list[tuple[Any, ...]], int]:
        seen.append(sql)
        return [(7,)], 3

    text = """BEGIN
      -- a comment; with END IF;
      UPDATE t SET a = 'x; END IF; BEGIN', "b;c" = $$ RETURN 1; $$ WHERE 1 = 1;
      IF (SQLROWCOUNT <> 3) THEN RETURN 'no'; ELSEIF (1 = 1) THEN BEGIN TRANSACTION; COMMIT; END IF;
      RETURN 'done';
    END;"""
    assert scripting.run(text, execute) == "done"
    assert seen[0].startswith("UPDATE t SET a = 'x; END IF; BEGIN'")
    assert seen[1:] == ["BEGIN TRANSACTION", "COMMIT"]


def test_only_plain_texts_and_comparisons_are_answered_without_the_database() -> None:
    asked = []

    def execute(sql: str) -> tuple[list[tuple[Any, ...]], int]:
        asked.append(sql)
        return [("asked",)], 1

    for text, value in [("'it'", "it"), ("''", ""), (" (12 = 12) ", True), ("3 <> 3", False), ("07 = 7", True)]:
        assert scripting.run(f"BEGIN RETURN {text}; END;", execute) == value
    assert not asked
    others = ["'it''s'", r"'\n'", "1", "'a' = 'a'", "1 = 1 AND 2 = 2", "-1 = 1", "'a' || 'b'", "1.0 = 1", "NULL"]
    assert [scripting.run(f"BEGIN RETURN {text}; END;", execute) for text in others] == ["asked"] * len(others)


@pytest.mark.parametrize("text", ["BEGIN SELECT 1;", "SELECT 1; END;", "BEGIN END; SELECT 1", ""])
def test_a_block_that_is_none_is_refused(text: str) -> None:
    with pytest.raises((scripting.ScriptError, IndexError)):
        scripting.run(text, lambda sql: ([], 0))


@pytest.mark.parametrize(
    ("lines", "perhaps"),
    [
        (b'{"a":1,"D":{"x":1.2345678901234567}}', True),
        (b'{"a":1,"D":{"x":1.23456789012345}}', False),
        (b'{"a":1,"F":1.2345678901234567}\n{"a":2,"F":1.2345678901234567}', False),
        (b'{"a":1,"F":1.2345678901234567,"D":{"F":1,"F":1.2345678901234567}}', True),
        (b'{"a":1,"F":-1.2345678901234567,"T":"12345678901234567890"}', False),
        (b'{"a":1,"F":1.5,"D":[-1.2345678901234567]}\n{"a":1,"F":-1.2345678901234567,"D":[]}', True),
        (b"1.2345678901234567", False),
        (b"", False),
        (b'{"a":1,"F":null,"D":{"b":0,"F":1.2345678901234567}}', True),
    ],
)
def test_long_decimals_are_looked_for_in_documents_only(lines: bytes, perhaps: bool) -> None:
    assert loading._perhaps_long(lines, {"F"}) is perhaps
