"""Publications of a source: listed, made, changed, dropped, as far as its PostgreSQL can.

What a publication gets or loses the reader sees by itself, within seconds. One that a source reads is not dropped: its reader would stop. Row
filters, column lists and schemas came with PostgreSQL 15. A filter is an expression in SQL, which PostgreSQL looks at: it takes the row's columns
and its own functions that always say the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from psycopg import sql
from pydantic import BaseModel, ConfigDict, Field, model_validator

from etl_supervisor.api import faults, sessions
from etl_supervisor.api.access import Admin, Viewer
from etl_supervisor.api.bodies import Body, Id, Text
from etl_supervisor.api.caller import Caller
from etl_supervisor.api.control import Control, ControlOf
from etl_supervisor.api.routes.inspection import Named, TableRef, change, row_of
from etl_supervisor.api.routes.resources import desk_of
from etl_supervisor.model import names

PG_VERSION_FILTERS = 150_000  # row filters, column lists, schemas
LISTED_MAX = 1000

router = APIRouter(prefix="/sources", tags=["source inspection"])
OTHERS = "a source of another tenant"
SchemaName = Annotated[Text, Field(max_length=63)]
Kinds = Annotated[list[Literal["insert", "update", "delete", "truncate"]], Field(min_length=1, max_length=4)]

_PLAIN = """
SELECT p.pubname AS name, p.puballtables AS all_tables, p.pubviaroot AS via_root,
       concat_ws(', ', CASE WHEN pubinsert THEN 'insert' END, CASE WHEN pubupdate THEN 'update' END,
                 CASE WHEN pubdelete THEN 'delete' END, CASE WHEN pubtruncate THEN 'truncate' END) AS publishes,
       ARRAY(SELECT schemaname || '.' || tablename FROM pg_publication_tables t WHERE t.pubname = p.pubname ORDER BY 1) AS tables{more}
FROM pg_publication p ORDER BY 1"""
_SINCE_15 = """,
       ARRAY(SELECT nspname::text FROM pg_publication_namespace n JOIN pg_namespace s ON s.oid = n.pnnspid
             WHERE n.pnpubid = p.oid ORDER BY 1) AS schemas,
       coalesce((SELECT jsonb_object_agg(prrelid::regclass::text, pg_get_expr(prqual, prrelid)) FROM pg_publication_rel r
                 WHERE r.prpubid = p.oid AND prqual IS NOT NULL), '{}') AS filters,
       coalesce((SELECT jsonb_object_agg(prrelid::regclass::text, ARRAY(SELECT attname FROM pg_attribute a
                 WHERE a.attrelid = r.prrelid AND a.attnum = ANY (r.prattrs) ORDER BY attnum)) FROM pg_publication_rel r
                 WHERE r.prpubid = p.oid AND prattrs IS NOT NULL), '{}') AS columns"""


class Publication(BaseModel):
    """A publication and its tables, those of its schemas too. `filters` and `columns` are of the tables that have some, by name as SQL writes it."""

    name: str
    all_tables: bool
    via_root: bool
    publishes: str
    tables: list[str]
    schemas: list[str] = []
    filters: dict[str, str] = {}
    columns: dict[str, list[str]] = {}


class PublishedTable(TableRef):
    """A table that comes into a publication; its filter and columns need PostgreSQL 15."""

    where: Text | None = Field(None, description="Only rows for which this SQL expression holds")
    columns: list[SchemaName] | None = Field(None, min_length=1, max_length=1600, description="Only these columns")


class PublicationBody(Body):
    """A publication to be made: for some tables, the tables of some schemas (PostgreSQL 15), or for all."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"name": "etl", "tables": [{"schema": "public", "name": "orders"}]}}
    )

    name: SchemaName
    tables: list[PublishedTable] = Field(default_factory=list, max_length=LISTED_MAX)
    schemas: list[SchemaName] = Field(default_factory=list, max_length=LISTED_MAX)
    all_tables: bool = False
    publishes: Kinds | None = Field(None, description="What is published; everything when not given")
    via_root: bool = Field(False, description="Changes of partitions as changes of the partitioned table")

    @model_validator(mode="after")
    def _one_way(self) -> PublicationBody:
        if self.all_tables == bool(self.tables or self.schemas):
            raise ValueError("give tables or schemas, or all_tables")
        return self


