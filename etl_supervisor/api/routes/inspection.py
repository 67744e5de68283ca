"""A look into a source: its connection, schemas, tables and columns; and what changing something there needs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any

import psycopg
from fastapi import APIRouter, Query
from psycopg import sql
from pydantic import BaseModel, Field

from etl_supervisor.api import audit, faults, rows, sessions
from etl_supervisor.api.access import Operator, Viewer
from etl_supervisor.api.bodies import Body, Id, Text
from etl_supervisor.api.caller import Caller
from etl_supervisor.api.control import Control, ControlOf
from etl_supervisor.api.routes.resources import desk_of
from etl_supervisor.errors import EtlError
from etl_supervisor.repository import desired

TABLES_MAX = 10_000

router = APIRouter(prefix="/sources", tags=["source inspection"])
Schema = Annotated[str | None, Query(max_length=63, description="Of this schema alone")]

_SCHEMAS = (
    "SELECT nspname AS name FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' ORDER BY 1"
)
_TABLES = """
SELECT n.nspname AS schema, c.relname AS name, c.relkind = 'p' AS partitioned, greatest(c.reltuples, 0)::bigint AS rows_estimated,
       pg_total_relation_size(c.oid) AS bytes, c.relreplident::text AS replica_identity,
       EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary) AS has_primary_key,
       ARRAY(SELECT pubname::text FROM pg_publication_tables p WHERE p.schemaname = n.nspname AND p.tablename = c.relname ORDER BY 1) AS publications
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND (%(schema)s::text IS NULL OR n.nspname = %(schema)s)
ORDER BY 1, 2 LIMIT %(limit)s"""
_COLUMNS = """
SELECT a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, NOT a.attnotnull AS nullable,
       coalesce(a.attnum = ANY(i.indkey), false) AS primary_key, a.attgenerated <> '' AS generated
FROM pg_attribute a LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary
WHERE a.attrelid = to_regclass(format('%%I.%%I', %(schema)s::text, %(name)s::text)) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum"""


class Named(BaseModel):
    """Something with a name."""

    name: str


class Table(BaseModel):
    """A table of the source. `replica_identity` is d (primary key), i (an index), f (the whole row) or n (nothing)."""

    schema_: str = Field(alias="schema")
    name: str
    partitioned: bool
    rows_estimated: int
    bytes: int
    replica_identity: str
    has_primary_key: bool
    publications: list[str]


class Column(BaseModel):
    """A column as PostgreSQL has it."""

    name: str
    type: str
    nullable: bool
    primary_key: bool
    generated: bool


class TableRef(Body):
    """A table."""

    schema_: Text = Field("public", alias="schema")
    name: Text


class Finding(BaseModel):
    """Something that is wrong, and its remedy."""

    kind: str
    place: str
    reason: str
    remedy: str


class Tested(BaseModel):
    """Whether a connection works and the other end is as it must be."""

    ok: bool
    server_version: str | None = None
    findings: list[Finding] = []


@router.post("/{key}/test", summary="Test the connection to a source")
def test_source(key: Id, control: ControlOf, caller: Operator) -> Tested:
    """Connects as the reader does, and looks at wal_level, version, publications and standby."""
    return tested(control, row_of(control, caller, key))


@router.get("/{key}/schemas", summary="List schemas")
def list_schemas(key: Id, control: ControlOf, caller: Viewer) -> list[Named]:
    """Without PostgreSQL's own."""
    return [Named(**row) for row in _ask(control, caller, key, _SCHEMAS)]


@router.get("/{key}/tables", summary="List tables")
def list_tables(key: Id, control: ControlOf, caller: Viewer, schema: Schema = None) -> list[Table]:
    """At most 10,000, with the publications that have them."""
    return [Table(**row) for row in _ask(control, caller, key, _TABLES, schema=schema, limit=TABLES_MAX)]


@router.get("/{key}/tables/{schema}/{table}/columns", summary="List the columns of a table")
def list_columns(key: Id, schema: str, table: str, control: ControlOf, caller: Viewer) -> list[Column]:
    """In their order."""
    found = _ask(control, caller, key, _COLUMNS, schema=schema, name=table)
    if not found:
        raise faults.not_found("Table", f"{schema}.{table}")
    return [Column(**row) for row in found]


def tested(control: Control, row: dict[str, Any]) -> Tested:
    """What a test of a source finds."""
    try:
        with sessions.of_source(control, row) as connection:
            version = connection.info.parameter_status("server_version")
            sessions.check_source(connection, desired.source_of(row))
    except EtlError as error:
        return Tested(ok=False, findings=[finding(error)])
    return Tested(ok=True, server_version=version)


def finding(error: EtlError) -> Finding:
    """An error as data."""
    return Finding(kind=str(error.kind), place=error.place, reason=error.reason, remedy=error.remedy)


def row_of(control: Control, caller: Caller, key: int) -> dict[str, Any]:
    """The source. Fault 404."""
    with desk_of(control, caller) as desk:
        return rows.one(desk, rows.SOURCE, key)


def change(
    control: Control, caller: Caller, row: dict[str, Any], statements: list[sql.Composed], what: tuple[str, str, Any]
) -> None:
    """Run statements at the source in one transaction, and write down what was done: action, name, what was asked for."""
    action, name, told = what
    with sessions.of_source(control, row) as connection, _asked_for(row["name"]), connection.transaction():
        for statement in statements:
            connection.execute(statement, prepare=True)  # so each is one statement, whatever expression is in it
    with control.pool.transaction() as connection:
        place = ("Source", f"{row['id']} {row['name']}: {name}")
        audit.note(connection, caller, action, place, (None, told), row["tenant"])


@contextlib.contextmanager
def _asked_for(source: str) -> Iterator[None]:
    """What PostgreSQL refuses for what was asked, not for how the source is: Fault 409 or 422."""
    try:
        yield
    except psycopg.errors.DuplicateObject as error:
        raise faults.conflict(f"source {source}: {error.diag.message_primary}", source=source) from None
    except psycopg.errors.InsufficientPrivilege:
        raise
    except (psycopg.ProgrammingError, psycopg.NotSupportedError) as error:
        raise faults.Fault(
            422, "StatementRefusedError", f"source {source}: {error.diag.message_primary}", source=source
        ) from None


def _ask(control: Control, caller: Caller, key: int, query: str, **parameters: object) -> list[dict[str, Any]]:
    with sessions.of_source(control, row_of(control, caller, key)) as connection:
        return connection.execute(query.encode(), parameters or None).fetchall()
