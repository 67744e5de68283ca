"""What the reader looks at every few seconds, because nothing in the stream tells it: tables that were rewritten or dropped, tables that the
publications have got or lost, and what people ask for.

The list of what is published is long where tables are many: it is looked up aside (`aside`), and taken in the next round. A state store that
does not answer delays a request, nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import psycopg
import structlog

from etl_supervisor.errors import EtlError
from etl_supervisor.model.pipeline import SourceSpec
from etl_supervisor.state.store import StateStore
from workers.reader.aside import LIMITS, Aside
from workers.reader.heartbeat import Access
from workers.reader.published import published_tables
from workers.reader.roster import Roster
from workers.reader.sight import Sight
from workers.reader.source import wal_end
from workers.reader.stream import connect

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Listing:
    """What was published by this end of WAL; `known` are the tables that were followed when it was asked for."""

    known: set[int] = field(default_factory=set)
    oids: set[int] = field(default_factory=set)
    wal_end: int = 0


class Rounds:
    """The rounds of one reader."""

    def __init__(self, spec: SourceSpec, access: Access, sight: Sight, store: StateStore, roster: Roster) -> None:
        self._spec, self._access, self._sight, self._store, self._roster = spec, access, sight, store, roster
        self.store_was_lost = False
        self._known: set[int] = set()
        self._listing: Listing | None = None
        self._lister = Aside("publications", self._connect, self._list)

    def close(self) -> None:
        """End the thread."""
        self._lister.close()

    @property
    def trouble(self) -> str:
        """Why the publications can't be looked at; empty when they can."""
        return f"publications of {self._sight.place}: {self._lister.trouble}" if self._lister.trouble else ""

    def make(self) -> None:
        """Look once."""
        self._look_at_storage()
        self._look_at_publications()
        self.store_was_lost = False
        try:
            self.store_was_lost = self._store.epoch(self._spec.source.stream) == 0
            self._carry_out_requests()
        except EtlError as error:
            if not error.transient:
                raise
            log.warning("requests_not_read", kind=error.kind, reason=error.reason, remedy=error.remedy)

    def _look_at_storage(self) -> None:
        """The end of WAL is asked first: what is gone now may have rows before it."""
        end = wal_end(self._sight.connection)
        self._roster.observe(self._sight.storage(self._roster.oids), end)

    def _look_at_publications(self) -> None:
        listing, self._listing = self._listing, None
        if listing is not None:
            self._roster.published(listing.oids, listing.known, listing.wal_end)
        self._known = set(self._roster.oids)
        self._lister.ask()

    def _connect(self) -> psycopg.Connection[Any]:
        return connect(self._access.source, self._access.password, **LIMITS)

    def _list(self, connection: psycopg.Connection[Any]) -> None:
        """The end of WAL is asked last: a table that is not in the list has its last published row before it."""
        known = self._known
        tables = published_tables(connection, self._sight.publications, self._sight.place)
        self._listing = Listing(known, {table.oid for table in tables}, wal_end(connection))

    def _carry_out_requests(self) -> None:
        """A request ends when the new beginning of its tables is in the state store: a crash before that leaves it to the next reader."""
        source = self._spec.source.name
        for pipeline in self._spec.pipelines:
            for table in self._store.resyncs(source, pipeline.name):
                if not self._roster.resync(pipeline.name, table):
                    log.warning("resync_refused", pipeline=pipeline.name, table=str(table), reason="it is not followed")
                self._store.end_resync(source, pipeline.name, table)
