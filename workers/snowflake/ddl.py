"""Makes a table's objects what they have to be: schemas, landing table, target, watermark; adds and widens columns.

One look (DESCRIBE of both tables), then only what is missing. Everything is IF NOT EXISTS or idempotent, so it may run twice or be cut off
anywhere: the next open goes on. A column added with a default gets it in every row that is there at that moment, landed or applied (the actor calls
this only when everything sent under the older shape is durable): the ADD and the UPDATE are two steps, and the column is marked by its comment
until the second is done, so a crash between them is made good by the next open.

The watermark row is the owner mark: (pipeline, source cluster and slot, table). Another owner is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import structlog
from snowflake.connector.errors import Error, ProgrammingError

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model import names
from etl_supervisor.model.table import Column, Table
from workers.snowflake.connection import classify
from workers.snowflake.identifiers import Objects, check_columns, literal, objects_of, quoted
from workers.snowflake.sftypes import LANDING_META, TARGET_META, column_type, follows

DOES_NOT_EXIST = 2003

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far a target is: everything below `applied` (commit_lsn, exclusive) of `generation`; `epoch` is the reader's that moved it."""

    generation: int
    applied: int
    epoch: int


def ensure(connection: Any, opening: OpenTable) -> Watermark:
    """Create or alter what is needed; the table's watermark. EtlError(SCHEMA, DESTINATION_SETUP, …) when it can't be."""
    place = f"pipeline {opening.pipeline}, table {opening.table.name}"
    check_columns(opening.table)
    objects = objects_of(opening.destination, opening.table)
    try:
        with connection.cursor() as cursor:
            return _ensure(cursor, opening, objects, place)
    except Error as error:
        raise classify(error, place, Kind.DESTINATION_SETUP) from None


def column_types(connection: Any, opening: OpenTable) -> list[tuple[str, str]]:
    """(name, type as Snowflake describes it) of the landing table's columns."""
    objects = objects_of(opening.destination, opening.table)
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"DESCRIBE TABLE {objects.landing_sql}")
            titles = [item[0].lower() for item in cursor.description]
            name, kind = titles.index("name"), titles.index("type")
            return [(row[name], row[kind]) for row in cursor.fetchall()]
    except Error as error:
        raise classify(error, f"pipeline {opening.pipeline}", Kind.DESTINATION_SETUP) from None


def _ensure(cursor: Any, opening: OpenTable, objects: Objects, place: str) -> Watermark:
    landing = _described(cursor, objects.landing_sql)
    target = _described(cursor, objects.target_sql)
    if landing is None or target is None:
        _create(cursor, opening.table, objects)
        log.info("EnsureTableInitialized", pipeline=opening.pipeline, landing=objects.landing, target=objects.target)
        landing = landing or _described(cursor, objects.landing_sql) or {}
        target = target or _described(cursor, objects.target_sql) or {}
    _follow(cursor, objects.landing_sql, landing, opening.table, place)
    _follow(cursor, objects.target_sql, target, opening.table, place)
    return _own(cursor, opening, objects, place)


def _described(cursor: Any, table: str) -> dict[str, tuple[str, str]] | None:
    """Column -> (type, comment); None when there is no such table."""
    try:
        cursor.execute(f"DESCRIBE TABLE {table}")
    except ProgrammingError as error:
        if error.errno == DOES_NOT_EXIST:
            return None
        raise
    titles = [item[0].lower() for item in cursor.description]
    name, kind = titles.index("name"), titles.index("type")
    comment = titles.index("comment") if "comment" in titles else None
    return {
        row[name]: (_spelled(row[kind]), (row[comment] or "") if comment is not None else "")
        for row in cursor.fetchall()
    }


def _spelled(described: str) -> str:
    """A described type in the spelling of `sftypes.column_type`: sizes of text and time types are all alike to us."""
    kind, _, _ = described.partition("(")
    return described if kind == "NUMBER" else kind


def _create(cursor: Any, table: Table, objects: Objects) -> None:
    for schema in dict.fromkeys((objects.landing_schema, objects.schema)):
        cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(objects.database)}.{quoted(schema)}")
    cursor.execute(
        f"CREATE TABLE IF NOT EXISTS {objects.watermark_sql} (LANDING_TABLE VARCHAR NOT NULL, PIPELINE_ID NUMBER(19,0) NOT NULL,"
        " PIPELINE VARCHAR NOT NULL, OWNER VARCHAR NOT NULL, SOURCE_SCHEMA VARCHAR NOT NULL, SOURCE_TABLE VARCHAR NOT NULL,"
        " GENERATION NUMBER(10,0) NOT NULL, APPLIED NUMBER(20,0) NOT NULL, EPOCH NUMBER(19,0) NOT NULL,"
        " UPDATED_AT TIMESTAMP_TZ(6), PRIMARY KEY (LANDING_TABLE))"
    )
    columns = ", ".join(
        [f"{name} {kind}" for name, kind in LANDING_META] + [_definition(column) for column in table.columns]
    )
    cursor.execute(
        f"CREATE TRANSIENT TABLE IF NOT EXISTS {objects.landing_sql} ({columns}) DATA_RETENTION_TIME_IN_DAYS = 0"
    )
    parts = [_definition(column) + (" NOT NULL" if column.key else "") for column in table.columns]
    parts += [f"{name} {kind}" for name, kind in TARGET_META]
    if table.key:
        parts.append(f"PRIMARY KEY ({', '.join(quoted(names.column(column.name)) for column in table.key)})")
    cursor.execute(f"CREATE TABLE IF NOT EXISTS {objects.target_sql} ({', '.join(parts)})")


