"""Both sides of one table as comparable rows, piece by piece; each can be read again, whole or by ranges of an integer key, and gives the same rows.

    source   COPY (SELECT …) under the snapshot ─► CSV ─► Arrow strings ─► `texts.of_source`
    target   SELECT of the clone ─► the connector's Arrow batches       ─► `texts.of_target`

A piece is about a megabyte, or one row that is larger; nothing else is in memory but what Snowflake sends at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql
from snowflake.connector.errors import Error

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.table import Column
from etl_supervisor.model.types import ValueKind
from workers.reader.copyboth import ServerError
from workers.reader.copyout import copy_out
from workers.reader.csv import NULL_TEXT, parse_lines, text_of
from workers.reader.masks import Masks
from workers.reader.snapshot import Found
from workers.snowflake.connection import classify
from workers.snowflake.window import name_of
from workers.verify import texts
from workers.verify.comparing import Rows
from workers.verify.fingerprints import joined
from workers.verify.ranges import Ranges, Span, condition

PIECE_BYTES = 1 << 20  # a piece becomes some ten times as much while it is compared
_INTEGERS = (ValueKind.INT16, ValueKind.INT32, ValueKind.INT64)


@dataclass(frozen=True, slots=True)
class Pair:
    """A column in the source's shape and in the target's: a mask may have made another type of it."""

    source: Column
    target: Column


def ranged(pairs: Sequence[Pair], masks: Masks) -> int | None:
    """Which of these columns ranges are of: the first of the key, if it is an integer on both sides."""
    keys = [(place, pair) for place, pair in enumerate(pairs) if pair.target.key]
    if not keys:
        return None
    place, pair = keys[0]
    integer = pair.source.type == pair.target.type and pair.source.type.kind in _INTEGERS
    return place if integer and masks.of(pair.source) is None else None


@dataclass(frozen=True, slots=True)
class SourceSide:
    """The rows that the snapshot of `connection` shows and that are published; `ranged` is the column of ranges."""

    connection: psycopg.Connection[Any]
    found: Found
    masks: Masks
    pairs: Sequence[Pair]
    ranged: int | None

    def rows(self, spans: Sequence[Span] = ()) -> Iterator[Rows]:
        """All rows, or those of some spans. EtlError(COPY) why the server does not give them, never with a value."""
        shape = replace(self.found.table, columns=tuple(pair.source for pair in self.pairs))
        query = self._query(spans).as_bytes(self.connection)
        with self._told(), self.connection.transaction():
            for chunk in copy_out(self.connection, query):
                cells = parse_lines(text_of(chunk), len(chunk), shape).columns
                turned = [texts.of_source(p.source, self.masks, c) for p, c in zip(self.pairs, cells, strict=False)]
                yield _rows(self.pairs, turned, len(chunk), None if self.ranged is None else cells[self.ranged])

    def ranges(self) -> Ranges | None:
        """Of its keys; None where there are none, or no row. They are cut as evenly as the keys are: the index knows both ends of them."""
        if self.ranged is None:
            return None
        name = sql.Identifier(self.pairs[self.ranged].source.name)
        ends = sql.SQL("SELECT min({0})::bigint, max({0})::bigint FROM ").format(name) + self._table()
        with self._told(), self.connection.transaction():
            ((least, greatest),) = self.connection.execute(ends)
        return None if least is None else Ranges(least, greatest)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (ServerError, psycopg.errors.Error) as error:
            if self.connection.broken:
                raise
            place = f"table {self.found.table.name}"
            reason = f"its rows can't be read (SQLSTATE {error.sqlstate})"
            raise EtlError(Kind.COPY, place, reason, "check that the table may be read") from None

    def _query(self, spans: Sequence[Span]) -> sql.Composed:
        columns = sql.SQL(", ").join(texts.at_source(pair.source, self.masks) for pair in self.pairs)
        query = sql.SQL("SELECT {} FROM ").format(columns) + self._table()
        conditions: list[sql.Composable] = [sql.SQL(self.found.condition)] if self.found.condition else []
        if spans and self.ranged is not None:
            name = sql.Identifier(self.pairs[self.ranged].source.name)
            conditions.append(sql.SQL(condition(spans)).format(name))
        if conditions:
            query += sql.SQL(" WHERE ") + sql.SQL(" AND ").join(sql.SQL("({})").format(item) for item in conditions)
        return sql.SQL("COPY ({}) TO STDOUT (FORMAT csv, NULL {})").format(query, NULL_TEXT)

    def _table(self) -> sql.Composed:
        name, leaves = self.found.table.name, self.found.leaves
        alone = len(leaves) == 1 and leaves[0].name == name and not leaves[0].tree
        return sql.SQL("ONLY " if alone else "") + sql.Identifier(name.schema, name.name)


@dataclass(frozen=True, slots=True)
class TargetSide:
    """The rows of `table_sql`; those that are marked as deleted are none where `soft`; `ranged` is the column of ranges."""

    connection: Any
    table_sql: str
    pairs: Sequence[Pair]
    place: str
    soft: bool
    ranged: int | None

    def rows(self, spans: Sequence[Span] = ()) -> Iterator[Rows]:
        """All rows, or those of some spans. EtlError(DESTINATION_SETUP, …) when Snowflake does not give them."""
        columns = [f"{texts.at_target(pair.target)} AS C{i}" for i, pair in enumerate(self.pairs)]
        statement = f"SELECT {', '.join([*columns, '_ETL_SPECIAL AS S'])} FROM {self.table_sql}{self._where(spans)}"
        try:
            with self.connection.cursor() as cursor:
                cursor.execute(statement)
                for batch in cursor.fetch_arrow_batches() if cursor.rowcount else ():
                    for piece in _pieces(batch):
                        *cells, special = (column.combine_chunks() for column in piece.columns)
                        turned = [texts.of_target(p.target, c, special) for p, c in zip(self.pairs, cells, strict=True)]
                        place = None if self.ranged is None else cells[self.ranged]
                        yield _rows(self.pairs, turned, piece.num_rows, place)
        except Error as error:
            raise classify(error, self.place, Kind.DESTINATION_SETUP) from None

    def _where(self, spans: Sequence[Span]) -> str:
        conditions = ["NOT COALESCE(_ETL_DELETED, FALSE)"] if self.soft else []
        if spans and self.ranged is not None:
            conditions.append(f"({condition(spans).format(name_of(self.pairs[self.ranged].target))})")
        return f" WHERE {' AND '.join(conditions)}" if conditions else ""


def _pieces(batch: pa.Table) -> Iterator[pa.Table]:
    rows = max(1, batch.num_rows * PIECE_BYTES // max(1, batch.nbytes))
    return (batch.slice(first, rows) for first in range(0, batch.num_rows, rows))


def _rows(pairs: Sequence[Pair], cells: list[pa.Array], rows: int, place: pa.Array | None) -> Rows:
    whole = joined(cells, rows)
    key = [cell for pair, cell in zip(pairs, cells, strict=True) if pair.target.key]
    return Rows(joined(key, rows) if key else whole, whole, None if place is None else integers(place))


def integers(cells: pa.Array) -> pa.Array:
    """Texts of a NUMBER(19, 0) as int64; what somebody wrote into the target may be beyond it, and is then its end."""
    try:
        return cells.cast(pa.int64())
    except pa.ArrowInvalid:
        wide, ends = cells.cast(pa.decimal128(38, 0)), np.iinfo(np.int64)
        least, greatest = (pa.scalar(int(end), pa.int64()).cast(wide.type) for end in (ends.min, ends.max))
        within = pc.max_element_wise(pc.min_element_wise(wide, greatest, skip_nulls=False), least, skip_nulls=False)
        return within.cast(pa.int64())
