"""Snowflake names of a table's objects, quoted; and the names that can't be."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model import names
from etl_supervisor.model.naming import PUBLIC, SchemaMapping
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.model.table import Table


def quoted(name: str) -> str:
    """An identifier as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string literal; backslashes are escapes in Snowflake."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


@dataclass(frozen=True, slots=True)
class Objects:
    """The objects of one table at one destination; the `_sql` forms are fully qualified and quoted."""

    database: str
    schema: str
    landing_schema: str
    target: str
    landing: str

    @property
    def target_sql(self) -> str:
        """The current table."""
        return ".".join(map(quoted, (self.database, self.schema, self.target)))

    @property
    def landing_sql(self) -> str:
        """The change log."""
        return ".".join(map(quoted, (self.database, self.landing_schema, self.landing)))

    @property
    def history_sql(self) -> str:
        """Every version of every row."""
        return ".".join(map(quoted, (self.database, self.schema, self.target + names.HISTORY_SUFFIX)))

    @property
    def live_sql(self) -> str:
        """The view of the rows as of the last landed change."""
        return ".".join(map(quoted, (self.database, self.schema, self.target + names.LIVE_SUFFIX)))

    @property
    def task_sql(self) -> str:
        """The task that applies."""
        return ".".join(map(quoted, (self.database, self.landing_schema, f"ETL_MERGE_{self._title}_TASK")))

    @property
    def stream_sql(self) -> str:
        """The stream that wakes the task."""
        return ".".join(map(quoted, (self.database, self.landing_schema, f"ETL_MERGE_{self._title}_STREAM")))

    @property
    def _title(self) -> str:
        """Names the table in the landing schema, where tables of all schemas meet."""
        return self.landing.removeprefix(names.LANDING_PREFIX)

    @property
    def watermark_sql(self) -> str:
        """Fences and owners of all tables of this landing schema."""
        return ".".join(map(quoted, (self.database, self.landing_schema, names.WATERMARK_TABLE)))

    @property
    def dead_letter_sql(self) -> str:
        """Rows that could not be loaded, of all tables of this landing schema."""
        return ".".join(map(quoted, (self.database, self.landing_schema, names.DEAD_LETTER_TABLE)))

    @property
    def files_sql(self) -> str:
        """Files under way, of all channels of this landing schema."""
        return ".".join(map(quoted, (self.database, self.landing_schema, names.FILES_TABLE)))

    @property
    def stage_sql(self) -> str:
        """The internal stage of this landing schema."""
        return ".".join(map(quoted, (self.database, self.landing_schema, names.STAGE)))

    @property
    def folder(self) -> str:
        """The table's folder in the stage: letters, digits, `_` and `-` only."""
        digest = hashlib.sha256(self.landing.encode()).hexdigest()[:8]
        return f"{re.sub('[^A-Za-z0-9_]', '_', self.landing)[:80]}-{digest}"


def objects_of(destination: Destination, table: Table) -> Objects:
    """Where a table goes. EtlError(DESTINATION_SETUP) when its schema would be the destination's own or the landing schema."""
    naming, landing_schema = destination.naming, destination.landing_schema.upper()
    schema = naming.target_schema(table.name, destination.schema)
    if table.name.schema != PUBLIC and naming.mapping is SchemaMapping.SCHEMA:
        _check_schema(schema, destination, table)
    target, landing = naming.target_table(table.name), naming.landing_table(table.name)
    return Objects(destination.database.upper(), schema, landing_schema, target, landing)


def _check_schema(schema: str, destination: Destination, table: Table) -> None:
    """Tables of `public` and change logs are there: names would meet that no mark in `_ETL_WATERMARK` tells apart."""
    taken = {
        destination.schema.upper(): "the destination's schema",
        destination.landing_schema.upper(): "the landing schema",
        "INFORMATION_SCHEMA": "Snowflake's own schema",
    }
    if schema.upper() in taken:
        reason = f"schema {table.name.schema} would be {schema} in Snowflake, which is {taken[schema.upper()]}"
        remedy = "give the destination other schemas, or set its schema_mapping to prefix"
        raise EtlError(Kind.DESTINATION_SETUP, f"table {table.name}", reason, remedy)


def named(opening: OpenTable) -> OpenTable:
    """An opening whose columns know their names at its destination, and what is to be said of them there."""
    table = opening.destination.naming.shown(opening.table)
    if not opening.destination.copy_comments:
        table = replace(table, comment="", columns=tuple(replace(column, comment="") for column in table.columns))
    return replace(opening, table=table)


def check_columns(table: Table) -> None:
    """Two columns that differ by case only, or one that takes a name of ours: EtlError(SCHEMA). Pipes may match names without their case, so
    a destination that keeps it can't have both either."""
    seen: dict[str, str] = {}
    for column in table.columns:
        name = column.name.upper()
        if name.startswith(names.META_PREFIX):
            reason = f"column {column.name} begins with {names.META_PREFIX}, which is the system's own"
            raise EtlError(Kind.SCHEMA, f"table {table.name}", reason, "rename it, or leave it out of the publication")
        if name in seen:
            reason = f"columns {seen[name]} and {column.name} are both {name} in Snowflake"
            raise EtlError(Kind.SCHEMA, f"table {table.name}", reason, "rename one, or leave it out of the publication")
        seen[name] = column.name
