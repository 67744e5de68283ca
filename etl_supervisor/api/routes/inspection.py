"""A look into a source: schemas, tables, columns, publications, slots; and changing publications and slots.

What a publication gets or loses the reader sees by itself, within seconds. A slot that a started pipeline needs is not dropped.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from psycopg import sql
from pydantic import BaseModel, ConfigDict, Field, model_validator

from etl_supervisor.api import audit, faults, rows, sessions
from etl_supervisor.api.access import Admin, Operator, Viewer
from etl_supervisor.api.bodies import Body, Id, Text
from etl_supervisor.api.caller import Caller
from etl_supervisor.api.control import Control, ControlOf
from etl_supervisor.api.operations import Operation
from etl_supervisor.api.routes.resources import desk_of
from etl_supervisor.errors import EtlError
from etl_supervisor.model import names
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
_PUBLICATIONS = """
SELECT p.pubname AS name, p.puballtables AS all_tables, p.pubviaroot AS via_root,
       concat_ws(', ', CASE WHEN pubinsert THEN 'insert' END, CASE WHEN pubupdate THEN 'update' END,
                 CASE WHEN pubdelete THEN 'delete' END, CASE WHEN pubtruncate THEN 'truncate' END) AS publishes,
       ARRAY(SELECT schemaname || '.' || tablename FROM pg_publication_tables t WHERE t.pubname = p.pubname ORDER BY 1) AS tables
FROM pg_publication p ORDER BY 1"""
_SLOTS = """
SELECT slot_name AS name, plugin, active, wal_status, safe_wal_size AS safe_wal_bytes, confirmed_flush_lsn::text AS confirmed, temporary,
       pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
                       restart_lsn)::bigint AS retained_bytes
FROM pg_replication_slots WHERE slot_type = 'logical' AND database = current_database() ORDER BY 1"""


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


class Publication(BaseModel):
    """A publication and its tables."""

    name: str
    all_tables: bool
    via_root: bool
    publishes: str
    tables: list[str]


class Slot(BaseModel):
    """A logical slot of this database. `retained_bytes` is the WAL it holds back; `ours` says that this source reads from it."""

    name: str
    plugin: str | None
    active: bool
    wal_status: str | None
    safe_wal_bytes: int | None
    confirmed: str | None
    temporary: bool
    retained_bytes: int | None
    ours: bool


class TableRef(Body):
    """A table."""

    schema_: Text = Field("public", alias="schema")
    name: Text


class PublicationBody(Body):
    """A publication to be made: for some tables, or for all."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"name": "etl", "tables": [{"schema": "public", "name": "orders"}]},
            "oneOf": [
                {"properties": {"all_tables": {"const": False}, "tables": {"minItems": 1}}, "required": ["tables"]},
                {"properties": {"all_tables": {"const": True}, "tables": {"maxItems": 0}}, "required": ["all_tables"]},
            ],
        }
    )

    name: Text = Field(max_length=63)
    tables: list[TableRef] = Field(default_factory=list, max_length=1000)
    all_tables: bool = False
    via_root: bool = Field(False, description="Changes of partitions as changes of the partitioned table")

    @model_validator(mode="after")
    def _one_way(self) -> PublicationBody:
        if self.all_tables == bool(self.tables):
            raise ValueError("give tables, or all_tables")
        return self


class PublicationChanges(Body):
    """Tables that come and go."""

    add: list[TableRef] = Field(default_factory=list, max_length=1000)
    drop: list[TableRef] = Field(default_factory=list, max_length=1000)


class SlotBody(Body):
    """A slot to be made."""

    name: str | None = Field(None, pattern=r"^[a-z0-9_]{1,63}$", description="The source's own when not given")


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
    return tested(control, _row(control, caller, key))


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


@router.get("/{key}/publications", summary="List publications")
def list_publications(key: Id, control: ControlOf, caller: Viewer) -> list[Publication]:
    """With their tables."""
    return [Publication(**row) for row in _ask(control, caller, key, _PUBLICATIONS)]


@router.post("/{key}/publications", status_code=201, summary="Make a publication")
def create_publication(key: Id, body: PublicationBody, control: ControlOf, caller: Admin) -> Named:
    """The user of the source must own the tables (for all tables: be a superuser)."""
    whom = sql.SQL("FOR ALL TABLES") if body.all_tables else sql.SQL("FOR TABLE {}").format(_listed(body.tables))
    via_root = sql.SQL("true" if body.via_root else "false")
    statement = sql.SQL("CREATE PUBLICATION {} {} WITH (publish_via_partition_root = {})").format(
        sql.Identifier(body.name), whom, via_root
    )
    _change(control, caller, key, [statement], ("create publication", body.name))
    return Named(name=body.name)


