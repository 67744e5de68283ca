"""Where fakesnow's ways lose what we need, ours are put in their place.

NUMBER(38,0)           would be a 64-bit integer
MERGE                  would run in steps that see each other's work
NULL timestamps        would come out as 1970
comments on columns    would not be shown by DESCRIBE
names with apostrophes would end the literals that it makes of them
trees of statements    would be walked slowly, some seventy times for each statement (`passes`), and kept for ever
"""

from __future__ import annotations

from string import Template
from typing import Any

import fakesnow.arrow
import fakesnow.cursor
import fakesnow.info_schema
import fakesnow.server
import fakesnow.transforms
import fakesnow.transforms.transforms
import pyarrow as pa
import pyarrow.compute as pc
from sqlglot import exp
from sqlglot.expressions.core import Expr

from etl_supervisor.embedded.snowflake import answers, passes, templates

RESULTS_KEPT = 100  # of a session


class _Quoting(Template):
    """Names stand between apostrophes."""

    def substitute(self, mapping: Any = (), /, **names: object) -> str:
        """With the apostrophes in them doubled."""
        return super().substitute(mapping, **{key: _doubled(name) for key, name in names.items()})


def _doubled(name: object) -> str:
    return str(name).replace("'", "''")


def close_gaps() -> None:
    """Once is enough; again does no harm."""
    if isinstance(fakesnow.transforms.transforms.SQL_DESCRIBE_TABLE, _Quoting):
        return
    cursor: Any = fakesnow.cursor.FakeSnowflakeCursor
    cursor._execute = _without_trees(cursor._execute)
    answers.close_gap(cursor)
    passes.close_gap(cursor)
    templates.close_gap(cursor, fakesnow.server)
    fakesnow.transforms.upper_case_unquoted_identifiers = passes.upper_case_unquoted_identifiers
    fakesnow.transforms.integer_precision = _nothing
    fakesnow.transforms.merge = lambda merge_expr: [merge_expr]
    fakesnow.arrow.timestamp_to_sf_struct = _with_nulls(fakesnow.arrow.timestamp_to_sf_struct)
    described = fakesnow.transforms.transforms.SQL_DESCRIBE_TABLE.template
    with_comments = described.replace('NULL::VARCHAR AS "comment"', 'comment AS "comment"')
    fakesnow.transforms.transforms.SQL_DESCRIBE_TABLE = _Quoting(with_comments)
    for title in ("SQL_CREATED_TABLE", "SQL_CREATED_SCHEMA", "SQL_CREATED_VIEW", "SQL_OBJECT_EXISTS", "SQL_DROPPED"):
        setattr(fakesnow.cursor, title, _Quoting(getattr(fakesnow.cursor, title).template))
    info_schema: Any = fakesnow.info_schema
    info_schema.insert_table_comment_sql = _noted(info_schema.insert_table_comment_sql)
    info_schema.insert_text_lengths_sql = _noted(info_schema.insert_text_lengths_sql)


def _noted(plain: Any) -> Any:
    """Comments and text lengths of a table are kept in memory. The first ones of a name can't replace any: without ON CONFLICT they cost half."""
    seen: set[tuple[str, ...]] = set()

    def statement(catalog: str, schema: str, table: str, notes: Any) -> str:
        one = not isinstance(notes, list)
        doubled = _doubled(notes) if one else [(_doubled(name), size) for name, size in notes]
        text: str = plain(*map(_doubled, (catalog, schema, table)), doubled)
        twice = not one and len({name for name, _ in notes}) < len(notes)
        if twice or (catalog, schema, table) in seen:
            return text
        seen.add((catalog, schema, table))
        return text[: text.rindex("ON CONFLICT")]

    return statement


def _without_trees(plain: Any) -> Any:
    """A session remembers the last results for RESULT_SCAN, which needs nothing of the statements' trees."""

    def execute(self: Any, transformed: Expr, params: Any = None) -> None:
        plain(self, transformed, params)
        kept = self._conn.results_cache
        if self._sfqid in kept:
            kept[self._sfqid] = (*kept[self._sfqid][:-1], exp.Select())
        while len(kept) > RESULTS_KEPT:
            del kept[next(iter(kept))]

    return execute


def _nothing(expression: Expr) -> Expr:
    return expression


def _with_nulls(plain: Any) -> Any:
    def stamps_of(stamps: Any) -> Any:
        if isinstance(stamps, pa.ChunkedArray):
            stamps = stamps.combine_chunks()
        whole = plain(pc.fill_null(stamps, pa.scalar(0, stamps.type)))
        return pa.StructArray.from_arrays(whole.flatten(), fields=list(whole.type), mask=pc.is_null(stamps))

    return stamps_of
