"""The source as it was at one moment, for one round of copies.

    walsender connection   CREATE_REPLICATION_SLOT … TEMPORARY (SNAPSHOT 'export')   ─► consistent point S, exported snapshot
    first connection       BEGIN REPEATABLE READ; SET TRANSACTION SNAPSHOT; LOCK … ACCESS SHARE of each table, until the end
    more connections       BEGIN REPEATABLE READ; SET TRANSACTION SNAPSHOT; LOCK … NOWAIT of the same tables; COPY
    walsender connection   ends as soon as everybody has the snapshot: the slot keeps no WAL while rows are read

Every connection has its locks before the first row is read. Somebody who wants to truncate or alter a table meanwhile waits for the first
connection; a COPY that needed a lock then would wait behind him, and the first connection for it: nobody could go on, and PostgreSQL, which
does not know that our connections wait for one another, would see no deadlock. So a connection that can't have its locks at once is not used.

A table that was rewritten between the snapshot and the lock looks empty under the snapshot, silently: its relfilenode now (and that of each of its
partitions) is compared with the one under the snapshot; where they differ the table is left for a newer snapshot.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import psycopg
from psycopg import sql

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc import wire
from etl_supervisor.model import names
from etl_supervisor.model.pipeline import Source
from etl_supervisor.model.table import Table, TableName
from workers.reader import source as sources
from workers.reader.catalog import read_catalogs
from workers.reader.csv import NULL_TEXT
from workers.reader.heartbeat import Access, nudging
from workers.reader.published import Published, published_tables, row_filters
from workers.reader.ranges import Leaf, Range
from workers.reader.relations import table_of
from workers.reader.stream import ReplicationStream, Slot, connect
from workers.reader.transfer import BinaryForms, choose

LOCK_SECONDS_MAX = 20  # behind an ALTER that takes longer a table waits for its next try, not the others for it

# pg_class is read under the snapshot; pg_relation_filenode, the sizes and the tree of partitions look at the present.
# Rows of a partition that its owner hides from us are read by way of the root, whole.
_LEAVES = """
WITH root AS (SELECT unnest(%(oids)s::oid[]) AS oid), leaf AS (
    SELECT oid AS root, oid FROM root UNION SELECT r.oid, p.relid FROM root r, pg_partition_tree(r.oid) p WHERE p.isleaf)
SELECT l.root::bigint, l.oid::bigint, n.nspname::text, c.relname::text, coalesce(c.relkind::text, 'r'),
    c.relfilenode::bigint, pg_relation_filenode(l.oid)::bigint,
    CASE WHEN a.amname = 'heap' AND (l.oid = l.root OR has_table_privilege(l.oid, 'SELECT')
              AND NOT row_security_active(l.oid) AND NOT row_security_active(l.root))
         THEN pg_relation_size(l.oid) / current_setting('block_size')::bigint END,
    greatest(0, coalesce(c.reltuples, 0))::bigint
