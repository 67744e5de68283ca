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
    computed: bool
    comment: str = ""


@dataclass(frozen=True, slots=True)
class CatalogTable:
    """A table in the catalog. `identity` is pg_class.relreplident: d(efault), n(othing), f(ull), i(ndex).

    `not_brought` are the columns that deletes in some partition do not bring: partitions have identities of their own.
    `attnums` are the numbers of all columns it ever had, dropped ones too.
    """

    oid: int
    name: TableName
    identity: str
    columns: tuple[CatalogColumn, ...]
    primary_key: tuple[str, ...]
    identity_index: tuple[str, ...]
    not_brought: tuple[str, ...] = ()
    attnums: tuple[int, ...] = ()
    comment: str = ""


_COLUMNS = """
WITH RECURSIVE base AS (
    SELECT a.attrelid, a.attnum, a.atttypid AS oid, a.atttypmod AS typmod FROM pg_attribute a
    WHERE a.attrelid = ANY(%(oids)s::oid[]) AND a.attnum > 0 AND NOT a.attisdropped
  UNION ALL
    SELECT b.attrelid, b.attnum, t.typbasetype, CASE WHEN b.typmod = -1 THEN t.typtypmod ELSE b.typmod END
    FROM base b JOIN pg_type t ON t.oid = b.oid WHERE t.typtype = 'd'
)
SELECT a.attrelid::bigint, a.attname, a.atttypid::bigint, a.atttypmod, b.oid::bigint, b.typmod, a.attnum, a.attnotnull,
       a.attlen = -1 AND a.attstorage <> 'p', (a.attmissingval::text::text[])[1],
       a.attmissingval IS NULL AND (a.atthasdef OR a.attidentity <> ''
         OR EXISTS (SELECT FROM pg_type d WHERE d.oid = a.atttypid AND d.typtype = 'd' AND d.typdefault IS NOT NULL)),
       COALESCE(col_description(a.attrelid, a.attnum), '')
FROM pg_attribute a
JOIN base b ON b.attrelid = a.attrelid AND b.attnum = a.attnum
JOIN pg_type t ON t.oid = b.oid AND t.typtype <> 'd'
ORDER BY a.attrelid, a.attnum
"""

# A deferrable key may hold twice for a moment, so it tells no row of a stream from another. INCLUDE columns are not of the key.
# NOT MATERIALIZED: one table's keys and columns are found by index, whatever the number of tables.
_TABLE = """
WITH keys AS NOT MATERIALIZED (
    SELECT i.indrelid, i.indisprimary AND i.indimmediate AS is_primary, i.indisreplident AS is_identity,
           (i.indkey::int2[])[0:i.indnkeyatts - 1] AS attnums
    FROM pg_index i WHERE i.indisprimary OR i.indisreplident
), columns AS NOT MATERIALIZED (
    SELECT attrelid, attnum, attname::text AS name FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped
)
SELECT c.oid::bigint, n.nspname, c.relname, c.relreplident::text, COALESCE(obj_description(c.oid, 'pg_class'), ''),
       ARRAY(SELECT a.name FROM keys k JOIN columns a ON a.attrelid = c.oid AND a.attnum = ANY(k.attnums)
             WHERE k.indrelid = c.oid AND k.is_primary),
       ARRAY(SELECT a.name FROM keys k JOIN columns a ON a.attrelid = c.oid AND a.attnum = ANY(k.attnums)
             WHERE k.indrelid = c.oid AND k.is_identity),
       ARRAY(WITH RECURSIVE tree AS (  -- pg_partition_tree would wait for who alters one of them
                 SELECT c.oid WHERE c.relkind = 'p' UNION ALL SELECT i.inhrelid FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid)
             SELECT DISTINCT a.name FROM tree p JOIN pg_class l ON l.oid = p.oid AND l.relkind <> 'p'
             JOIN keys k ON k.indrelid = l.oid AND CASE l.relreplident WHEN 'd' THEN k.is_primary WHEN 'i' THEN k.is_identity END
             JOIN columns a ON a.attrelid = l.oid AND a.attnum <> ALL(k.attnums)),
       ARRAY(SELECT a.attnum FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 ORDER BY a.attnum)
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = ANY(%(oids)s::oid[])
"""


def read_catalog(connection: psycopg.Connection[Any], oid: int) -> CatalogTable | None:
    """What the catalog says of a table now (or under the connection's snapshot); None when there is no such table."""
    return read_catalogs(connection, [oid]).get(oid)


def read_catalogs(connection: psycopg.Connection[Any], oids: list[int]) -> dict[int, CatalogTable]:
    """The same of many tables, in two queries; those that are gone are missing."""
    tables = connection.execute(_TABLE, {"oids": oids}).fetchall()
    columns: dict[int, list[CatalogColumn]] = {}
    for oid, *column in connection.execute(_COLUMNS, {"oids": oids}):
        columns.setdefault(oid, []).append(CatalogColumn(*column))
    return {
        oid: CatalogTable(
            oid,
            TableName(schema, name),
            identity,
            tuple(columns.get(oid, ())),
            tuple(primary_key),
            tuple(identity_index),
            tuple(not_brought),
            tuple(attnums),
            comment,
        )
        for oid, schema, name, identity, comment, primary_key, identity_index, not_brought, attnums in tables
    }