@router.patch("/{key}/publications/{name}", summary="Add and drop tables of a publication")
def change_publication(key: Id, name: str, body: PublicationChanges, control: ControlOf, caller: Admin) -> Named:
    """All of it or nothing. A table that comes is copied first."""
    statements = [
        sql.SQL("ALTER PUBLICATION {} {} TABLE {}").format(sql.Identifier(name), sql.SQL(verb), _listed(tables))
        for verb, tables in (("DROP", body.drop), ("ADD", body.add))
        if tables
    ]
    _change(control, caller, key, statements, ("change publication", name))
    return Named(name=name)


@router.post("/{key}/tables", status_code=201, summary="Register a table")
def register_table(key: Id, body: TableRef, control: ControlOf, caller: Admin) -> Named:
    """Adds it to the source's (first) publication; the reader finds it within seconds and copies it."""
    name = names.publications(_row(control, caller, key)["publication_name"])[0]
    statement = sql.SQL("ALTER PUBLICATION {} ADD TABLE {}").format(sql.Identifier(name), _listed([body]))
    _change(control, caller, key, [statement], ("register table", f"{body.schema_}.{body.name}"))
    return Named(name=name)


@router.get("/{key}/slots", summary="List logical slots")
def list_slots(key: Id, control: ControlOf, caller: Viewer) -> list[Slot]:
    """Of the source's database."""
    ours = names.slot(_row(control, caller, key)["replication_id"])
    return [Slot(**row, ours=row["name"] == ours) for row in _ask(control, caller, key, _SLOTS)]


@router.post("/{key}/slots", status_code=202, summary="Make a slot")
def create_slot(key: Id, body: SlotBody, control: ControlOf, caller: Admin) -> Operation:
    """It waits for the transactions that are open. The reader makes its own slot itself: this is for making it beforehand."""
    row = _row(control, caller, key)
    name = body.name or names.slot(row["replication_id"])

    def work() -> dict[str, Any]:
        with sessions.of_source(control, row, options="-c statement_timeout=300000") as connection:
            made = connection.execute(
                "SELECT * FROM pg_create_logical_replication_slot(%s, 'pgoutput')", [name]
            ).fetchone()
        assert made is not None
        return {"name": name, "lsn": str(made["lsn"])}

    return control.crew.begin(caller, row["tenant"], ("create slot", f"source {key}, slot {name}"), work)


@router.delete("/{key}/slots/{name}", status_code=204, summary="Drop a slot")
def drop_slot(key: Id, name: str, control: ControlOf, caller: Admin) -> None:
    """Refused (409) for the slot of a source with a started pipeline; PostgreSQL refuses one that is read."""
    row = _row(control, caller, key)
    if name not in {slot["name"] for slot in _ask(control, caller, key, _SLOTS)}:
        raise faults.not_found("Slot", name)
    if name == names.slot(row["replication_id"]) and _has_started(control, key):
        raise faults.conflict(f"Slot {name} is needed by started pipelines; pause them first", slot=name)
    statement = sql.SQL("SELECT pg_drop_replication_slot({})").format(sql.Literal(name))
    _change(control, caller, key, [statement], ("drop slot", name))


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


def _row(control: Control, caller: Caller, key: int) -> dict[str, Any]:
    with desk_of(control, caller) as desk:
        return rows.one(desk, rows.SOURCE, key)


def _ask(control: Control, caller: Caller, key: int, query: str, **parameters: object) -> list[dict[str, Any]]:
    with sessions.of_source(control, _row(control, caller, key)) as connection:
        return connection.execute(query.encode(), parameters or None).fetchall()


def _change(control: Control, caller: Caller, key: int, statements: list[sql.Composed], what: tuple[str, str]) -> None:
    """Run statements at the source in one transaction, and write down what was done."""
    row, (action, name) = _row(control, caller, key), what
    with sessions.of_source(control, row) as connection, connection.transaction():
        for statement in statements:
            connection.execute(statement)
    with control.pool.transaction() as connection:
        told = {"statements": len(statements)}
        audit.note(connection, caller, action, ("Source", f"{key} {row['name']}: {name}"), (None, told), row["tenant"])


def _has_started(control: Control, key: int) -> bool:
    with control.pool.transaction() as connection:
        query = "SELECT FROM app.pipelines WHERE source_id = %s AND status = 'START' LIMIT 1"
        return connection.execute(query, [key]).fetchone() is not None


def _listed(tables: list[TableRef]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(table.schema_, table.name) for table in tables)