def _definition(column: Column) -> str:
    return f"{quoted(names.column(column.name))} {column_type(column.type)}"


_FILLING = "etl: default pending"


def _follow(cursor: Any, table_sql: str, present: dict[str, tuple[str, str]], table: Table, place: str) -> None:
    """Add what is missing, widen what is too narrow, refuse what can't be followed."""
    for column in table.columns:
        name, wanted = names.column(column.name), column_type(column.type)
        if name not in present:
            filling = column.default is not None
            comment = f" COMMENT {literal(_FILLING)}" if filling else ""
            cursor.execute(f"ALTER TABLE {table_sql} ADD COLUMN IF NOT EXISTS {_definition(column)}{comment}")
            log.info("column_added", place=place, column=name, type=wanted)
            if filling:
                _fill(cursor, table_sql, column)
            continue
        kind, comment = present[name]
        if comment == _FILLING and column.default is not None:
            _fill(cursor, table_sql, column)
        fits = follows(kind, wanted)
        if fits is None:
            reason = f"column {column.name} is {kind} in Snowflake and became {wanted}"
            remedy = "rename the column in Snowflake, or copy the table again into a new one"
            raise EtlError(Kind.SCHEMA, place, reason, remedy)
        if not fits:
            cursor.execute(f"ALTER TABLE {table_sql} ALTER COLUMN {quoted(name)} SET DATA TYPE {wanted}")
            log.info("column_widened", place=place, column=name, type=wanted)


def _fill(cursor: Any, table_sql: str, column: Column) -> None:
    """Rows older than the column hold its default (attmissingval). Rows that were changed since come later, with the apply."""
    name = quoted(names.column(column.name))
    text = literal(column.default or "")
    value = (
        f"PARSE_JSON({text})"
        if column_type(column.type) == "VARIANT"
        else f"CAST({text} AS {column_type(column.type)})"
    )
    if column_type(column.type) == "BINARY":
        value = f"TO_BINARY({literal((column.default or '').removeprefix(chr(92) + 'x'))}, 'HEX')"
    cursor.execute(f"UPDATE {table_sql} SET {name} = {value} WHERE {name} IS NULL")
    cursor.execute(f"COMMENT ON COLUMN {table_sql}.{name} IS ''")


def _own(cursor: Any, opening: OpenTable, objects: Objects, place: str) -> Watermark:
    """The watermark row: made if there is none, refused if it is another's, moved on for a new generation."""
    table = opening.table.name
    who = (opening.pipeline_id, opening.owner, table.schema, table.name)
    where = f"LANDING_TABLE = {literal(objects.landing)}"
    # One statement: two opens of the same table at the same moment make one row.
    cursor.execute(
        f"MERGE INTO {objects.watermark_sql} w USING (SELECT {literal(objects.landing)} AS LANDING_TABLE) s"
        " ON w.LANDING_TABLE = s.LANDING_TABLE WHEN NOT MATCHED THEN INSERT (LANDING_TABLE, PIPELINE_ID, PIPELINE, OWNER,"
        " SOURCE_SCHEMA, SOURCE_TABLE, GENERATION, APPLIED, EPOCH, UPDATED_AT) VALUES (s.LANDING_TABLE,"
        f" {opening.pipeline_id}, {literal(opening.pipeline)}, {literal(opening.owner)}, {literal(table.schema)},"
        f" {literal(table.name)}, {opening.generation}, 0, {opening.epoch}, CURRENT_TIMESTAMP())"
    )
    row = cursor.execute(
        "SELECT PIPELINE_ID, OWNER, SOURCE_SCHEMA, SOURCE_TABLE, PIPELINE, GENERATION, APPLIED, EPOCH"
        f" FROM {objects.watermark_sql} WHERE {where}"
    ).fetchone()
    if (int(row[0]), row[1], row[2], row[3]) != who:
        reason = f"{objects.landing} belongs to table {row[2]}.{row[3]} of pipeline {row[4]}"
        raise EtlError(Kind.DESTINATION_SETUP, place, reason, "use another landing schema and schema for this pipeline")
    found = Watermark(int(row[5]), int(row[6]), int(row[7]))
    if found.generation > opening.generation:
        reason = f"{objects.landing} is in generation {found.generation}, later than ours ({opening.generation})"
        raise EtlError(Kind.DESTINATION_SETUP, place, reason, "check this machine's clock, then copy the source again")
    if found.generation < opening.generation:
        cursor.execute(
            f"UPDATE {objects.watermark_sql} SET GENERATION = {opening.generation}, APPLIED = 0, EPOCH = {opening.epoch}"
            f" WHERE {where} AND GENERATION = {found.generation} AND EPOCH <= {opening.epoch}"
        )
        return Watermark(opening.generation, 0, opening.epoch)
    return found
