"""Files of a table in the internal stage of its landing schema, and the COPY that loads them.

    @"DB"."LANDING_SCHEMA"."_ETL_STAGE" / <folder of the table> / <channel> / <first token>_<last token>_<number>.parquet

PUT, LIST and REMOVE need no warehouse; a COPY does. A pipe's name carries a digest of its definition: a new shape is a
new pipe, because replacing a pipe would forget which files it has loaded. And each pipe knows its own loads only: a file stays with the pipe for
which it was planned, whatever shape the table has since (a first copy may have brought a newer one), and pipes stay until their generation is over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etl_supervisor.ipc.messages import OpenTable
from workers.snowflake.identifiers import Objects, literal, objects_of, quoted
from workers.snowflake.parquet import selection

REHEARSALS = "rehearsals"  # beside the tables' folders
UPLOAD_THREADS = 4  # of one PUT: parts of a large file
# Numbers and times by Parquet's logical types, and bytes as bytes: what Snowflake guesses without these differs by the day of the account's creation.
FORMAT = "FILE_FORMAT = (TYPE = PARQUET USE_LOGICAL_TYPE = TRUE BINARY_AS_TEXT = FALSE)"


@dataclass(frozen=True, slots=True)
class Stage:
    """The files of one channel."""

    opening: OpenTable

    def create(self, cursor: Any) -> None:
        """Make the stage if there is none."""
        cursor.execute(f"CREATE STAGE IF NOT EXISTS {self._objects.stage_sql}")

    def put(self, cursor: Any, path: Path) -> None:
        """Upload a file under its own name. One that is there already stays as it is."""
        where = f"@{self._objects.stage_sql}/{self._objects.folder}/{self.opening.channel}"
        cursor.execute(
            f"PUT 'file://{path}' {where} AUTO_COMPRESS = FALSE OVERWRITE = FALSE PARALLEL = {UPLOAD_THREADS}"
        )

    def rehearse(self, cursor: Any, path: Path) -> None:
        """Upload a file and remove it, where no loader looks. A crash may have left one of before."""
        where = f"@{self._objects.stage_sql}/{REHEARSALS}/{self._objects.folder}/{self.opening.channel}"
        cursor.execute(
            f"PUT 'file://{path}' {where} AUTO_COMPRESS = FALSE OVERWRITE = TRUE PARALLEL = {UPLOAD_THREADS}"
        )
        cursor.execute(f"REMOVE {where}/{path.name}")

    def names(self, cursor: Any) -> set[str]:
        """The files that are there."""
        cursor.execute(f"LIST @{self._objects.stage_sql}/{self._objects.folder}/{self.opening.channel}/")
        return {row[0].rpartition("/")[2] for row in cursor.fetchall()}

    def remove(self, cursor: Any, *names: str) -> None:
        """Remove files."""
        for name in names:
            cursor.execute(f"REMOVE @{self._objects.stage_sql}/{self._objects.folder}/{self.opening.channel}/{name}")

    def clear(self, cursor: Any) -> None:
        """Remove all files."""
        cursor.execute(f"REMOVE @{self._objects.stage_sql}/{self._objects.folder}/{self.opening.channel}/")

    def path(self, name: str) -> str:
        """A file as pipes and COPY name it: below the table's folder."""
        return f"{self.opening.channel}/{name}"

    def copy(self, names: Iterable[str]) -> str:
        """The statement that loads files."""
        listed = ", ".join(literal(self.path(name)) for name in names)
        return f"{self._copy} FILES = ({listed}) {FORMAT} ON_ERROR = CONTINUE"

    def copy_into(self, table_sql: str, names: Iterable[str]) -> str:
        """The statement that loads files into another table of the same columns: all rows or none."""
        listed = ", ".join(literal(self.path(name)) for name in names)
        return f"{self._into(table_sql)} FILES = ({listed}) {FORMAT}"

    def create_pipe(self, cursor: Any) -> None:
        """Make the pipe of this shape if there is none."""
        cursor.execute(f"CREATE PIPE IF NOT EXISTS {self.qualified(self.pipe)} AS {self._definition}")

    def drop_pipes(self, cursor: Any, pipes: Iterable[str]) -> None:
        """Those of these pipes that are of older generations: nobody asks for their rows any more."""
        for pipe in pipes:
            if not pipe.startswith(self._pipes):
                cursor.execute(f"DROP PIPE IF EXISTS {self.qualified(pipe)}")

    @property
    def pipe(self) -> str:
        """The name of the pipe of this shape."""
        return f"{self._pipes}{hashlib.sha256(self._definition.encode()).hexdigest()[:8]}"

    def qualified(self, pipe: str) -> str:
        """A pipe's name with database and schema, quoted."""
        return ".".join(map(quoted, (self._objects.database, self._objects.landing_schema, pipe)))

    @property
    def _pipes(self) -> str:
        """How pipes of this generation begin."""
        return f"{self._objects.landing}-FILES-{self.opening.generation:X}-"

    @property
    def _definition(self) -> str:
        return f"{self._copy} {FORMAT} ON_ERROR = CONTINUE"

    @property
    def _copy(self) -> str:
        return self._into(self._objects.landing_sql)

    def _into(self, table_sql: str) -> str:
        columns, items = selection(self.opening.table)
        objects = self._objects
        return f"COPY INTO {table_sql} ({columns}) FROM (SELECT {items} FROM @{objects.stage_sql}/{objects.folder})"

    @property
    def _objects(self) -> Objects:
        return objects_of(self.opening.destination, self.opening.table)
