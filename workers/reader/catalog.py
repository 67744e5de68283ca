"""Catalog look-ups: what a Relation message does not say (base types of domains, storage, primary keys, missing values).

The catalog may be *newer* than the place in the stream that asks: what is found is used only where it agrees with the
Relation message (see `relations`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

from etl_supervisor.model.table import TableName


@dataclass(frozen=True, slots=True)
class CatalogColumn:
    """A column in the catalog. `base_oid`/`base_typmod` are the type's own unless it is a domain."""

    name: str
    type_oid: int
    typmod: int
    base_oid: int
    base_typmod: int
    attnum: int
    not_null: bool
    toastable: bool
    default: str | None


@dataclass(frozen=True, slots=True)
class CatalogTable:
    """A table in the catalog. `identity` is pg_class.relreplident: d(efault), n(othing), f(ull), i(ndex)."""

    oid: int
    name: TableName
    identity: str
    columns: tuple[CatalogColumn, ...]
    primary_key: tuple[str, ...]
    identity_index: tuple[str, ...]


_COLUMNS = """
WITH RECURSIVE base AS (
    SELECT a.attnum, a.atttypid AS oid, a.atttypmod AS typmod FROM pg_attribute a
    WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped
  UNION ALL
    SELECT b.attnum, t.typbasetype, CASE WHEN b.typmod = -1 THEN t.typtypmod ELSE b.typmod END
    FROM base b JOIN pg_type t ON t.oid = b.oid WHERE t.typtype = 'd'
)
SELECT a.attname, a.atttypid::bigint, a.atttypmod, b.oid::bigint, b.typmod, a.attnum, a.attnotnull,
       a.attlen = -1 AND a.attstorage <> 'p', (a.attmissingval::text::text[])[1]
FROM pg_attribute a
JOIN base b ON b.attnum = a.attnum
JOIN pg_type t ON t.oid = b.oid AND t.typtype <> 'd'
WHERE a.attrelid = %(oid)s AND a.attgenerated = ''
ORDER BY a.attnum
"""

_TABLE = """
SELECT n.nspname, c.relname, c.relreplident::text,
       (SELECT array_agg(a.attname::text) FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey)
        WHERE i.indrelid = c.oid AND i.indisprimary),
       (SELECT array_agg(a.attname::text) FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY(i.indkey)
        WHERE i.indrelid = c.oid AND i.indisreplident)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = %(oid)s
"""


def read_catalog(connection: psycopg.Connection[Any], oid: int) -> CatalogTable | None:
    """What the catalog says of a table now (or under the connection's snapshot); None when there is no such table."""
    found = connection.execute(_TABLE, {"oid": oid}).fetchone()
    if found is None:
        return None
    schema, name, identity, primary_key, identity_index = found
    columns = connection.execute(_COLUMNS, {"oid": oid}).fetchall()
    return CatalogTable(
        oid,
        TableName(schema, name),
        identity,
        tuple(CatalogColumn(*row) for row in columns),
        tuple(primary_key or ()),
        tuple(identity_index or ()),
    )


def published_tables(connection: psycopg.Connection[Any], publications: list[str]) -> list[tuple[int, TableName]]:
    """The tables that these publications publish, by name."""
    rows = connection.execute(
        "SELECT DISTINCT c.oid::bigint, p.schemaname::text, p.tablename::text FROM pg_publication_tables p"
        " JOIN pg_namespace n ON n.nspname = p.schemaname JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename"
        " WHERE p.pubname = ANY(%s) ORDER BY 2, 3",
        [publications],
    ).fetchall()
    return [(oid, TableName(schema, name)) for oid, schema, name in rows]
