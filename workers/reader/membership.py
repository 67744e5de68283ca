"""How a table is published, and whether the stream told all of it since then (the decision is pure).

    taken out of the publications and added again    changes in between were not published    copy again
    a publication dropped and made again             the same                                 copy again
    another row filter                               other rows                               copy again
    more columns, or more kinds of changes           older rows and changes lack them         copy again
    another publication beside                       nothing was missed                       nothing

Each way into a publication has a row in the catalog (`pg_publication_rel`, `pg_publication_namespace`; `FOR ALL TABLES` has the publication's own),
and a way that is closed and opened again has another oid. A table that kept one of its ways was published all the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psycopg

from workers.reader.published import COLUMN_LISTS, GENERATED_COLUMNS

# `related`: a partition is in a publication by its ancestors, too. Filters are compared by their trees, which no rename of a column changes.
_WAYS = """
WITH asked AS (SELECT unnest(%(oids)s::oid[]) AS oid), related AS (
    SELECT oid, oid AS relation FROM asked UNION SELECT a.oid, p.relid FROM asked a, pg_partition_ancestors(a.oid) p
)
SELECT DISTINCT r.oid::bigint, p.oid || '.' || w.oid,
  concat(CASE WHEN p.pubinsert THEN 'i' END, CASE WHEN p.pubupdate THEN 'u' END, CASE WHEN p.pubdelete THEN 'd' END,
         CASE WHEN p.pubtruncate THEN 't' END, {generated}), w.filter, w.columns
FROM related r JOIN pg_class c ON c.oid = r.relation
JOIN pg_publication p ON p.pubname = ANY(%(publications)s)
CROSS JOIN LATERAL (
    SELECT 0::oid, '', '' WHERE p.puballtables
  UNION ALL
    SELECT m.oid, {filter}, {columns} FROM pg_publication_rel m WHERE m.prpubid = p.oid AND m.prrelid = r.relation
    {schemas}
) AS w (oid, filter, columns)
ORDER BY 1, 2
"""
_OLDER = {"filter": "''", "columns": "''", "generated": "''", "schemas": ""}
_NEWER = {
    "filter": "coalesce(md5(m.prqual::text), '')",
    "columns": "coalesce(m.prattrs::text, '')",
    "generated": "''",
    "schemas": "UNION ALL SELECT n.oid, '', '' FROM pg_publication_namespace n"
    " WHERE n.pnpubid = p.oid AND n.pnnspid = c.relnamespace",
}


@dataclass(frozen=True, slots=True)
class Way:
    """One way by which a table is in a publication. `kinds` are letters; an empty `filter` or `columns` leaves nothing out."""

    id: str
    kinds: str
    filter: str
    columns: str


Membership = tuple[Way, ...]


def read_memberships(
    connection: psycopg.Connection[Any], publications: list[str], oids: list[int]
) -> dict[int, Membership]:
    """How these tables are published now; those that are not are missing."""
    version = connection.info.server_version
    parts = _NEWER if version >= COLUMN_LISTS else _OLDER
    if version >= GENERATED_COLUMNS:
        parts = {**parts, "generated": "CASE p.pubgencols WHEN 's' THEN 's' END"}
    found: dict[int, Membership] = {}
    query = _WAYS.format(**parts).encode()
    for oid, *way in connection.execute(query, {"oids": oids, "publications": publications}):
        found[oid] = (*found.get(oid, ()), Way(*way))
    return found


def missed(old: Membership, new: Membership) -> str | None:
    """Why the stream may not have told everything of a table that was published so, and is so now; None when it has."""
    if not old or not new:
        return None
    if _filters(old) != _filters(new):
        return "its row filter is another one"
    if not _kinds(new) <= _kinds(old):
        return "more kinds of its changes are published"
    before, now = _columns(old), _columns(new)
    if before is not None and (now is None or not now <= before):
        return "more of its columns are published"
    if {way.id for way in old}.isdisjoint(way.id for way in new):
        return "it was published anew"
    return None


def _filters(ways: Membership) -> set[str]:
    """No filter in one publication publishes every row."""
    found = {way.filter for way in ways}
    return set() if "" in found else found


def _kinds(ways: Membership) -> set[str]:
    return {letter for way in ways for letter in way.kinds}


def _columns(ways: Membership) -> set[str] | None:
    """The numbers of the columns that are listed; None for all."""
    lists = [way.columns for way in ways]
    return None if "" in lists else {number for text in lists for number in text.split()}
