"""The local Snowflake's privileges, by the real connector."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from snowflake.connector.errors import ProgrammingError

from etl_supervisor.model.pipeline import Destination
from tests.support.fix_local_snowflake import sql_session
from tests.support.keys import write_key

MERGE = 'MERGE INTO "{d}"."S"."T" t USING (SELECT 1 AS A) s ON t.A = s.A WHEN NOT MATCHED THEN INSERT (A) VALUES (s.A)'


@pytest.fixture
def destination(all_powerful: Destination) -> Destination:
    return all_powerful  # the server is asked, not the product


@pytest.fixture
def sessions(destination: Destination, tmp_path: Path) -> Iterator[tuple[Any, Any, str]]:
    """A session of somebody who may do everything, one of a role that may do nothing, and that role."""
    name = f"U{uuid.uuid4().hex[:8].upper()}"
    with sql_session(destination) as all_powerful:
        cursor = all_powerful.cursor()
        for text in (
            f"ALTER USER {name} SET RSA_PUBLIC_KEY = '{write_key(tmp_path / 'key.p8', '')}'",
            f"CREATE ROLE R_{name}",
            f"GRANT ROLE R_{name} TO USER {name}",
            f'CREATE SCHEMA "{destination.database}"."S"',
            f'CREATE TABLE "{destination.database}"."S"."T" (A NUMBER(10,0))',
        ):
            cursor.execute(text)
        narrow = replace(destination, user=name, role=f"R_{name}", private_key_path=str(tmp_path / "key.p8"))
        with sql_session(narrow) as limited:
            yield cursor, limited.cursor(), f"R_{name}"


def refusal(cursor: Any, text: str) -> tuple[int, str]:
    """Snowflake's number and the last line of its message; (0, "") when it is done."""
    try:
        cursor.execute(text)
    except ProgrammingError as error:
        return int(error.errno or 0), str(error.raw_msg).strip().splitlines()[-1]
    return 0, ""


def test_what_a_role_may_not_see_is_not_there_and_what_it_may_not_do_is_refused(
    sessions: tuple[Any, Any, str], destination: Destination
) -> None:
    admin, limited, role = sessions
    d = destination.database
    read, make = f'SELECT * FROM "{d}"."S"."T"', f'CREATE TABLE "{d}"."S"."MINE" (A NUMBER(10,0))'
    steps = [
        (read, (2003, f"Database '{d}' does not exist or not authorized."), f'USAGE ON DATABASE "{d}"'),
        (read, (2003, f"Schema '{d}.S' does not exist or not authorized."), f'USAGE ON SCHEMA "{d}"."S"'),
        (read, (2003, f"Object '{d}.S.T' does not exist or not authorized."), f'SELECT ON TABLE "{d}"."S"."T"'),
        (MERGE.format(d=d), (3001, "Insufficient privileges to operate on table 'T'"), f'INSERT, UPDATE ON TABLE "{d}"."S"."T"'),
        (make, (3001, "Insufficient privileges to operate on schema 'S'"), f'CREATE TABLE ON SCHEMA "{d}"."S"'),
    ]  # fmt: skip
    for text, expected, privilege in steps:
        assert refusal(limited, text) == expected
        block = f"EXECUTE IMMEDIATE $$\nBEGIN\n  {text};\nEND;\n$$"
        assert refusal(limited, block) == expected, "in a block too"
        admin.execute(f"GRANT {privilege} TO ROLE {role}")
    for text in (read, MERGE.format(d=d), make):
        assert refusal(limited, text) == (0, "")
    assert refusal(limited, f'INSERT INTO "{d}"."S"."MINE" VALUES (1)') == (0, ""), "it owns what it made"
    assert refusal(limited, f'ALTER TABLE "{d}"."S"."T" ADD COLUMN B NUMBER(10,0)')[0] == 3001
    admin.execute(f'REVOKE SELECT, INSERT, UPDATE ON TABLE "{d}"."S"."T" FROM ROLE {role}')
    assert refusal(limited, read)[0] == 2003


def test_who_makes_a_schema_may_make_everything_in_it(sessions: tuple[Any, Any, str], destination: Destination) -> None:
    admin, limited, role = sessions
    d = destination.database
    admin.execute(f'GRANT USAGE ON DATABASE "{d}" TO ROLE {role}')
    make = f'CREATE SCHEMA IF NOT EXISTS "{d}"."OWN"'
    assert refusal(limited, make) == (3001, f"Insufficient privileges to operate on database '{d}'")
    admin.execute(f'GRANT CREATE SCHEMA ON DATABASE "{d}" TO ROLE {role}')
    assert refusal(limited, make) == (0, "")
    assert refusal(limited, f'CREATE TABLE "{d}"."OWN"."T" (A NUMBER(10,0))') == (0, "")
    assert refusal(limited, f'SELECT * FROM "{d}"."OWN"."T"') == (0, "")


def test_a_name_with_an_apostrophe_is_a_name(sessions: tuple[Any, Any, str], destination: Destination) -> None:
    admin, limited, role = sessions
    schema = f'"{destination.database}"."S"'
    admin.execute(f'GRANT USAGE ON DATABASE "{destination.database}" TO ROLE {role}')
    admin.execute(f"GRANT USAGE, CREATE TABLE ON SCHEMA {schema} TO ROLE {role}")
    for text in (
        f"""CREATE TABLE {schema}."IT'S" (A NUMBER(10,0)) COMMENT = 'one'""",
        f"""COMMENT ON TABLE {schema}."IT'S" IS 'it''s'""",
        f"""INSERT INTO {schema}."IT'S" VALUES (1)""",
    ):
        assert refusal(limited, text) == (0, ""), text
