"""The source as it was at one moment, for one round of copies.

    walsender connection   CREATE_REPLICATION_SLOT … TEMPORARY (SNAPSHOT 'export')   ─► consistent point S, exported snapshot
    first connection       BEGIN REPEATABLE READ; SET TRANSACTION SNAPSHOT; LOCK … ACCESS SHARE of each table, until the end
    more connections       BEGIN REPEATABLE READ; SET TRANSACTION SNAPSHOT; COPY
    walsender connection   ends as soon as everybody has the snapshot: the slot keeps no WAL while rows are read

A table that was rewritten between the snapshot and the lock looks empty under the snapshot, silently: its relfilenode now (and that of each of its
partitions) is compared with the one under the snapshot; where they differ the table is left for a newer snapshot.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
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
from workers.reader.catalog import COLUMN_LISTS, published_tables, read_catalog
from workers.reader.csv import NULL_TEXT
from workers.reader.heartbeat import Access, nudging
from workers.reader.ranges import Leaf, Range
from workers.reader.relations import table_of
from workers.reader.stream import ReplicationStream, Slot, connect
from workers.reader.transfer import BinaryForms, choose

LOCK_SECONDS_MAX = 20  # behind an ALTER that takes longer a table waits for its next try, not the others for it

# pg_class is read under the snapshot; pg_relation_filenode, the sizes and the tree of partitions look at the present.
# Rows of a partition that its owner hides from us are read by way of the root, whole.
_LEAVES = """
WITH leaf AS (SELECT %(oid)s::oid AS oid UNION SELECT relid FROM pg_partition_tree(%(oid)s::oid) WHERE isleaf)
SELECT l.oid::bigint, n.nspname::text, c.relname::text, coalesce(c.relkind::text, 'r'),
    c.relfilenode::bigint, pg_relation_filenode(l.oid)::bigint,
    CASE WHEN a.amname = 'heap' AND (l.oid = %(oid)s::oid OR has_table_privilege(l.oid, 'SELECT')
              AND NOT row_security_active(l.oid) AND NOT row_security_active(%(oid)s::oid))
         THEN pg_relation_size(l.oid) / current_setting('block_size')::bigint END,
    greatest(0, coalesce(c.reltuples, 0))::bigint
FROM leaf l LEFT JOIN pg_class c ON c.oid = l.oid LEFT JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_am a ON a.oid = c.relam
ORDER BY l.oid
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

    def connection(self) -> psycopg.Connection[Any]:
        """One more connection that sees what the first one sees. The caller closes it. Not after `release`."""
        made = connect(self._access.source, self._access.password)
        self._join(made)
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
    table_name = sql.Identifier(name.schema, name.name)
    reader.execute(sql.SQL("LOCK TABLE {}{} IN ACCESS SHARE MODE").format(sql.SQL(_only(reader, name)), table_name))
    row = reader.execute(
        "SELECT c.oid::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s",
        [name.schema, name.name],
    ).fetchone()
    leaves = leaves_of(reader, row[0], name) if row else None
    if row is None or leaves is None:
        return None
    table, binary = _shape(reader, source, row[0], place, forms)
    condition = _row_filter(reader, source, name)
    form = wire.dump(replace(table, version=0)) + condition
    return Found(table, leaves, condition, hashlib.sha256(form.encode()).hexdigest(), binary)


def leaves_of(reader: psycopg.Connection[Any], oid: int, name: TableName) -> tuple[Leaf, ...] | None:
    """Where the rows are; None when one of the leaves was rewritten, or attached, after the snapshot."""
    found = reader.execute(_LEAVES, {"oid": oid}).fetchall()
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


def _only(reader: psycopg.Connection[Any], name: TableName) -> str:
    """A partitioned table is its partitions; of any other table the children are tables of their own."""
    row = reader.execute(
        "SELECT FROM pg_partitioned_table p JOIN pg_class c ON c.oid = p.partrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = %s",
        [name.schema, name.name],
    ).fetchone()
    return "ONLY " if row is None else ""


def _shape(
    reader: psycopg.Connection[Any], source: Source, oid: int, place: str, forms: BinaryForms
) -> tuple[Table, bool]:
    """What is published of the table, and whether all of it is read in binary."""
    found = read_catalog(reader, oid)
    published = published_tables(reader, sources.publications_of(source), place, oid)
    if found is None or not published:
        raise EtlError(Kind.COPY, place, "the table is not published any more", "publish it again")
    table = table_of(found, published[0].columns)
    return table, choose(source, forms, [(found, table)])


def _row_filter(reader: psycopg.Connection[Any], source: Source, name: TableName) -> str:
    """Which rows the publications publish, as SQL; empty for all of them. The text is PostgreSQL's own rendering in its catalog."""
    if reader.info.server_version < COLUMN_LISTS:
        return ""
    rows = reader.execute(
        "SELECT rowfilter FROM pg_publication_tables WHERE pubname = ANY(%s) AND schemaname = %s AND tablename = %s",
        [sources.publications_of(source), name.schema, name.name],
    ).fetchall()
    filters = [row[0] for row in rows]
    if not filters or None in filters:  # one publication without a filter publishes every row
        return ""
    return " OR ".join(f"({text})" for text in filters)


def slot_name(source: Source, incarnation: int, attempt: int) -> str:
    """The temporary slot of one round."""
    return names.copy_slot(source.replication_id, incarnation + attempt)
