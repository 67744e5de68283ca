"""Tables of the system that an older version made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from etl_supervisor.ipc import wire
from etl_supervisor.model.apply_policy import ApplyMode, ApplyPolicy
from etl_supervisor.model.pipeline import Destination
from tests.support.fix_local_snowflake import sql_session
from tests.support.histories import TABLE, insert, opening
from workers.snowflake import ddl, together
from workers.snowflake.apply import apply
from workers.snowflake.identifiers import objects_of


@pytest.fixture
def session(destination: Destination) -> Iterator[Any]:
    with sql_session(destination) as connection:
        yield connection


def query(session: Any, text: str) -> list[tuple[Any, ...]]:
    with session.cursor() as cursor:
        return [tuple(row) for row in cursor.execute(text).fetchall()]


def test_tables_of_an_older_version_get_the_columns_that_they_lack(session: Any, destination: Destination) -> None:
    it, objects = opening(destination), objects_of(destination, TABLE)
    mark = ddl.ensure(session, it).watermark
    insert(session, destination, [("I", 100, 10, 1, 0, None, None, 1, 1, "x", None)])
    apply(session, it, mark, 20)
    for name in ("COMMITTED_AT", "PURGED", "HISTORY", "SHOWN", "BASE", "FENCE", "OFFERED", "POLICY"):
        query(session, f"ALTER TABLE {objects.watermark_sql} DROP COLUMN {name}")
    for name in ("UNCHANGED", "SPECIAL"):
        query(session, f"ALTER TABLE {objects.dead_letter_sql} DROP COLUMN {name}")
    found = ddl.ensure(session, it).watermark
    assert (found.applied, found.shown) == (20, 100)
    query(session, f"SELECT UNCHANGED, SPECIAL FROM {objects.dead_letter_sql}")
    insert(session, destination, [("U", 100, 30, 1, 0, '["big"]', None, 1, 2, None, None)])
    apply(session, it, found, 40)
    assert query(session, f"SELECT A, BIG FROM {objects.live_sql}") == [(2, "x")]


def test_a_policy_that_an_older_version_kept_is_read() -> None:
    assert wire.load(ApplyPolicy, '["view","soft",false,60.0,3600.0,null,60]').mode is ApplyMode.VIEW
    with pytest.raises(ValueError, match="Part: expected 4 fields"):
        wire.load(together.Part, '[["public","t"],1]')
