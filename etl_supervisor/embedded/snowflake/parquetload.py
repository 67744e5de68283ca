"""COPY INTO a table from Parquet files of a stage, with Snowflake's load metadata: a file that was loaded once is skipped.

    COPY INTO t ("A", "D") FROM (SELECT $1:"A"::NUMBER(10,0), PARSE_JSON($1:"D"::VARCHAR) FROM @stage/path) FILES = ('x.parquet') ON_ERROR = CONTINUE

Statements of this form are run here, also for pipes; any other COPY is left to fakesnow. Set-based: DuckDB reads and casts, no Python per row. Rows
that do not fit are skipped and counted; rows and metadata become visible together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet

from etl_supervisor.embedded.snowflake.errortables import ErrorTables
from etl_supervisor.embedded.snowflake.loading import DOCUMENTS, WIDTHS, Loaded, insert
from etl_supervisor.embedded.snowflake.quoting import literal, quoted
from etl_supervisor.embedded.snowflake.stages import NAME, STAGE_PATH, StageError, Stages, parts_of
from etl_supervisor.embedded.snowflake.warehouse import Warehouse

COPY = re.compile(
    rf"\s*COPY\s+INTO\s+(?P<table>{NAME})\s*\((?P<columns>.*?)\)\s*FROM\s*\(\s*SELECT\s+(?P<items>.*?)\s+FROM\s+{STAGE_PATH}\s*\)(?P<options>.*)$",
    re.I | re.S,
)
_ITEM = re.compile(
    r'(?P<json>PARSE_JSON\s*\(\s*)?\$1:"(?P<name>(?:[^"]|"")+)"(?:::(?P<type>\w+(?:\([\d,\s]+\))?))?(?(json)\s*\))\s*(?:,|$)',
    re.I,
)
_FILES = re.compile(r"FILES\s*=\s*\((?P<files>.*?)\)", re.I | re.S)
_LOADS = "_streaming._loads"
_MADE = """
CREATE SCHEMA IF NOT EXISTS {db}._streaming;
CREATE TABLE IF NOT EXISTS {db}._streaming._loads (schema_name VARCHAR, table_name VARCHAR, loader VARCHAR, path VARCHAR, changed BIGINT,
    PRIMARY KEY (schema_name, table_name, loader, path))