class PublicationChanges(Body):
    """What comes, goes, and is another. A table that is dropped and added gets the filter and columns that it is added with."""

    add: list[PublishedTable] = Field(default_factory=list, max_length=LISTED_MAX)
    drop: list[TableRef] = Field(default_factory=list, max_length=LISTED_MAX)
    add_schemas: list[SchemaName] = Field(default_factory=list, max_length=LISTED_MAX)
    drop_schemas: list[SchemaName] = Field(default_factory=list, max_length=LISTED_MAX)
    publishes: Kinds | None = None
    via_root: bool | None = None


@router.get("/{key}/publications", summary="List publications")
def list_publications(key: Id, control: ControlOf, caller: Viewer) -> list[Publication]:
    """With their tables."""
    with sessions.of_source(control, row_of(control, caller, key)) as connection:
        more = _SINCE_15 if connection.info.server_version >= PG_VERSION_FILTERS else ""
        found = connection.execute(_PLAIN.replace("{more}", more).encode()).fetchall()
    return [Publication(**row) for row in found]


@router.post("/{key}/publications", status_code=201, summary="Make a publication")
def create_publication(key: Id, body: PublicationBody, control: ControlOf, caller: Admin) -> Named:
    """The user of the source must own the tables (for all tables or schemas: be a superuser)."""
    row = row_of(control, caller, key)
    _must_be_known(control, row, body.tables, body.schemas)
    whom = sql.SQL("ALL TABLES") if body.all_tables else _members(body.tables, body.schemas)
    statement = sql.SQL("CREATE PUBLICATION {} FOR {} WITH ({})").format(
        sql.Identifier(body.name), whom, _options(body.publishes, via_root=body.via_root)
    )
    change(control, caller, row, [statement], ("create publication", body.name, _told(body)))
    return Named(name=body.name)


@router.patch("/{key}/publications/{name}", summary="Change a publication")
def change_publication(key: Id, name: str, body: PublicationChanges, control: ControlOf, caller: Admin) -> Named:
    """All of it or nothing. A table that comes is copied first. Refused (409) while a source of another tenant reads it."""
    row = row_of(control, caller, key)
    if OTHERS in _readers(control, caller, row, name):
        raise faults.conflict(f"Publication {name} is read by {OTHERS}", publication=name)
    _must_be_known(control, row, body.add, [*body.add_schemas, *body.drop_schemas])
    statements = [sql.SQL("ALTER PUBLICATION {} ").format(sql.Identifier(name)) + part for part in _changes(body)]
    change(control, caller, row, statements, ("change publication", name, _told(body)))
    return Named(name=name)


@router.delete("/{key}/publications/{name}", status_code=204, summary="Drop a publication")
def drop_publication(key: Id, name: str, control: ControlOf, caller: Admin) -> None:
    """Refused (409) while a source of this database has it in its publication_name."""
    row = row_of(control, caller, key)
    with sessions.of_source(control, row) as connection:
        if connection.execute("SELECT FROM pg_publication WHERE pubname = %s", [name]).fetchone() is None:
            raise faults.not_found("Publication", name)
    readers = _readers(control, caller, row, name)
    if readers:
        message = f"Publication {name} is read by {', '.join(readers)}; take it out of publication_name first"
        raise faults.conflict(message, publication=name)
    statement = sql.SQL("DROP PUBLICATION {}").format(sql.Identifier(name))
    change(control, caller, row, [statement], ("drop publication", name, None))