FROM leaf l LEFT JOIN pg_class c ON c.oid = l.oid LEFT JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_am a ON a.oid = c.relam
ORDER BY l.root, l.oid
"""
_OIDS = """
SELECT c.oid::bigint, n.nspname::text, c.relname::text, c.relkind = 'p'
FROM unnest(%s::text[], %s::text[]) AS wanted (schema, name)
JOIN pg_namespace n ON n.nspname = wanted.schema JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted.name
"""


@dataclass(frozen=True, slots=True)
class Found:
    """A table under the snapshot: its published shape, its leaves, the rows that are published, and whether its values are read in binary."""

    table: Table
    leaves: tuple[Leaf, ...]
    condition: str
    form: str
    binary: bool

    @property
    def pages(self) -> int:
        """How large it is."""
        return sum(leaf.pages or 0 for leaf in self.leaves)

    @property
    def locked(self) -> sql.Composed:
        """What its lock names: itself, or with its partitions."""
        return _locked(self.table.name, tree=any(leaf.tree or leaf.name != self.table.name for leaf in self.leaves))

    def query(self, wanted: Range) -> sql.Composed:
        """The COPY of one range."""
        leaf = wanted.leaf
        only = sql.SQL("" if leaf.tree else "ONLY ")
        conditions: list[sql.Composable] = [sql.SQL(self.condition)] if self.condition else []
        if wanted.end is not None:
            first, end = (sql.Literal(f"({page},0)") for page in (wanted.first, wanted.end))
            conditions.append(sql.SQL("ctid >= {}::tid AND ctid < {}::tid").format(first, end))
        if wanted.since is not None:
            xid = sql.Literal(str(wanted.since % (1 << 32)))
            conditions.append(sql.SQL("age(xmin) <= age({}::xid)").format(xid))
        columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in self.table.columns)
        query = sql.SQL("SELECT {} FROM {}{}").format(columns, only, sql.Identifier(leaf.name.schema, leaf.name.name))
        if conditions:
            query += sql.SQL(" WHERE ") + sql.SQL(" AND ").join(sql.SQL("({})").format(item) for item in conditions)
        if self.binary:
            return sql.SQL("COPY ({}) TO STDOUT (FORMAT binary)").format(query)
        return sql.SQL("COPY ({}) TO STDOUT (FORMAT csv, NULL {})").format(query, NULL_TEXT)


class Snapshot:
    """One exported snapshot. `first` is the connection that locks the tables; `seen` the snapshot's xmin (64 bits)."""

    def __init__(self, access: Access, slot_name: str, beat: Callable[[], None]) -> None:
        self._access = access
        self._resources = contextlib.ExitStack()
        try:
            self.first = self._connected()
            self._slot = self._create_slot(slot_name, beat)
            self.consistent_point = self._slot.consistent_point
            self._join(self.first)
            self._forms = BinaryForms(self.first)
            self.first.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS_MAX}s'".encode())
            ((self.seen,),) = self.first.execute("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
        except BaseException:
            self._resources.close()
            raise

    def connection(self, tables: Iterable[Found]) -> psycopg.Connection[Any] | None:
        """One more connection that sees what the first one sees, with locks of its own on these tables; None when somebody waits for one of
        them. The caller closes it. Not after `release`."""
        made = connect(self._access.source, self._access.password)
        try:
            self._join(made)
            made.execute(_lock_at_once(table.locked for table in tables))
        except psycopg.errors.LockNotAvailable:
            made.close()
            return None
        except BaseException:
            made.close()
            raise
        return made

    def release(self) -> None:
        """Everybody who wants the snapshot has it: the slot ends."""
        self._stream.close()

    def close(self) -> None:
        """The end, for the locks too. (Connections that others were given are theirs.)"""
        self._resources.close()

    def find(self, name: TableName, place: str) -> Found | None:
        """Lock a table and see what there is; None when it was rewritten after the snapshot. EtlError(COPY) leaves the others as they are."""
        try:
            with self.first.transaction():
                return find(self.first, self._access.source, name, place, self._forms)
        except psycopg.errors.Error as error:
            if self.first.broken:
                raise
            reason = error.diag.message_primary or "the table can't be read"
            raise EtlError(Kind.COPY, place, reason, "check that the table exists and may be read") from None

    def find_all(self, names: list[TableName]) -> dict[TableName, Found | None]:
        """The same for many tables in a few queries. What is not so simple (a table that is locked, gone or not as it should be) is left out: `find`
        waits for it, or tells what is wrong."""
        try:
            with self.first.transaction():
                return find_all(self.first, self._access.source, names, self._forms)
        except (EtlError, psycopg.errors.Error):
            if self.first.broken:
                raise
            return {}

    def _connected(self) -> psycopg.Connection[Any]:
        made = connect(self._access.source, self._access.password)
        self._resources.callback(made.close)
        return made

    def _create_slot(self, name: str, beat: Callable[[], None]) -> Slot:
        source = self._access.source
        self._stream = ReplicationStream(source, self._access.password)
        self._resources.callback(self._stream.close)
        with nudging(self._access, beat, standby=sources.in_recovery(self.first)) as tick:
            try:
                return self._stream.create_slot(
                    name, temporary=True, snapshot=True, limit=sources.SLOT_SECONDS_MAX, tick=tick
                )
            except TimeoutError:
                raise sources.slot_waits(self.first, source) from None

    def _join(self, connection: psycopg.Connection[Any]) -> None:
        assert self._slot.snapshot is not None
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(self._slot.snapshot))
        connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")


