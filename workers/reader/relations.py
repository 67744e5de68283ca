"""Relation messages -> tables, by version.

A Relation message precedes the first change of a table on a connection and every change after its shape changed. Frames belong to the version
they follow. The message gives names, types and the replica identity; the catalog adds the rest, but it may already be newer than this
place in the stream, so a catalog column counts only if name, type and typmod agree. Without agreement the cautious reading holds: the message's
key flags, and every column of variable length can be left out by an update.

A column is known by its attnum, which this module proves (`attnums`): a rename keeps it, and it is never used again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from etl_supervisor.model.table import Column, Table, TableName
from workers.reader.attnums import attnums
from workers.reader.catalog import CatalogColumn, CatalogTable
from workers.reader.frame import broken
from workers.reader.pgtypes import value_type

IDENTITIES = "dnfi"  # pg_class.relreplident: d(efault), n(othing), f(ull), i(ndex)
_FIXED_SIZE = frozenset({16, 18, 20, 21, 23, 26, 700, 701, 1082, 1083, 1114, 1184, 1266, 2950, 19, 600, 790, 829, 3220})


@dataclass(frozen=True, slots=True)
class RelationColumn:
    """A column as a Relation message has it."""

    name: str
    key: bool
    type_oid: int
    typmod: int


@dataclass(frozen=True, slots=True)
class RelationMessage:
    """pgoutput's 'R' (manual: "Logical Replication Message Formats")."""

    oid: int
    name: TableName
    identity: str
    columns: tuple[RelationColumn, ...]


def parse(message: memoryview) -> RelationMessage:
    """The message, without trust in its lengths."""
    data = bytes(message)
    try:
        oid = int.from_bytes(_take(data, 1, 4), "big")
        schema, at = _text(data, 5)
        name, at = _text(data, at)
        identity = chr(_take(data, at, 1)[0])
        if identity not in IDENTITIES:
            raise broken("Relation", "replica identity")
        count = int.from_bytes(_take(data, at + 1, 2), "big")
        at += 3
        columns = []
        for _ in range(count):
            flags = _take(data, at, 1)[0]
            column, at = _text(data, at + 1)
            type_oid = int.from_bytes(_take(data, at, 4), "big")
            typmod = int.from_bytes(_take(data, at + 4, 4), "big", signed=True)
            columns.append(RelationColumn(column, bool(flags & 1), type_oid, typmod))
            at += 8
    except (IndexError, ValueError) as error:
        raise broken("Relation", "length") from error
    if at != len(data):
        raise broken("Relation", "length")
    if len({column.name for column in columns}) != len(columns):
        raise broken("Relation", "column name")
    return RelationMessage(oid, TableName(schema or "pg_catalog", name), identity, tuple(columns))


def _take(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise ValueError
    return data[at : at + size]


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(b"\0", at)
    return data[at:end].decode(), end + 1


class Relations:
    """The tables of one connection, by oid; empty after a reconnect. `catalog` looks a table up (None: it is gone), `remembered` gives the
    last shape that an earlier connection had."""

    def __init__(
        self,
        catalog: Callable[[int], CatalogTable | None],
        remembered: Callable[[int], Table | None] = lambda oid: None,
    ) -> None:
        self._catalog = catalog
        self._remembered = remembered
        self._tables: dict[int, Table] = {}
        self._messages: dict[int, RelationMessage] = {}

    def get(self, oid: int) -> Table | None:
        """The newest version of a table."""
        return self._tables.get(oid)

    def learn(self, message: RelationMessage) -> Table:
        """The table that a message describes; a shape that is new gets the next version."""
        known = self._tables.get(message.oid)
        # The catalog is asked for a message that is the same, too: a column may have been dropped and added again.
        found = self._catalog(message.oid)
        if found is None and known is not None and self._messages[message.oid] == message:
            return known  # the table is gone by now
        shape = table_from(message, self._before(message.oid), found)
        if known is not None:
            shape = replace(shape, version=known.version)
            if shape != known:
                shape = replace(shape, version=known.version + 1)
        self._tables[message.oid], self._messages[message.oid] = shape, message
        return shape

    def _before(self, oid: int) -> Table | None:
        """The last shape whose columns are all proved."""
        for table in (self._tables.get(oid), self._remembered(oid)):
            if table is not None and all(column.attnum for column in table.columns):
                return table
        return None


def table_from(message: RelationMessage, before: Table | None, found: CatalogTable | None) -> Table:
    """A table's shape from its Relation message and the shape before, with what the catalog adds where it agrees."""
    numbers = attnums([column.name for column in message.columns], before, found)
    facts = {fact.attnum: fact for fact in found.columns} if found else {}
    agreed = [_agreed(column, facts.get(number)) for column, number in zip(message.columns, numbers, strict=True)]
    names = {column.name for column in message.columns}
    key = {column.name for column in message.columns if column.key}
    if found is not None and (message.identity in "fn" or message.identity == found.identity):
        key = _key(found, names)
    elif message.identity in "fn":
        key = set()
    columns = tuple(
        replace(_column(column.name, column.type_oid, column.typmod, column.name in key, fact), attnum=number)
        for column, fact, number in zip(message.columns, agreed, numbers, strict=True)
    )
    return Table(message.name, message.oid, columns, comment=found.comment if found else "")


def table_of(found: CatalogTable, published: Collection[str]) -> Table:
    """A table's shape from the catalog alone, of the columns that are published: what its Relation message will say."""
    key = _key(found, published)
    columns = tuple(
        _column(c.name, c.type_oid, c.typmod, c.name in key, c) for c in found.columns if c.name in published
    )
    return Table(found.name, found.oid, columns, comment=found.comment)


def _key(found: CatalogTable, published: Collection[str]) -> set[str]:
    """What identifies a row in the target: brought by every change, wholly published; else nothing does."""
    key = set(found.identity_index if found.identity == "i" else found.primary_key)
    return key if key <= set(published) and key.isdisjoint(found.not_brought) else set()


def _agreed(column: RelationColumn, fact: CatalogColumn | None) -> CatalogColumn | None:
    if fact is not None and (fact.type_oid, fact.typmod) == (column.type_oid, column.typmod):
        return fact
    return None


def _column(name: str, type_oid: int, typmod: int, key: bool, fact: CatalogColumn | None) -> Column:
    if fact is None:
        return Column(name, value_type(type_oid, typmod), key=key, toastable=type_oid not in _FIXED_SIZE, computed=True)
    kind = value_type(fact.base_oid, fact.base_typmod)
    column = Column(name, kind, key, not fact.not_null, fact.toastable, fact.default, fact.attnum, fact.computed)
    return replace(column, comment=fact.comment)
