"""`_ETL_WATERMARK` and `_ETL_DEAD_LETTER` as tables: made, and given the columns that a newer version of this program needs.

Snowflake adds no column that is missing *and* has a default or is NOT NULL, so one that came later may be NULL in its definition; it is filled.
"""

from __future__ import annotations

from typing import Any

from workers.snowflake.identifiers import Objects, literal, quoted

_FIRST = (
    ("LANDING_TABLE", "VARCHAR"),
    ("PIPELINE_ID", "NUMBER(19,0)"),
    ("PIPELINE", "VARCHAR"),
    ("OWNER", "VARCHAR"),
    ("SOURCE_SCHEMA", "VARCHAR"),
    ("SOURCE_TABLE", "VARCHAR"),
    ("GENERATION", "NUMBER(10,0)"),
    ("APPLIED", "NUMBER(20,0)"),
    ("EPOCH", "NUMBER(19,0)"),
)
_LATER = (  # name, type, what it is in rows that are there ("": NULL)
    ("SHAPE", "VARCHAR", "''"),
    ("SHAPE_SINCE", "VARCHAR", "''"),
    ("POLICY", "VARCHAR", "''"),
    ("OFFERED", "VARCHAR", "''"),
    ("FENCE", "NUMBER(20,0)", "0"),
    ("BASE", "NUMBER(20,0)", "0"),
    ("SHOWN", "NUMBER(10,0)", "IFF(APPLIED > 0, GENERATION, 0)"),
    ("HISTORY", "NUMBER(20,0)", "0"),
    ("PURGED", "NUMBER(10,0)", "0"),
    ("COMMITTED_AT", "TIMESTAMP_TZ(6)", ""),
    ("UPDATED_AT", "TIMESTAMP_TZ(6)", ""),
)


def create(objects: Objects) -> str:
    """CREATE TABLE of the watermarks."""
    columns = [f"{name} {kind} NOT NULL" for name, kind in _FIRST]
    columns += [f"{name} {kind}{' NOT NULL' if there else ''}" for name, kind, there in _LATER]
    return f"CREATE TABLE IF NOT EXISTS {objects.watermark_sql} ({', '.join(columns)}, PRIMARY KEY (LANDING_TABLE))"


def create_schemas(cursor: Any, objects: Objects) -> None:
    """Both schemas of a destination, and the watermarks."""
    for schema in dict.fromkeys((objects.landing_schema, objects.schema)):
        create_schema(cursor, objects, schema)
    cursor.execute(create(objects))


def create_schema(cursor: Any, objects: Objects, schema: str) -> None:
    """Make a schema if there is none. One that is there needs no privilege to make schemas."""
    known = f"{quoted(objects.database)}.INFORMATION_SCHEMA.SCHEMATA"
    there = cursor.execute(f"SELECT 1 FROM {known} WHERE SCHEMA_NAME = {literal(schema)}").fetchone()
    if there is None:
        cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(objects.database)}.{quoted(schema)}")


def complete(cursor: Any, objects: Objects) -> None:
    """Add the columns that an older version did not make. May run twice, and be cut off anywhere."""
    for name, kind, _ in _LATER:
        cursor.execute(f"ALTER TABLE {objects.watermark_sql} ADD COLUMN IF NOT EXISTS {name} {kind}")
    for name, _, there in _LATER:
        if there:
            cursor.execute(f"UPDATE {objects.watermark_sql} SET {name} = {there} WHERE {name} IS NULL")
