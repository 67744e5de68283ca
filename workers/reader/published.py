"""What the publications publish: tables, their columns, their row filters.

PostgreSQL's own view (pg_publication_tables) opens every table of every publication, so it waits while any of them is altered, truncated or
vacuumed in full, be it for an hour, and whoever asks it with it. It is asked where there is no other way: the catalog of a version that came later
than this code may mean something else. Elsewhere the catalog's rows are read, as the view reads them:

    publication     names                     publish_via_partition_root    publishes
    -------------   -----------------------   ---------------------------   ---------------------------------
    ALL TABLES      every permanent table     false                         the leaves of a partitioned table
    IN SCHEMA       those of the schema       true                          itself, and not its partitions
    TABLE           its rows, with columns
                    and row filter
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.table import TableName

COLUMN_LISTS = 150_000  # PostgreSQL versions: publications have column lists and row filters
GENERATED_COLUMNS = 180_000  # publications may publish generated columns
UNKNOWN = 190_000  # the first one whose catalog is not known here

# Each gives: oid, pubname, attnums (NULL: all), kinds of generated columns, filter (NULL: none).
_VIEW = """
    SELECT c.oid, p.pubname, {attnums}, {generated}, {filter}
    FROM pg_publication_tables p JOIN pg_namespace n ON n.nspname = p.schemaname
    JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename WHERE p.pubname = ANY(%(publications)s)
"""
_LISTED = "ARRAY(SELECT a.attnum FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = ANY(p.attnames))"
# A list or a filter counts where nothing else of the publication names the table. 16384: what came with the server is never published.
_CATALOG = """
    WITH RECURSIVE tree AS (
        SELECT p.oid AS publication, p.pubviaroot, c.oid, c.relkind FROM pg_publication p
        JOIN pg_class c ON c.relkind IN ('r', 'p') AND c.relpersistence = 'p' AND c.oid >= 16384
        WHERE p.pubname = ANY(%(publications)s) AND (p.puballtables
            OR (p.oid, c.relnamespace) IN (SELECT pnpubid, pnnspid FROM pg_publication_namespace)
            OR (p.oid, c.oid) IN (SELECT prpubid, prrelid FROM pg_publication_rel))
      UNION
        SELECT t.publication, t.pubviaroot, m.oid, m.relkind FROM tree t
        JOIN pg_inherits i ON i.inhparent = t.oid JOIN pg_class m ON m.oid = i.inhrelid
        WHERE t.relkind = 'p' AND NOT t.pubviaroot
    )
    SELECT t.oid, p.pubname, r.prattrs::int2[], {generated}, pg_get_expr(r.prqual, r.prrelid)
    FROM tree t JOIN pg_publication p ON p.oid = t.publication JOIN pg_class c ON c.oid = t.oid
    LEFT JOIN pg_publication_rel r ON r.prpubid = t.publication AND r.prrelid = t.oid AND NOT p.puballtables
        AND (p.oid, c.relnamespace) NOT IN (SELECT pnpubid, pnnspid FROM pg_publication_namespace)
    WHERE t.relkind <> 'p' OR t.pubviaroot
"""
_BEFORE = "ARRAY['']"  # what older publications publish
_GENERATED = "CASE WHEN r.prattrs IS NULL AND p.pubgencols = 'n' THEN ARRAY[''] ELSE ARRAY['', 's'] END"

# A partition is published as its topmost ancestor that is published by way of its root (only such an ancestor is found).
_TABLES = """
WITH found (oid, pubname, attnums, generated, filter) AS ({found})
SELECT c.oid::bigint, n.nspname::text, c.relname::text, l.columns, array_agg(f.pubname::text ORDER BY f.pubname)
FROM found f JOIN pg_class c ON c.oid = f.oid JOIN pg_namespace n ON n.oid = c.relnamespace
CROSS JOIN LATERAL (SELECT ARRAY(
    SELECT a.attname::text FROM pg_attribute a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated::text = ANY(f.generated)
      AND (f.attnums IS NULL OR a.attnum = ANY(f.attnums)) ORDER BY a.attnum) AS columns) l
WHERE (c.oid = %(oid)s OR %(oid)s IS NULL) AND NOT (c.relispartition AND EXISTS (
    SELECT FROM pg_partition_ancestors(c.oid) a WHERE a.relid <> c.oid AND a.relid IN (SELECT oid FROM found)))
GROUP BY 1, 2, 3, 4 ORDER BY 2, 3, 5
"""
_FILTERS = """
WITH found (oid, pubname, attnums, generated, filter) AS ({found})
SELECT oid::bigint, filter FROM found WHERE oid = ANY(%(oids)s::oid[]) ORDER BY oid, pubname
"""


@dataclass(frozen=True, slots=True)
class Published:
    """A table that is published, and the names of those of its columns that are."""

    oid: int
    name: TableName
    columns: frozenset[str]


def published_tables(
    connection: psycopg.Connection[Any], publications: list[str], place: str, oid: int | None = None
) -> list[Published]:
    """What these publications publish (of one table, if `oid` is given), by name. EtlError(SOURCE_SETUP) if they disagree."""
    found: dict[int, tuple[Published, list[str]]] = {}
    query = _TABLES.format(found=_found(connection)).encode()
    for at, schema, name, columns, by in connection.execute(query, {"publications": publications, "oid": oid}):
        table = Published(at, TableName(schema, name), frozenset(columns))
        if at in found:
            reason = f"table {table.name} has different column lists in publications {', '.join(found[at][1] + by)}"
            remedy = "give it one list in all of them: PostgreSQL does not stream it otherwise"
            raise EtlError(Kind.SOURCE_SETUP, place, reason, remedy)
        found[at] = (table, by)
    return [table for table, _ in found.values()]


def row_filters(connection: psycopg.Connection[Any], publications: list[str], oids: list[int]) -> dict[int, str]:
    """Which rows of these tables are published, as SQL; without those of which it is all. The text is PostgreSQL's own rendering."""
    filters: dict[int, list[str | None]] = {}
    query = _FILTERS.format(found=_found(connection)).encode()
    for oid, text in connection.execute(query, {"publications": publications, "oids": oids}):
        filters.setdefault(oid, []).append(text)
    # One publication without a filter publishes every row.
    return {oid: " OR ".join(f"({text})" for text in found) for oid, found in filters.items() if None not in found}


def _found(connection: psycopg.Connection[Any]) -> str:
    version = connection.info.server_version
    if version < COLUMN_LISTS:
        return _VIEW.format(attnums="NULL::int2[]", generated=_BEFORE, filter="NULL::text")
    newer = version >= GENERATED_COLUMNS
    if version >= UNKNOWN:
        return _VIEW.format(
            attnums=_LISTED, generated="ARRAY['', 's', 'v']" if newer else _BEFORE, filter="p.rowfilter"
        )
    return _CATALOG.format(generated=_GENERATED if newer else _BEFORE)
