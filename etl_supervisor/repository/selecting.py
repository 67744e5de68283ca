"""Which tables a pipeline takes: the columns of app.pipelines -> `Selection`; a table that somebody names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model.selection import ColumnMask, MaskKind, Selection
from etl_supervisor.model.table import TableName

_WORDS = frozenset({MaskKind.EXCLUDE, MaskKind.HASH, MaskKind.NULL})
_FORM = 'write {"<schema>.<table>": {"<column>": "exclude", "hash", "null" or {"constant": "<text>"}}}'


def selection(row: dict[str, Any], *, can_hash: bool) -> Selection:
    """Of a row of app.pipelines. EtlError(CONFIG) for what can't be meant; `can_hash`: there is a secret to hash with."""
    place = f"pipeline {row['name']}"
    for column in ("tables_include", "tables_exclude"):
        for pattern in row[column]:
            if "." not in pattern:
                remedy = "write <schema>.<table>, with * for any characters: public.*"
                raise EtlError(Kind.CONFIG, place, f"{column} has a pattern without a schema: {pattern}", remedy)
    masks = tuple(_masks(row["columns"], place))
    if not can_hash and any(mask.kind is MaskKind.HASH for mask in masks):
        remedy = "set MASKING_SECRET, for example from: openssl rand -hex 32"
        raise EtlError(Kind.CONFIG, place, "columns are to be hashed, and there is no secret", remedy)
    return Selection(tuple(row["tables_include"]), tuple(row["tables_exclude"]), masks)


def _masks(columns: dict[str, Any], place: str) -> Iterator[ColumnMask]:
    for name, wanted in columns.items():
        schema, dot, table = name.partition(".")
        if not (schema and dot and table and isinstance(wanted, dict)):
            raise EtlError(Kind.CONFIG, place, f"columns can't be read: {name}", _FORM)
        for column, mask in wanted.items():
            yield _mask(TableName(schema, table), column, mask, place)


def _mask(table: TableName, column: str, wanted: Any, place: str) -> ColumnMask:
    match wanted:
        case str() if wanted in _WORDS:
            return ColumnMask(table, column, MaskKind(wanted))
        case {"constant": str() as text} if len(wanted) == 1:
            return ColumnMask(table, column, MaskKind.CONSTANT, text)
        case _:
            raise EtlError(Kind.CONFIG, place, f"columns can't be read: {table}, column {column}", _FORM)


def find_table(known: Iterable[TableName], text: str, pipeline: str) -> TableName:
    """`schema.table`, or a table of schema public by its name alone. EtlError(CONFIG) when there is none."""
    for name in known:
        if text == str(name) or (name.schema == "public" and text == name.name):
            return name
    remedy = "see `status` for the tables it has"
    raise EtlError(Kind.CONFIG, f"pipeline {pipeline}", f"it has no table {text}", remedy)
