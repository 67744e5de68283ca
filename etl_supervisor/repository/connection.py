"""A connection to the config database, and in words why there is none."""

from __future__ import annotations

from typing import Any

import psycopg

from etl_supervisor.errors import EtlError, Kind

CONNECT_SECONDS = 5
PLACE = "config database"
NOT_OURS = frozenset({"3F000", "42P01", "42703"})  # a schema, table or column that is not there


def connect(dsn: str, **options: Any) -> psycopg.Connection[Any]:
    """Connect. EtlError(CONFIG_DATABASE) with the remedy."""
    try:
        return psycopg.connect(dsn, **{"connect_timeout": CONNECT_SECONDS, **options})
    except psycopg.Error as error:
        raise trouble(error) from None


def trouble(error: psycopg.Error) -> EtlError:
    """What is wrong, without the connection string."""
    text = error.diag.message_primary or str(error)
    if "authentication failed" in text or "no password supplied" in text:
        return EtlError(Kind.CONFIG_DATABASE, PLACE, "wrong user or password", "correct DATABASE_URL (or CONFIG_DB_*)")
    if "does not exist" in text and "database" in text:
        return EtlError(
            Kind.CONFIG_DATABASE, PLACE, "the database does not exist", "create it, or correct DATABASE_URL"
        )
    if isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None:
        return EtlError(Kind.CONFIG, PLACE, "the connection string can't be read", "correct DATABASE_URL")
    if error.sqlstate in NOT_OURS:
        reason = f"its tables are not those that this program needs: {text}"
        return EtlError(Kind.CONFIG_DATABASE, PLACE, reason, "run `etl-supervisor migrate`")
    if error.sqlstate:
        return EtlError(Kind.CONFIG_DATABASE, PLACE, text, "see the server's log")
    remedy = "check host and port in DATABASE_URL (or CONFIG_DB_*), and that the server runs"
    return EtlError(Kind.CONFIG_DATABASE, PLACE, "the server does not answer", remedy, transient=True)
