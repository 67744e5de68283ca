"""Rows of sources, destinations and pipelines: read, made, changed and deleted inside a transaction of the caller.

A row's version is its `xmin`: every change of it has another, whoever makes it (also an UPDATE in psql). A change locks the row, compares the version
with the one that the caller has seen, and writes what it did into the audit log in the same transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from etl_supervisor.api import audit, faults
from etl_supervisor.api.caller import Caller
from etl_supervisor.api.files import Files
from etl_supervisor.api.pool import Connection
from etl_supervisor.config.secrets import Keyring
from etl_supervisor.repository.secrets import context

VERSION = "_version"


@dataclass(frozen=True, slots=True)
class Entity:
    """A kind of rows: how people call one, its table, its secrets, the columns that stay as they were made, and whether tenants own them."""

    name: str
    table: str
    secrets: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ("name",)
    owned: bool = True

    @property
    def identifier(self) -> sql.Identifier:
        """The table in SQL."""
        return sql.Identifier("app", self.table)


SOURCE = Entity("Source", "sources", ("pg_password", "primary_url"), ("name", "replication_id", "tenant"))
DESTINATION = Entity("Destination", "destinations", ("snowflake_private_key_passphrase",), ("name", "tenant"))
SETTINGS = Entity("Settings", "settings", ("alert_wal_url", "alert_slack_url", "alert_smtp_url"), owned=False)
PIPELINE = Entity("Pipeline", "pipelines", (), ("name", "source_id", "destination_id"))


@dataclass(frozen=True, slots=True)
class Desk:
    """Who works on rows, and with what."""

    connection: Connection
    keyring: Keyring
    caller: Caller
    files: Files


def listed(desk: Desk, entity: Entity, filters: dict[str, Any], after: int, limit: int) -> list[dict[str, Any]]:
    """The rows beyond the id `after` that fit the filters, in the order of ids."""
    wanted = {key: value for key, value in filters.items() if value is not None}
    if desk.caller.tenant is not None:
        wanted["tenant"] = desk.caller.tenant
    clauses: list[sql.Composable] = [sql.SQL("id > %(_after)s")]
    clauses += [sql.SQL("{} = {}").format(sql.Identifier(key), sql.Placeholder(key)) for key in wanted]
    query = sql.SQL("SELECT *, xmin::text AS _version FROM {} WHERE {} ORDER BY id LIMIT %(_limit)s").format(
        entity.identifier, sql.SQL(" AND ").join(clauses)
    )
    return desk.connection.execute(query, {**wanted, "_after": after, "_limit": limit}).fetchall()


def one(desk: Desk, entity: Entity, key: int, *, lock: bool = False) -> dict[str, Any]:
    """The row of this id. Fault 404 when there is none, or it is another tenant's."""
    query = sql.SQL(
        "SELECT *, xmin::text AS _version FROM {} WHERE id = %(key)s AND (%(tenant)s::text IS NULL OR {} = %(tenant)s) {}"
    ).format(entity.identifier, sql.SQL("tenant" if entity.owned else "NULL"), sql.SQL("FOR UPDATE" if lock else ""))
    row = desk.connection.execute(query, {"key": key, "tenant": desk.caller.tenant}).fetchone()
    if row is None:
        raise faults.not_found(entity.name, key)
    return row


def insert(desk: Desk, entity: Entity, values: dict[str, Any]) -> dict[str, Any]:
    """Make a row. Fault 422 when it names a file that the caller may not name."""
    desk.files.check(values)
    stored = _stored(desk, entity, values["name"], values)
    query = sql.SQL("INSERT INTO {} ({}) VALUES ({}) RETURNING *, xmin::text AS _version").format(
        entity.identifier,
        sql.SQL(", ").join(map(sql.Identifier, stored)),
        sql.SQL(", ").join(map(sql.Placeholder, stored)),
    )
    row = _written(desk, entity, query, stored)
    audit.write(desk.connection, desk.caller, "create", entity, None, row)
    return row


def update(
    desk: Desk, entity: Entity, key: int, values: dict[str, Any], seen: str | None, action: str = "update"
) -> dict[str, Any]:
    """Bring a row to these values. `seen` is the version it must have (None: any). What is the same already changes nothing."""
    before = _locked(desk, entity, key, seen)
    for column in entity.fixed:
        if values.get(column, before[column]) != before[column]:
            message = f"{column} of {entity.name} {before['name']} can't be changed: its state is kept under it"
            raise faults.conflict(message, field=column)
    changed = {
        column: value
        for column, value in values.items()
        if isinstance(value, SecretStr) or before.get(column) != value  # a secret is not compared: nobody reads it
    }
    if not changed:
        return before
    desk.files.check(changed, before)
    stored = _stored(desk, entity, before["name"], changed)
    query = sql.SQL("UPDATE {} SET ({}) = ROW({}) WHERE id = %(_key)s RETURNING *, xmin::text AS _version").format(
        entity.identifier,
        sql.SQL(", ").join(map(sql.Identifier, stored)),
        sql.SQL(", ").join(map(sql.Placeholder, stored)),
    )
    row = _written(desk, entity, query, {**stored, "_key": key})
    audit.write(desk.connection, desk.caller, action, entity, before, row)
    return row


def delete(desk: Desk, entity: Entity, key: int, seen: str | None) -> None:
    """Delete a row. Fault 409 while pipelines use it."""
    before = _locked(desk, entity, key, seen)
    try:
        desk.connection.execute(sql.SQL("DELETE FROM {} WHERE id = %s").format(entity.identifier), [key])
    except (psycopg.errors.ForeignKeyViolation, psycopg.errors.RestrictViolation):  # before 18, and since
        message = f"{entity.name} {before['name']} is used by pipelines; delete them first"
        raise faults.conflict(message, entity_type=entity.name, entity_id=str(key)) from None
    audit.write(desk.connection, desk.caller, "delete", entity, before, None)


def _locked(desk: Desk, entity: Entity, key: int, seen: str | None) -> dict[str, Any]:
    row = one(desk, entity, key, lock=True)
    if seen is not None and seen != row[VERSION]:
        message = f"{entity.name} {row['name']} has been changed since: read it again"
        raise faults.Fault(412, "PreconditionFailedError", message, entity_type=entity.name, entity_id=str(key))
    return row


def _written(desk: Desk, entity: Entity, query: sql.Composed, values: dict[str, Any]) -> dict[str, Any]:
    """The row after a statement that writes one; what the database refuses, in words."""
    try:
        row = desk.connection.execute(query, values).fetchone()
    except psycopg.errors.UniqueViolation as error:
        column = "replication_id" if "replication_id" in str(error.diag.constraint_name) else "name"
        shown = f"{entity.name} with {column} '{values.get(column)}' exists already"
        raise faults.conflict(shown, entity_type=entity.name, field=column) from None
    except psycopg.errors.CheckViolation as error:  # its constraint's name says what is allowed
        message = f"a value breaks the rule: {error.diag.constraint_name}"
        raise faults.invalid(entity.name, message) from None
    assert row is not None
    return row


def _stored(desk: Desk, entity: Entity, name: str, values: dict[str, Any]) -> dict[str, Any]:
    """The values as columns have them: secrets encrypted for their place, objects as JSON."""
    stored: dict[str, Any] = {}
    for column, value in values.items():
        if isinstance(value, SecretStr):
            place = context(entity.table, name, column)
            stored[column] = desk.keyring.encrypt(value.get_secret_value(), place).ciphertext
        else:
            stored[column] = Jsonb(value) if isinstance(value, dict) else value
    return stored
