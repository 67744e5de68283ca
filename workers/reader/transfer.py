"""In which manner a source is read: values as text or binary, transactions before or after their commit.

pgoutput decides per stream, not per column: with `binary` every type that has a send function comes in its binary form. That costs the server
less and us less, and a bytea of more than half a gigabyte has no text at all; but not every type's binary form is read here.

    setting   every published column readable in binary   some are not
    -------   -----------------------------------------   ------------------------------------------
    auto      binary                                      text
    text      text                                        text
    binary    binary                                      SOURCE_SETUP: the column is named

The choice is made when a stream starts, and made again when a Relation message brings a type that can't be read: then the stream starts again in
text. Both forms give the same rows at the same positions, so it does not matter in the middle of what.

Transactions in progress are streamed if the source allows it. PostgreSQL (15 to 18) can't decode some of them before their commit: a DDL that was
rolled back to a savepoint gives "could not map filenumber". So after an error of the walsender the stream is tried once more with whole transactions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.pipeline import Source, Transfer
from etl_supervisor.model.table import Column, Table
from etl_supervisor.model.types import ValueKind
from workers.reader.catalog import CatalogTable
from workers.reader.pgtypes import value_type

# Send functions whose result is the text itself. xml's writes another declaration, "char"'s escapes nothing.
_TEXT_SENT = frozenset(
    {"textsend", "varcharsend", "bpcharsend", "namesend", "json_send", "enum_send", "citextsend", "unknownsend"}
)

_BASE = """
WITH RECURSIVE base AS (
    SELECT t.*, 0 AS depth, -1 AS typmod FROM pg_type t WHERE t.oid = %(oid)s
  UNION ALL
    SELECT t.*, b.depth + 1, CASE WHEN b.typmod = -1 THEN b.typtypmod ELSE b.typmod END
    FROM base b JOIN pg_type t ON t.oid = b.typbasetype WHERE b.typtype = 'd'
)
SELECT b.oid::bigint, b.typmod, p.proname::text FROM base b JOIN pg_proc p ON p.oid = b.typsend ORDER BY depth DESC LIMIT 1
"""


class TextNeededError(Exception):
    """A column came that can't be read in binary: the stream is to start again in text. Its text says which."""


@dataclass(frozen=True, slots=True)
class Manner:
    """What may be asked of the walsender: binary values (where they can be read), transactions in progress."""

    binary: bool = True
    in_progress: bool = True

    def after(self, error: TextNeededError | EtlError, source: Source) -> Manner:
        """How to go on after an error of the stream; the error itself (or what it means for this source) when no other manner helps."""
        if isinstance(error, TextNeededError):
            if source.transfer is Transfer.BINARY or not self.binary:
                raise unreadable(source, error) from None
            return replace(self, binary=False)
        if error.kind is Kind.WALSENDER and self.in_progress and source.stream_in_progress:
            return replace(self, in_progress=False)
        raise error


@dataclass(frozen=True, slots=True)
class _Base:
    """What a type is without its domains."""

    oid: int
    typmod: int
    send: str


class BinaryForms:
    """Knows which columns can be read in binary; asks the catalog once per type."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self._bases: dict[int, _Base | None] = {}

    def reads(self, type_oid: int, typmod: int, column: Column) -> bool:
        """True when the values of a column of this PostgreSQL type give what `column` wants."""
        base = self._base(type_oid)
        if base is None:
            return False
        kind = value_type(base.oid, typmod if typmod != -1 else base.typmod)
        if kind != column.type:
            return False  # the catalog is newer than the stream: the type is not what it was
        return kind.kind is not ValueKind.TEXT or base.send in _TEXT_SENT

    def check(self, types: Iterable[tuple[int, int]], table: Table) -> None:
        """TextNeededError when a table has a column that can't be read. `types` are (oid, typmod) of its columns, as PostgreSQL has them."""
        for (type_oid, typmod), column in zip(types, table.columns, strict=True):
            if not self.reads(type_oid, typmod, column):
                raise TextNeededError(f"table {table.name}, column {column.name}")

    def _base(self, oid: int) -> _Base | None:
        if oid not in self._bases:
            row = self._connection.execute(_BASE, {"oid": oid}).fetchone()
            self._bases[oid] = _Base(*row) if row else None
        return self._bases[oid]


def choose(source: Source, forms: BinaryForms, tables: Iterable[tuple[CatalogTable, Table]]) -> bool:
    """True for binary. EtlError(SOURCE_SETUP) when binary is asked for and a column can't be read in it."""
    if source.transfer is Transfer.TEXT:
        return False
    try:
        for found, table in tables:
            types = {column.name: (column.type_oid, column.typmod) for column in found.columns}
            forms.check([types[column.name] for column in table.columns], table)
    except TextNeededError as column:
        if source.transfer is Transfer.BINARY:
            raise unreadable(source, column) from None
        return False
    return True


def unreadable(source: Source, column: TextNeededError) -> EtlError:
    """Binary was asked for and can't be had."""
    reason = f"transfer is binary, but {column} is of a type whose binary form is not read"
    return EtlError(Kind.SOURCE_SETUP, f"source {source.name}", reason, "set transfer = 'auto' of the source")
