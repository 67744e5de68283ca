"""Snowflake names of a table's objects, quoted; and the names that can't be."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.model import names
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
        return ".".join(map(quoted, (self.database, self.landing_schema, f"ETL_MERGE_{self.target}_TASK")))

    @property
    def stream_sql(self) -> str:
        """The stream that wakes the task."""
        return ".".join(map(quoted, (self.database, self.landing_schema, f"ETL_MERGE_{self.target}_STREAM")))

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
    """Where a table goes."""
    return Objects(
        destination.database.upper(),
        destination.schema.upper(),
        destination.landing_schema.upper(),
        names.target_table(table.name),
        names.landing_table(table.name),
    )


def check_columns(table: Table) -> None:
    """Two columns that become one, or one that takes a name of ours: EtlError(SCHEMA)."""
    seen: dict[str, str] = {}
    for column in table.columns:
        name = names.column(column.name)
        if name.startswith(names.META_PREFIX):
            reason = f"column {column.name} begins with {names.META_PREFIX}, which is the system's own"
            raise EtlError(Kind.SCHEMA, f"table {table.name}", reason, "rename it, or leave it out of the publication")
        if name in seen:
            reason = f"columns {seen[name]} and {column.name} are both {name} in Snowflake"
            raise EtlError(Kind.SCHEMA, f"table {table.name}", reason, "rename one, or leave it out of the publication")
        seen[name] = column.name