"""
TITLES = (
    "file",
    "status",
    "rows_parsed",
    "rows_loaded",
    "error_limit",
    "errors_seen",
    "first_error",
    "first_error_line",
    "first_error_character",
    "first_error_column_name",
)
REFUSED = "a value does not fit its column"


@dataclass(frozen=True, slots=True)
class Copy:
    """A COPY statement: quoted table, columns, (source column, is JSON) of each, path in a stage, names of files (None: all)."""

    table: str
    columns: tuple[str, ...]
    sources: tuple[tuple[str, bool], ...]
    path: str
    files: tuple[str, ...] | None

    @property
    def names(self) -> list[str]:
        """Database, schema and table."""
        return parts_of(self.table)


@dataclass(frozen=True, slots=True)
class FileLoad:
    """What became of a file. `status` is LOADED, PARTIALLY_LOADED, LOAD_FAILED or LOAD_SKIPPED."""

    file: str
    status: str
    parsed: int = 0
    loaded: int = 0
    error: str | None = None


def copy_of(sql: str) -> Copy | None:
    """A statement of the form above; None for any other."""
    found = COPY.match(sql)
    if found is None:
        return None
    items = list(_ITEM.finditer(found["items"]))
    columns = tuple(parts_of(found["columns"]))
    if len(items) != len(columns) or len(parts_of(found["table"])) != 3:
        return None
    files = _FILES.search(found["options"])
    listed = None if files is None else tuple(re.findall(r"'([^']+)'", files["files"]))
    sources = tuple((item["name"].replace('""', '"'), item["json"] is not None) for item in items)
    return Copy(found["table"], columns, sources, found["quoted"] or found["bare"], listed)


class FileLoader:
    """Loads files into the tables of a warehouse. `refused` gives the rows that a test wants refused (see `loading`)."""

    def __init__(
        self, stages: Stages, errors: ErrorTables, warehouse: Warehouse, refused: Callable[[], Sequence[dict[str, str]]]
    ) -> None:
        self.warehouse, self.stages, self.errors, self._refused = warehouse, stages, errors, refused

    def load(self, copy: Copy, where: tuple[str | None, str | None], loader: str = "") -> list[FileLoad]:
        """Load the files of a COPY, each in a transaction. `loader` is a pipe's name: a pipe has load metadata of its own."""
        place = self.stages.place(copy.path, where)
        files = copy.files
        if files is None:
            files = tuple(path.relative_to(place.full).as_posix() for path in sorted(place.full.rglob("*.parquet")))
        connection = self.warehouse.cursor()
        try:
            return [self._file(connection, copy, place.full / name, name, loader) for name in files]
        finally:
            connection.close()

    def _file(self, connection: Any, copy: Copy, path: Path, name: str, loader: str) -> FileLoad:
        database, schema, table = copy.names
        connection.execute(_MADE.format(db=quoted(database)))
        if not path.is_file():
            return FileLoad(name, "LOAD_FAILED", error="the file was not found")
        key = [schema, table, loader, f"{copy.path}/{name}"]
        changed = path.stat().st_mtime_ns
        known = connection.execute(
            f"SELECT changed FROM {quoted(database)}.{_LOADS} WHERE schema_name = ? AND table_name = ? AND loader = ? AND path = ?",
            key,
        ).fetchone()
        if known is not None and (loader or known[0] == changed):
            return FileLoad(name, "LOAD_SKIPPED", error="File was loaded before.")
        try:
            columns = set(pa.parquet.read_schema(path).names)
        except (pa.ArrowInvalid, OSError):
            return FileLoad(name, "LOAD_FAILED", error="the file is no Parquet file")
        connection.execute("BEGIN")
        try:
            loaded = self._rows(connection, copy, path, columns, loader)
            if loaded.inserted or not loaded.parsed:
                values = [*key, changed]
                connection.execute(f"INSERT OR REPLACE INTO {quoted(database)}.{_LOADS} VALUES (?, ?, ?, ?, ?)", values)
            connection.execute("COMMIT")
        except (duckdb.Error, StageError):
            connection.execute("ROLLBACK")
            raise
        whole = loaded.inserted == loaded.parsed
        status = "LOADED" if whole else "PARTIALLY_LOADED" if loaded.inserted else "LOAD_FAILED"
        return FileLoad(name, status, loaded.parsed, loaded.inserted, None if whole else REFUSED)

    def _rows(self, connection: Any, copy: Copy, path: Path, there: set[str], loader: str) -> Loaded:
        database, schema, table = copy.names
        kinds = {name: (kind, nullable) for name, kind, nullable in self.warehouse.columns(database, schema, table)}
        if unknown := [name for name in copy.columns if name not in kinds]:
            raise StageError("000904", f"SQL compilation error: invalid identifier '{unknown[0]}'")
        casts, bad = [], []
        for name, (source, json) in zip(copy.columns, copy.sources, strict=True):
            kind, nullable = kinds[name]
            raw = f"raw.{quoted(source)}" if source in there else "NULL"
            text = f"CAST({raw} AS VARCHAR)"
            value = (
                f"CASE WHEN json_valid({text}) THEN CAST({text} AS JSON) END" if json else f"try_cast({raw} AS {kind})"
            )
            casts.append(f"{value} AS {quoted(name)}")
            missing = f"({value}) IS NULL"
            if kind in WIDTHS:
                missing = f"({missing} OR {WIDTHS[kind][0]}({value}) > {WIDTHS[kind][1]})"
            bad.append(f"({raw} IS NOT NULL AND {missing})" if nullable else missing)
        rules = [rule for rule in self._refused() if rule["table"] == table]
        bad += [f"coalesce(raw.{quoted(rule['column'])} LIKE {literal(rule['like'])}, FALSE)" for rule in rules]
        document = ", to_json(raw) AS _document" if self.errors.logs(database, schema, table) else ""
        arriving = (
            f"SELECT {', '.join(casts)}, ({' OR '.join(bad)}) AS _bad{document}"
            f" FROM read_parquet({literal(str(path))}) AS raw"
        )
        loaded = insert(connection, ".".join(map(quoted, copy.names)), copy.columns, arriving)
        if document and loaded.inserted < loaded.parsed:
            told = {"service": "snowpipe" if loader else "copy", "file_name": path.name}
            self.errors.keep(connection, (database, schema, table), told, DOCUMENTS)
        return loaded


def answer(loads: list[FileLoad]) -> str:
    """The query that gives a COPY's result."""
    if not loads:
        return "SELECT 'Copy executed with 0 files processed.' AS \"status\""
    rows = []
    for load in loads:
        error = "NULL" if load.error is None else literal(load.error)
        numbers = f"{load.parsed}, {load.loaded}, {load.parsed}, {load.parsed - load.loaded}"
        rows.append(f"({literal(load.file)}, '{load.status}', {numbers}, {error}, NULL, NULL, NULL)")
    names = ", ".join(f'"{title}"' for title in TITLES)
    return f"SELECT {names} FROM (VALUES {', '.join(rows)}) AS t ({names})"
