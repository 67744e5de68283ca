"""What the stream does not tell: that a table's rows were written anew, or that other rows belong to it.

    ALTER TYPE, USING, a default that is computed    new files, and the rows of pg_attribute changed     copy again
    VACUUM FULL, CLUSTER                             new files alone                                     nothing
    a partition attached, detached or dropped        other members                                       copy again
    a partition made as one (CREATE … PARTITION OF)  another member; it was empty                        nothing
    TRUNCATE of a partition                          new files, and no statistics any more               copy again

What of it is published, and whether it was all the time, is part of it (`membership`). Partitions count where the table is published through its
root: then nothing is sent for these commands. VACUUM FULL changes the row of a column that had a missing value (it has none afterwards): such
columns are left out. A partition that was truncated and analyzed between two looks is not seen.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import psycopg

from workers.reader.membership import Membership, Way, missed

_STORAGE = """
WITH RECURSIVE tree AS (
    SELECT inhparent AS root, inhrelid AS oid, xmin AS joined FROM pg_inherits
    WHERE inhparent IN (SELECT oid FROM pg_class WHERE oid = ANY(%(oids)s::oid[]) AND relkind = 'p')
  UNION ALL
    SELECT t.root, i.inhrelid, i.xmin FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid
)
SELECT c.oid::bigint, c.relfilenode::text,
  (SELECT jsonb_object_agg(a.attnum, a.xmin::text) FROM pg_attribute a
   WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND NOT a.atthasmissing),
  (SELECT jsonb_object_agg(m.oid::bigint, jsonb_build_array(m.relfilenode::text, m.reltuples < 0, t.joined <> s.xmin))
   FROM tree t JOIN pg_class m ON m.oid = t.oid
   JOIN pg_attribute s ON s.attrelid = m.oid AND s.attname = 'tableoid'  -- never changed since the table was made
   WHERE t.root = c.oid)
FROM pg_class c WHERE c.oid = ANY(%(oids)s::oid[])
"""


@dataclass(frozen=True, slots=True)
class Member:
    """A partition at any level: its file ('0' above the leaves), whether it has no statistics, whether it was attached later."""

    file: str
    blank: bool
    attached: bool


@dataclass(frozen=True, slots=True)
class Storage:
    """Where a table's rows are. `rows` maps attnum to the transaction that last changed its pg_attribute row. `ways`: how it is published."""

    file: str
    rows: dict[str, str]
    members: dict[str, Member] = field(default_factory=dict)
    ways: Membership = ()

    def published_by(self, ways: Membership) -> Storage:
        """The same, with how it is published."""
        return replace(self, ways=ways)

    @property
    def text(self) -> str:
        """For the state store."""
        return orjson.dumps(self).decode()

    @classmethod
    def parse(cls, text: str) -> Storage:
        """What `text` wrote."""
        plain = orjson.loads(text)
        members = {oid: Member(**member) for oid, member in plain["members"].items()}
        return cls(plain["file"], plain["rows"], members, tuple(Way(**way) for way in plain.get("ways", ())))


def read_storage(connection: psycopg.Connection[Any], oids: list[int]) -> dict[int, Storage]:
    """The storage of these tables now; those that are gone are missing."""
    rows = connection.execute(_STORAGE, {"oids": oids}).fetchall()
    return {
        oid: Storage(file, rows or {}, {name: Member(*member) for name, member in (members or {}).items()})
        for oid, file, rows, members in rows
    }


def rewritten(old: Storage, new: Storage) -> str | None:
    """Why the table's rows may be others than the stream has told; None when they are not."""
    if old.members.keys() - new.members.keys():
        return "a partition was detached or dropped"
    if any(new.members[oid].attached for oid in new.members.keys() - old.members.keys()):
        return "a partition was attached"
    both = [(old.members[oid], new.members[oid]) for oid in old.members.keys() & new.members.keys()]
    moved = [(before, after) for before, after in both if before.file != after.file]
    if any(after.blank for _, after in moved):
        return "a partition was truncated"
    changed = any(new.rows[number] != xmin for number, xmin in old.rows.items() if number in new.rows)
    if changed and (moved or old.file != new.file):
        return "its rows were rewritten"
    return missed(old.ways, new.ways)