@router.post("/{key}/tables", status_code=201, summary="Register a table")
def register_table(key: Id, body: PublishedTable, control: ControlOf, caller: Admin) -> Named:
    """Adds it to the source's (first) publication; the reader finds it within seconds and copies it."""
    row = row_of(control, caller, key)
    _must_be_known(control, row, [body], [])
    listed = _listed(row["publication_name"])
    if not listed:
        raise faults.invalid(
            "publication_name", "the source's can't be read: put names with commas or quotes in double quotes"
        )
    name = listed[0]
    statement = sql.SQL("ALTER PUBLICATION {} ADD {}").format(sql.Identifier(name), _members([body], []))
    change(control, caller, row, [statement], ("register table", f"{body.schema_}.{body.name}", _told(body)))
    return Named(name=name)


def _must_be_known(control: Control, row: dict[str, Any], tables: list[PublishedTable], schemas: list[str]) -> None:
    """Fault 422 for what the source's PostgreSQL is too old for, by the field."""
    asked = {
        "schemas": bool(schemas),
        "where": any(table.where for table in tables),
        "columns": any(table.columns for table in tables),
    }
    new = [field for field, here in asked.items() if here]
    if not new:
        return
    with sessions.of_source(control, row) as connection:
        version = connection.info.server_version
    if version < PG_VERSION_FILTERS:
        raise faults.invalid(new[0], f"it needs PostgreSQL 15 or newer; the source has {version // 10_000}")


def _readers(control: Control, caller: Caller, row: dict[str, Any], name: str) -> list[str]:
    """The sources of this database that read a publication, as far as the caller may know them."""
    with desk_of(control, caller) as desk:
        found = desk.connection.execute(
            "SELECT name, tenant, publication_name FROM app.sources"
            " WHERE (pg_host, pg_port, pg_database) = (%(pg_host)s, %(pg_port)s, %(pg_database)s) ORDER BY id",
            row,
        ).fetchall()
    reading = [item for item in found if name in _listed(item["publication_name"])]
    return list(
        dict.fromkeys(
            f"source {item['name']}" if caller.tenant in (None, item["tenant"]) else OTHERS for item in reading
        )
    )


def _listed(text: str) -> list[str]:
    """The publications that a source reads; none when its list can't be read (somebody wrote it by SQL)."""
    try:
        return names.publications(text)
    except ValueError:
        return []


def _changes(body: PublicationChanges) -> Iterator[sql.Composable]:
    for verb, tables, schemas in (("DROP ", body.drop, body.drop_schemas), ("ADD ", body.add, body.add_schemas)):
        if tables or schemas:
            yield sql.SQL(verb) + _members(tables, schemas)
    if body.publishes is not None or body.via_root is not None:
        yield sql.SQL("SET ({})").format(_options(body.publishes, via_root=body.via_root))


def _options(publishes: list[Any] | None, *, via_root: bool | None) -> sql.Composed:
    options = []
    if publishes is not None:
        options.append(sql.SQL("publish = {}").format(sql.Literal(", ".join(dict.fromkeys(publishes)))))
    if via_root is not None:
        options.append(sql.SQL("publish_via_partition_root = {}").format(sql.SQL("true" if via_root else "false")))
    return sql.SQL(", ").join(options)


def _members(tables: list[Any], schemas: list[str]) -> sql.Composed:
    """`TABLE a (x, y) WHERE (…), TABLE b, TABLES IN SCHEMA s`."""
    members: list[sql.Composable] = [sql.SQL("TABLE ") + _member(table) for table in tables]
    members += [sql.SQL("TABLES IN SCHEMA {}").format(sql.Identifier(name)) for name in schemas]
    return sql.SQL(", ").join(members)


def _member(table: TableRef) -> sql.Composed:
    text = sql.Composed([sql.Identifier(table.schema_, table.name)])
    if isinstance(table, PublishedTable):
        if table.columns:
            text += sql.SQL(" ({})").format(sql.SQL(", ").join(map(sql.Identifier, table.columns)))
        if table.where:
            text += sql.SQL(" WHERE (") + sql.SQL(table.where) + sql.SQL(")")
    return text


def _told(body: Body) -> dict[str, Any]:
    return body.model_dump(exclude_unset=True, by_alias=True)
