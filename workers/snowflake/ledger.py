"""`_ETL_FILES`: which rows are in which file, written before the file is uploaded.

One row per channel: how far it is loaded, how many rows were refused, the files under way and the pipes that it has had (JSON). Every write is one
UPDATE that names the owner's sequencer, so whoever opened the channel since has fenced us; and a file that is planned keeps its name, its pipe and
its first and last token until it is loaded, so the next owner makes the same file again, or finds it on the stage.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from snowflake.connector.errors import ProgrammingError

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc import wire
from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model import names
from etl_supervisor.model.pipeline import LoadPath
from workers.snowflake.connection import DOES_NOT_EXIST
from workers.snowflake.identifiers import literal, objects_of


@dataclass(frozen=True, slots=True)
class File:
    """A planned file: its rows are those of the channel from token `first` to `last`. `size` is in bytes, `planned_at` ISO-8601 UTC; `pipe` loads it
    ("": a COPY does)."""

    name: str
    first: str
    last: str
    rows: int
    size: int
    planned_at: str
    pipe: str = ""


@dataclass(frozen=True, slots=True)
class Files:
    """The files under way, in order, and the names of the pipes."""

    files: tuple[File, ...]
    pipes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Books:
    """The row of a channel. `committed` is "" before the first file; `path` loads the files under way, by one of `pipes` if it is snowpipe."""

    sequencer: int
    path: LoadPath
    committed: str
    errors: int
    files: tuple[File, ...]
    pipes: tuple[str, ...] = ()

    def with_pipe(self, name: str) -> Books:
        """With a pipe that is about to be made."""
        return self if name in self.pipes else replace(self, pipes=(*self.pipes, name))

    def planned(self, file: File) -> Books:
        """With one more file under way."""
        return replace(self, files=(*self.files, file))

    def loaded(self, refused: int) -> Books:
        """The first file has ended with so many rows refused."""
        return replace(self, committed=self.files[0].last, errors=self.errors + refused, files=self.files[1:])

    def renamed(self, old: File, new: File) -> Books:
        """A file is to be made again under another name."""
        return replace(self, files=tuple(new if file == old else file for file in self.files))


@dataclass(frozen=True, slots=True)
class Ledger:
    """The row of one channel in the table of its landing schema."""

    opening: OpenTable

    def create(self, cursor: Any) -> None:
        """Make the table if there is none."""
        cursor.execute(
            f"CREATE TABLE IF NOT EXISTS {self._table} (LANDING_TABLE VARCHAR NOT NULL, CHANNEL VARCHAR NOT NULL,"
            " SEQUENCER NUMBER(19,0) NOT NULL, LOAD_PATH VARCHAR NOT NULL, COMMITTED VARCHAR NOT NULL, ERRORS NUMBER(19,0) NOT NULL,"
            " FILES VARCHAR NOT NULL, UPDATED_AT TIMESTAMP_TZ(6))"
        )

    def read(self, cursor: Any) -> Books | None:
        """What is there; None when the channel was never loaded by files."""
        try:
            row = cursor.execute(
                f"SELECT SEQUENCER, LOAD_PATH, COMMITTED, ERRORS, FILES FROM {self._table} WHERE {self._where}"
            ).fetchone()
        except ProgrammingError as error:
            if error.errno == DOES_NOT_EXIST:
                return None
            raise
        if row is None:
            return None
        found = wire.load(Files, row[4])
        return Books(int(row[0]), LoadPath(row[1]), row[2], int(row[3]), found.files, found.pipes)

    def claim(self, cursor: Any, path: LoadPath, committed: str, known: Books | None = None) -> Books:
        """Own the channel: older owners are fenced, and what they had written until then is read after it. EtlError(CHANNEL) when another was faster.

        `known` was read before; without it the channel may be new, and begins at `committed`. One with files under way keeps its path for them.
        """
        before = known or self._entered(cursor, path, committed)
        cursor.execute(
            f"UPDATE {self._table} SET SEQUENCER = {before.sequencer + 1} WHERE {self._where} AND SEQUENCER = {before.sequencer}"
        )
        if cursor.rowcount != 1:
            raise self._fenced()
        found = self.read(cursor)
        if found is None or found.sequencer != before.sequencer + 1:
            raise self._fenced()
        ours = replace(found, path=found.path if found.files else path)
        if ours != found:
            self.save(cursor, ours)
        return ours

    def save(self, cursor: Any, books: Books) -> None:
        """Write the books. EtlError(CHANNEL) when another has claimed the channel since."""
        cursor.execute(
            f"UPDATE {self._table} SET LOAD_PATH = {literal(books.path)},"
            f" COMMITTED = {literal(books.committed)}, ERRORS = {books.errors}, FILES = {literal(wire.dump(Files(books.files, books.pipes)))},"
            f" UPDATED_AT = CURRENT_TIMESTAMP() WHERE {self._where} AND SEQUENCER = {books.sequencer}"
        )
        if cursor.rowcount != 1:
            raise self._fenced()

    def check(self, cursor: Any, books: Books) -> None:
        """EtlError(CHANNEL) when another has claimed the channel since."""
        found = self.read(cursor)
        if found is None or found.sequencer != books.sequencer:
            raise self._fenced()

    def over(self, cursor: Any) -> dict[str, tuple[str, ...]]:
        """Channels of the table that nobody will open again, with their pipes."""
        landing = objects_of(self.opening.destination, self.opening.table).landing
        cursor.execute(f"SELECT CHANNEL, FILES FROM {self._table} WHERE LANDING_TABLE = {literal(landing)}")
        found = [(name, text) for name, text in cursor.fetchall() if names.is_over(name, self.opening.channel)]
        return {name: wire.load(Files, text).pipes for name, text in found}

    def forget(self, cursor: Any) -> None:
        """The channel is not needed any more."""
        cursor.execute(f"DELETE FROM {self._table} WHERE {self._where}")

    def _entered(self, cursor: Any, path: LoadPath, committed: str) -> Books:
        objects = objects_of(self.opening.destination, self.opening.table)
        values = (
            f"{literal(objects.landing)}, {literal(self.opening.channel)}, 0, {literal(path)}, {literal(committed)}, 0"
        )
        cursor.execute(
            f"MERGE INTO {self._table} f USING (SELECT {literal(objects.landing)} AS L, {literal(self.opening.channel)} AS C) s"
            " ON f.LANDING_TABLE = s.L AND f.CHANNEL = s.C WHEN NOT MATCHED THEN INSERT"
            f" (LANDING_TABLE, CHANNEL, SEQUENCER, LOAD_PATH, COMMITTED, ERRORS, FILES) VALUES ({values}, {literal(wire.dump(Files(())))})"
        )
        found = self.read(cursor)
        assert found is not None, "made just now"
        return found

    def _fenced(self) -> EtlError:
        place = f"pipeline {self.opening.pipeline}, table {self.opening.table.name}"
        return EtlError(Kind.CHANNEL, place, "the channel was opened by another", "it is opened again", transient=True)

    @property
    def _table(self) -> str:
        return objects_of(self.opening.destination, self.opening.table).files_sql

    @property
    def _where(self) -> str:
        landing = objects_of(self.opening.destination, self.opening.table).landing
        return f"LANDING_TABLE = {literal(landing)} AND CHANNEL = {literal(self.opening.channel)}"
