"""DROP DATABASE: its data, the files of its stages and what waits in its pipes go at once, its channels with their next commit."""

from __future__ import annotations

import re
from typing import Any

import fakesnow.server as fakesnow

from etl_supervisor.embedded.snowflake.pipes import Pipes
from etl_supervisor.embedded.snowflake.quoting import literal
from etl_supervisor.embedded.snowflake.stages import NAME, StageError, parts_of

_DROP = re.compile(
    rf"\s*DROP\s+DATABASE\s+(?P<calm>IF\s+EXISTS\s+)?(?P<name>{NAME})(?:\s+(?:CASCADE|RESTRICT))?\s*;?\s*$", re.I
)


def answer(pipes: Pipes, sql: str) -> str | None:
    """Carry it out; the query that gives the answer, or None for any other statement. StageError: there is no such database."""
    found = _DROP.match(sql)
    if found is None:
        return None
    (name,) = parts_of(found["name"])
    if pipes.warehouse.has_database(name):
        pipes.forget(name)
        pipes.loader.stages.forget(name)
        pipes.warehouse.drop_database(name)
        for session in fakesnow.sessions.values():
            if session.database == name:
                _leave(session)
        return _told(f"{name} successfully dropped.")
    if found["calm"]:
        return _told(f"Drop statement executed successfully ({name} already dropped).")
    raise StageError("002003", f"Database '{name}' does not exist or not authorized.")


def _leave(session: Any) -> None:
    """A session whose database is gone has none, and no schema."""
    session._duck_conn.execute("SET schema = 'memory.main'")
    session.database, session._schema = None, None
    session.database_set = session.schema_set = False


def _told(text: str) -> str:
    return f'SELECT {literal(text)} AS "status"'
