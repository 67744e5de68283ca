"""Both sides of one table as comparable rows, piece by piece; each can be read again and gives the same rows.

    source   COPY (SELECT …) under the snapshot ─► CSV ─► Arrow strings ─► `texts.of_source`
    target   SELECT of the clone ─► the connector's Arrow batches       ─► `texts.of_target`

A piece of the source is about a megabyte, one of the target is what Snowflake sends at a time; nothing else is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql
from snowflake.connector.errors import Error

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.table import Column
from workers.reader.copyboth import ServerError
from workers.reader.copyout import copy_out
from workers.reader.csv import NULL_TEXT, parse_lines, text_of
from workers.reader.masks import Masks
from workers.reader.snapshot import Found
from workers.snowflake.connection import classify
from workers.verify import texts
from workers.verify.comparing import Rows
from workers.verify.fingerprints import joined


@dataclass(frozen=True, slots=True)
class Pair:
    """A column in the source's shape and in the target's: a mask may have made another type of it."""

    source: Column
    target: Column


@dataclass(frozen=True, slots=True)
class SourceSide:
    """The rows that the snapshot of `connection` shows and that are published."""

    connection: psycopg.Connection[Any]
    found: Found
    masks: Masks
    pairs: Sequence[Pair]

    def rows(self) -> Iterator[Rows]:
        """All rows. EtlError(COPY) why the server does not give them, never with a value."""
        shape = replace(self.found.table, columns=tuple(pair.source for pair in self.pairs))
        query = self._query().as_bytes(self.connection)
        try:
            with self.connection.transaction():
                for chunk in copy_out(self.connection, query):
                    cells = parse_lines(text_of(chunk), len(chunk), shape).columns
                    turned = [texts.of_source(p.source, self.masks, c) for p, c in zip(self.pairs, cells, strict=False)]
                    yield _rows(self.pairs, turned, len(chunk))
        except ServerError as error:
            reason = f"its rows can't be read (SQLSTATE {error.sqlstate})"
            raise EtlError(Kind.COPY, f"table {shape.name}", reason, "check that the table may be read") from None

    def _query(self) -> sql.Composed:
        name, leaves = self.found.table.name, self.found.leaves
        alone = len(leaves) == 1 and leaves[0].name == name and not leaves[0].tree
        columns = sql.SQL(", ").join(texts.at_source(pair.source, self.masks) for pair in self.pairs)
        query = sql.SQL("SELECT {} FROM {}{}").format(
            columns, sql.SQL("ONLY " if alone else ""), sql.Identifier(name.schema, name.name)
        )
        if self.found.condition:
            query += sql.SQL(" WHERE ") + sql.SQL(self.found.condition)
        return sql.SQL("COPY ({}) TO STDOUT (FORMAT csv, NULL {})").format(query, NULL_TEXT)


@dataclass(frozen=True, slots=True)
class TargetSide:
    """The rows of `table_sql`; those that are marked as deleted are none where `soft`."""

    connection: Any
    table_sql: str
    pairs: Sequence[Pair]
    place: str
    soft: bool

    def rows(self) -> Iterator[Rows]:
        """All rows. EtlError(DESTINATION_SETUP, …) when Snowflake does not give them."""
        columns = [f"{texts.at_target(pair.target)} AS C{i}" for i, pair in enumerate(self.pairs)]
        there = " WHERE NOT COALESCE(_ETL_DELETED, FALSE)" if self.soft else ""
        try:
            with self.connection.cursor() as cursor:
                cursor.execute(f"SELECT {', '.join([*columns, '_ETL_SPECIAL AS S'])} FROM {self.table_sql}{there}")
                for batch in cursor.fetch_arrow_batches() if cursor.rowcount else ():
                    *cells, special = (column.combine_chunks() for column in batch.columns)
                    turned = [texts.of_target(p.target, c, special) for p, c in zip(self.pairs, cells, strict=True)]
                    yield _rows(self.pairs, turned, batch.num_rows)
        except Error as error:
            raise classify(error, self.place, Kind.DESTINATION_SETUP) from None


def _rows(pairs: Sequence[Pair], cells: list[pa.Array], rows: int) -> Rows:
    whole = joined(cells, rows)
    key = [cell for pair, cell in zip(pairs, cells, strict=True) if pair.target.key]
    return Rows(joined(key, rows) if key else whole, whole)
