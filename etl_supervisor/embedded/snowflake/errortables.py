"""Error tables: with `ERROR_LOGGING = TRUE` a table keeps the rows that a load has refused, as they came.

    CREATE TABLE t (…) ERROR_LOGGING = TRUE, ALTER TABLE t SET | UNSET ERROR_LOGGING     on and off; what is kept stays
    SELECT … FROM ERROR_TABLE(t)                                                         TIMESTAMP, QUERY_ID, ERROR_CODE, ERROR_METADATA, ERROR_DATA
    TRUNCATE ERROR_TABLE(t)

Rows that Snowpipe Streaming, Snowpipe or COPY refuse come into it, in the transaction of the rows that fit. What a DML statement can't write fails
that statement, as without error logging.
"""

from __future__ import annotations

import json
import re
from typing import Any

from etl_supervisor.embedded.snowflake.quoting import literal, quoted
from etl_supervisor.embedded.snowflake.stages import NAME, StageError, parts_of
from etl_supervisor.embedded.snowflake.statements import SUCCESS
from etl_supervisor.embedded.snowflake.warehouse import Warehouse

Where = tuple[str | None, str | None]

REFUSED = 100_071  # the number of a value that does not fit its column
_CREATE = re.compile(
    rf"\s*CREATE\s+(?:OR\s+REPLACE\s+)?(?:TRANSIENT\s+)?TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?(?P<name>{NAME})\b.*\bERROR_LOGGING\s*=\s*TRUE",
    re.I | re.S,
)
_ALTER = re.compile(
    rf"\s*ALTER\s+TABLE\s+(?:IF\s+EXISTS\s+)?(?P<name>{NAME})\s+(?:SET\s+ERROR_LOGGING\s*=\s*(?P<on>TRUE|FALSE)|UNSET\s+ERROR_LOGGING)\s*;?\s*$",
    re.I,
)
_READ = re.compile(rf"\bERROR_TABLE\s*\(\s*(?P<name>{NAME})\s*\)", re.I)
_TRUNCATE = re.compile(rf"\s*TRUNCATE\s+(?:TABLE\s+)?ERROR_TABLE\s*\(\s*(?P<name>{NAME})\s*\)\s*;?\s*$", re.I)
_MADE = """
CREATE TABLE IF NOT EXISTS {db}._streaming._error_logging (schema_name VARCHAR, table_name VARCHAR, PRIMARY KEY (schema_name, table_name));
CREATE TABLE IF NOT EXISTS {db}._streaming._errors (schema_name VARCHAR, table_name VARCHAR, "timestamp" TIMESTAMPTZ, query_id VARCHAR,
    error_code INTEGER, error_metadata JSON, error_data JSON)
"""


class ErrorTables:
    """Those of all databases."""

    def __init__(self, warehouse: Warehouse) -> None:
        self._warehouse = warehouse
        self._logged: dict[str, set[tuple[str, str]]] = {}  # database -> (schema, table)

    def statement(self, sql: str, where: Where) -> str | None:
        """Switch error logging, or empty an error table: the query of the answer. None for any other statement (a CREATE TABLE goes on)."""
        if found := _CREATE.match(sql):
            self._switch(*self._whole(found["name"], where), on=True)
        elif found := _ALTER.match(sql):
            self._switch(*self._whole(found["name"], where), on=(found["on"] or "").upper() == "TRUE")
            return SUCCESS
        elif found := _TRUNCATE.match(sql):
            database, schema, table = self._whole(found["name"], where)
            self._known(database)
            self._warehouse.cursor().execute(
                f"DELETE FROM {quoted(database)}._streaming._errors WHERE schema_name = ? AND table_name = ?",
                [schema, table],
            )
            return SUCCESS
        return None

    def rewritten(self, sql: str, where: Where) -> str:
        """The statement, reading what the error tables have. StageError for a table without one."""

        def rows(found: re.Match[str]) -> str:
            database, schema, table = self._whole(found["name"], where)
            if not self.logs(database, schema, table):
                raise StageError("002003", f"Error table of '{found['name']}' does not exist or not authorized.")
            return (
                f'(SELECT "timestamp" AS TIMESTAMP, query_id AS QUERY_ID, error_code AS ERROR_CODE, error_metadata AS ERROR_METADATA,'
                f" error_data AS ERROR_DATA FROM {quoted(database)}._streaming._errors"
                f" WHERE schema_name = {literal(schema)} AND table_name = {literal(table)})"
            )

        return _READ.sub(rows, sql) if "ERROR_TABLE" in sql.upper() else sql

    def logs(self, database: str, schema: str, table: str) -> bool:
        """Whether refused rows of a table are kept."""
        return (schema, table) in self._known(database)

    def keep(self, connection: Any, names: tuple[str, str, str], metadata: dict[str, str], rows: str) -> None:
        """Keep the documents of the query `rows` (one JSON column), in the transaction of the connection."""
        database, schema, table = names
        told = json.dumps({"error_code": REFUSED, "error_message": "a value does not fit its column", **metadata})
        connection.execute(
            f"INSERT INTO {quoted(database)}._streaming._errors"
            f" SELECT ?, ?, now(), uuid()::VARCHAR, {REFUSED}, ?::JSON, document FROM ({rows}) AS r(document)",
            [schema, table, told],
        )

    def _switch(self, database: str, schema: str, table: str, *, on: bool) -> None:
        known, place = self._known(database), f"{quoted(database)}._streaming._error_logging"
        if on:
            statement, change = f"INSERT OR IGNORE INTO {place} VALUES (?, ?)", known.add
        else:
            statement, change = f"DELETE FROM {place} WHERE schema_name = ? AND table_name = ?", known.discard
        self._warehouse.cursor().execute(statement, [schema, table])
        change((schema, table))

    def _known(self, database: str) -> set[tuple[str, str]]:
        if database not in self._logged and self._warehouse.has_database(database):
            cursor = self._warehouse.cursor()
            cursor.execute(_MADE.format(db=quoted(database)))
            rows = cursor.execute(f"SELECT * FROM {quoted(database)}._streaming._error_logging").fetchall()
            self._logged[database] = {(schema, table) for schema, table in rows}
        return self._logged.get(database, set())

    def _whole(self, name: str, where: Where) -> tuple[str, str, str]:
        parts: list[str | None] = [*parts_of(name)]
        database, schema, table = [*where, None][: 3 - len(parts)] + parts
        if database is None or schema is None or table is None or not self._warehouse.has_database(database):
            raise StageError("002003", f"Table '{name}' does not exist or not authorized.")
        return database, schema, table
