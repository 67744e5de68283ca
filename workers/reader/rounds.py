"""What the reader looks at every few seconds, because nothing in the stream tells it: tables that were rewritten or dropped, and what people ask for.

A state store that does not answer delays a request, nothing else.
"""

from __future__ import annotations

from typing import Any

import psycopg
import structlog

from etl_supervisor.errors import EtlError
from etl_supervisor.model.pipeline import SourceSpec
from etl_supervisor.state.store import StateStore
from workers.reader.roster import Roster
from workers.reader.source import wal_end
from workers.reader.storage import read_storage

log = structlog.get_logger()


class Rounds:
    """The rounds of one reader."""

    def __init__(self, spec: SourceSpec, catalog: psycopg.Connection[Any], store: StateStore, roster: Roster) -> None:
        self._spec, self._catalog, self._store, self._roster = spec, catalog, store, roster

    def make(self) -> None:
        """Look once."""
        self._look_at_storage()
        try:
            self._carry_out_requests()
        except EtlError as error:
            if not error.transient:
                raise
            log.warning("requests_not_read", kind=error.kind, reason=error.reason, remedy=error.remedy)

    def _look_at_storage(self) -> None:
        """The end of WAL is asked first: what is gone now may have rows before it."""
        end = wal_end(self._catalog)
        self._roster.observe(read_storage(self._catalog, self._roster.oids), end)

    def _carry_out_requests(self) -> None:
        """A request ends when the new beginning of its tables is in the state store: a crash before that leaves it to the next reader."""
        source = self._spec.source.name
        for pipeline in self._spec.pipelines:
            for table in self._store.resyncs(source, pipeline.name):
                if not self._roster.resync(pipeline.name, table):
                    log.warning("resync_refused", pipeline=pipeline.name, table=str(table), reason="it is not followed")
                self._store.end_resync(source, pipeline.name, table)