def find(
    reader: psycopg.Connection[Any], source: Source, name: TableName, place: str, forms: BinaryForms
) -> Found | None:
    """The table as this connection's snapshot shows it, locked against changes; None when it was rewritten since."""
    reader.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(_locked(name, tree=_is_tree(reader, name))))
    row = reader.execute(_OIDS, [[name.schema], [name.name]]).fetchone()
    if row is None:
        return None
    published = published_tables(reader, sources.publications_of(source), place, row[0])
    found = _founds(reader, source, {row[0]: name}, published, forms)
    if name not in found:
        raise EtlError(Kind.COPY, place, "the table is not published any more", "publish it again")
    return found[name]


def find_all(
    reader: psycopg.Connection[Any], source: Source, names: list[TableName], forms: BinaryForms
) -> dict[TableName, Found | None]:
    """The same of many tables; an error when one of them can't be locked at once."""
    rows = reader.execute(_OIDS, [[name.schema for name in names], [name.name for name in names]]).fetchall()
    oids = {oid: TableName(schema, name) for oid, schema, name, _ in rows}
    if not oids:
        return {}
    reader.execute(_lock_at_once(_locked(TableName(schema, name), tree=tree) for _, schema, name, tree in rows))
    published = published_tables(reader, sources.publications_of(source), f"source {source.name}")
    return _founds(reader, source, oids, published, forms)


def _founds(
    reader: psycopg.Connection[Any],
    source: Source,
    oids: dict[int, TableName],
    published: list[Published],
    forms: BinaryForms,
) -> dict[TableName, Found | None]:
    """What there is of tables that are locked; without those that are not published."""
    columns = {listed.oid: listed.columns for listed in published}
    leaves = _leaves(reader, oids)
    facts = read_catalogs(reader, list(oids))
    conditions = row_filters(reader, sources.publications_of(source), list(oids))
    found: dict[TableName, Found | None] = {}
    for oid, name in oids.items():
        there = leaves[oid]
        if there is None:
            found[name] = None
        elif oid in facts and oid in columns:
            table = table_of(facts[oid], columns[oid])
            condition = conditions.get(oid, "")
            form = hashlib.sha256((wire.dump(replace(table, version=0)) + condition).encode()).hexdigest()
            found[name] = Found(table, there, condition, form, choose(source, forms, [(facts[oid], table)]))
    return found


def leaves_of(reader: psycopg.Connection[Any], oid: int, name: TableName) -> tuple[Leaf, ...] | None:
    """Where the rows are; None when one of the leaves was rewritten, or attached, after the snapshot."""
    return _leaves(reader, {oid: name})[oid]


def _leaves(reader: psycopg.Connection[Any], oids: dict[int, TableName]) -> dict[int, tuple[Leaf, ...] | None]:
    rows: dict[int, list[Any]] = {oid: [] for oid in oids}
    for root, *row in reader.execute(_LEAVES, {"oids": list(oids)}):
        rows[root].append(row)
    return {oid: _leaves_among(rows[oid], oid, name) for oid, name in oids.items()}


def _leaves_among(found: list[Any], oid: int, name: TableName) -> tuple[Leaf, ...] | None:
    if any(kind == "r" and before != now for _, _, _, kind, before, now, _, _ in found):
        return None
    leaves = [
        Leaf(leaf, TableName(schema, table), file or 0, pages, rows)
        for leaf, schema, table, kind, file, _, pages, rows in found
        if kind != "p"
    ]
    partitioned = any(kind == "p" for _, _, _, kind, *_ in found)
    if partitioned and any(leaf.pages is None for leaf in leaves):
        return (Leaf(oid, name, 0, None, sum(leaf.rows for leaf in leaves), tree=True),)
    return tuple(leaves)


def _locked(name: TableName, *, tree: bool) -> sql.Composed:
    """A partitioned table is its partitions; of any other table the children are tables of their own."""
    return sql.SQL("" if tree else "ONLY ") + sql.Identifier(name.schema, name.name)


def _lock_at_once(locked: Iterable[sql.Composed]) -> sql.Composed:
    return sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE NOWAIT").format(sql.SQL(", ").join(locked))


def _is_tree(reader: psycopg.Connection[Any], name: TableName) -> bool:
    row = reader.execute(
        "SELECT FROM pg_partitioned_table p JOIN pg_class c ON c.oid = p.partrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s",
        [name.schema, name.name],
    ).fetchone()
    return row is not None


def slot_name(source: Source, incarnation: int, attempt: int) -> str:
    """The temporary slot of one round."""
    return names.copy_slot(source.replication_id, incarnation + attempt)
