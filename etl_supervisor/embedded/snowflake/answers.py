"""Answers that DuckDB is not asked for: the status lines and counts for which fakesnow would, and results that are known as rows."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa

_STATUS = re.compile(r"SELECT '(?P<text>(?:[^']|'')*)' as '?status'?")
_COUNT = re.compile(
    r"SELECT (?P<count>\d{1,9}) as 'number of rows (?P<done>inserted|updated|deleted)'(?P<joined>, 0 as 'number of multi-joined rows updated')?"
)

TEXT_LENGTH = 16777216  # of a VARCHAR that was made without one
_TITLE = {
    "type": "text",
    "nullable": True,
    "length": TEXT_LENGTH,
    "byteLength": TEXT_LENGTH,
    "precision": None,
    "scale": None,
}


def of(sql: str) -> pa.Table | None:
    """The result of a statement that only says what was done; None for any other."""
    if found := _STATUS.fullmatch(sql):
        return pa.table({"status": pa.array([found["text"].replace("''", "'")], pa.string())})
    if found := _COUNT.fullmatch(sql):
        counts = {f"number of rows {found['done']}": pa.array([int(found["count"])], pa.int32())}
        if found["joined"]:
            counts["number of multi-joined rows updated"] = pa.array([0], pa.int32())
        return pa.table(counts)
    return None


def texts(titles: tuple[str, ...], rows: list[list[Any]]) -> dict[str, Any]:
    """A result of texts."""
    return {
        "rowtype": [{**_TITLE, "name": title} for title in titles],
        "rowset": rows,
        "total": len(rows),
        "returned": len(rows),
        "queryResultFormat": "json",
        "parameters": [],
    }


def value(title: str, found: Any) -> dict[str, Any]:
    """A result of one value: a whole number, or a text."""
    told = texts((title,), [[None if found is None else str(found)]])
    if isinstance(found, int):
        told["rowtype"] = [{**_TITLE, "name": title, "type": "fixed", "precision": 38, "scale": 0}]
    return told


class Answering:
    """A DuckDB connection that is not asked for what is known; it is when the result is taken in another way than as Arrow."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._known: tuple[str, pa.Table] | None = None

    def execute(self, query: str, *parameters: Any) -> Any:
        """As DuckDB's."""
        known = None if parameters and parameters[0] else of(query)
        self._known = None if known is None else (query, known)
        if known is None:
            self._connection.execute(query, *parameters)
        return self

    def to_arrow_table(self) -> pa.Table:
        """The result, once."""
        if self._known is None:
            return self._connection.to_arrow_table()
        (_, table), self._known = self._known, None
        return table

    def __getattr__(self, name: str) -> Any:
        if self._known is not None:
            (query, _), self._known = self._known, None
            self._connection.execute(query)
        return getattr(self._connection, name)


def close_gap(cursor: Any) -> None:
    """Have fakesnow's cursors ask so."""
    plain = cursor.__init__

    def initialise(self: Any, conn: Any, duck_conn: Any, *args: Any, **kwargs: Any) -> None:
        plain(self, conn, Answering(duck_conn), *args, **kwargs)

    cursor.__init__ = initialise
