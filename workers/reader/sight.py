"""The source's catalog as it is now, as far as the publications publish it. It may be newer than the stream."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg

from etl_supervisor.model.pipeline import Source
from etl_supervisor.model.table import Table
from workers.reader.catalog import CatalogTable, read_catalog, read_catalogs
from workers.reader.membership import read_memberships
from workers.reader.published import published_tables
from workers.reader.relations import table_of
from workers.reader.source import publications_of
from workers.reader.storage import Storage, read_storage

TABLES_PER_QUERY = 200  # of the catalog: some ten thousand rows at most, a tenth of a second


class Sight:
    """One reader's look at it. `beat` is called while many tables are looked at."""

    def __init__(self, connection: psycopg.Connection[Any], source: Source, beat: Callable[[], None]) -> None:
        self.connection = connection
        self.publications = publications_of(source)
        self.place = f"source {source.name}"
        self._beat = beat
        self._ahead: dict[int, Storage] = {}

    def table(self, oid: int) -> CatalogTable | None:
        """A table, whether it is published or not."""
        return read_catalog(self.connection, oid)

    def storage(self, oids: list[int]) -> dict[int, Storage]:
        """Where the rows of these tables are, and how they are published; those that are gone are missing."""
        found = read_storage(self.connection, oids)
        ways = read_memberships(self.connection, self.publications, oids)
        return {oid: storage.published_by(ways.get(oid, ())) for oid, storage in found.items()}

    def look_ahead(self, oids: list[int]) -> None:
        """`storage_text` of these tables is asked for now: it is found in one go. None of them: that is over."""
        self._ahead = self.storage(oids) if oids else {}

    def storage_text(self, oid: int) -> str:
        """The same of one table, as it is kept in its state; "" when it is gone."""
        found = self._ahead.pop(oid, None) or self.storage([oid]).get(oid)
        return found.text if found is not None else ""

    def published(self, oid: int | None = None) -> list[tuple[CatalogTable, Table]]:
        """What is published (of one table, if `oid` is given): in the catalog, and as the stream will have it."""
        tables = []
        every = published_tables(self.connection, self.publications, self.place, oid)
        for at in range(0, len(every), TABLES_PER_QUERY):
            self._beat()
            some = every[at : at + TABLES_PER_QUERY]
            found = read_catalogs(self.connection, [listed.oid for listed in some])
            tables += [(found[one.oid], table_of(found[one.oid], one.columns)) for one in some if one.oid in found]
        return tables

    def shape(self, oid: int) -> Table | None:
        """A table as the stream will have it; None when it is not published."""
        return next((table for _, table in self.published(oid)), None)

    def shapes(self, oids: set[int]) -> list[Table]:
        """The same of several tables; those that are not published are missing."""
        if not oids:
            return []
        return [table for _, table in self.published(min(oids) if len(oids) == 1 else None) if table.oid in oids]
