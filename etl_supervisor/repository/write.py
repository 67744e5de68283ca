"""Creating and changing rows of the config database by name; secrets are encrypted on the way in."""

from __future__ import annotations

from typing import Any, Literal

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from etl_supervisor.config.secrets import Keyring
from etl_supervisor.repository.desired import SECRETS, context

Kind = Literal["sources", "destinations", "pipelines"]


def upsert(connection: psycopg.Connection[Any], keyring: Keyring, table: Kind, **columns: Any) -> int:
    """Insert a row, or bring the row of this `name` to these values; returns its id. Other columns keep what they have."""
    values = {column: _stored(keyring, table, columns["name"], column, value) for column, value in columns.items()}
    names = [sql.Identifier(column) for column in values]
    query = sql.SQL(
        "INSERT INTO {table} ({names}) VALUES ({values}) ON CONFLICT (name) DO UPDATE SET ({names}) = ROW({values}) RETURNING id"
    ).format(
        table=sql.Identifier("app", table),
        names=sql.SQL(", ").join(names),
        values=sql.SQL(", ").join(sql.Placeholder(column) for column in values),
    )
    row = connection.execute(query, values).fetchone()
    assert row is not None
    return int(row["id"] if isinstance(row, dict) else row[0])


def _stored(keyring: Keyring, table: str, name: str, column: str, value: Any) -> Any:
    if value is not None and (table, column) in SECRETS:
        return keyring.encrypt(value, context(table, name, column)).ciphertext
    return Jsonb(value) if isinstance(value, dict) else value
