"""Creating and changing rows of the config database by name; secrets are encrypted on the way in."""

from __future__ import annotations

from typing import Any, Literal

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from etl_supervisor.config.secrets import Keyring
from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.repository.secrets import SECRETS, context

ConfigTable = Literal["sources", "destinations", "pipelines"]


def upsert(connection: psycopg.Connection[Any], keyring: Keyring, table: ConfigTable, **columns: Any) -> int:
    """Insert a row, or bring the row of this `name` to these values; returns its id. Other columns keep what they have.

    EtlError(CONFIG) when a value is not allowed.
    """
    values = {column: _stored(keyring, table, columns["name"], column, value) for column, value in columns.items()}
    names = [sql.Identifier(column) for column in values]
    query = sql.SQL(
        "INSERT INTO {table} ({names}) VALUES ({values}) ON CONFLICT (name) DO UPDATE SET ({names}) = ROW({values}) RETURNING id"
    ).format(
        table=sql.Identifier("app", table),
        names=sql.SQL(", ").join(names),
        values=sql.SQL(", ").join(sql.Placeholder(column) for column in values),
    )
    try:
        row = connection.execute(query, values).fetchone()
    except psycopg.errors.CheckViolation as error:  # its constraint's name says what is allowed
        rule = str(error.diag.constraint_name)
        raise EtlError(Kind.CONFIG, f"{table} {columns['name']}", f"a value breaks the rule: {rule}") from None
    assert row is not None
    return int(row["id"] if isinstance(row, dict) else row[0])


def _stored(keyring: Keyring, table: str, name: str, column: str, value: Any) -> Any:
    if value is not None and (table, column) in SECRETS:
        return keyring.encrypt(value, context(table, name, column)).ciphertext
    return Jsonb(value) if isinstance(value, dict) else value
