"""How a table comes into a pipeline: whether the pipeline takes it, from which state it goes on, how its columns are masked.

not taken                        its state is forgotten: when it is taken again, it is copied again
not known, or of older history   from the beginning, in a generation of its own: it may have been known before, and its target not be empty
known, other table of its name   the same
known, masked in another way     the same: the rows that were landed look otherwise
known                            where the reader before us left it
"""

from __future__ import annotations

from dataclasses import replace

import structlog

from etl_supervisor.errors import EtlError
from etl_supervisor.ipc import wire
from etl_supervisor.model.pipeline import Pipeline
from etl_supervisor.model.progress import Progress
from etl_supervisor.model.table import Table
from etl_supervisor.model.table_state import Phase, TableState
from etl_supervisor.monitor import logs
from workers.reader.follower import Follower, beginning_anew, copied
from workers.reader.masks import resolve, same
from workers.reader.stored import StoredTables

PROVISIONAL = -1  # the version of a shape that the stream has not confirmed yet

log = structlog.get_logger()


class Admission:
    """Of one reader. `masking_secret` is what columns are hashed with."""

    def __init__(self, stored: StoredTables, progress: Progress, masking_secret: str) -> None:
        self._stored, self._progress, self._masking_secret = stored, progress, masking_secret

    def takes(self, pipeline: Pipeline, table: Table) -> bool:
        """Whether the pipeline has the table."""
        taken = pipeline.selection.takes(table.name)
        if not taken and (known := self._stored.find(pipeline, table)) is not None:
            self._stored.drop(pipeline, known.table)
        return taken

    def state(self, pipeline: Pipeline, table: Table) -> tuple[Table, TableState]:
        """The shape and state that it goes on from."""
        stored = self._stored.find(pipeline, table)
        if stored is None or stored.generation < self._progress.generation:
            return table, beginning_anew(pipeline, table, self._progress.generation - 1)
        if stored.oid != table.oid:
            return table, beginning_anew(pipeline, table, stored.generation)
        if self._looks_otherwise(pipeline, table, stored):
            log.warning("table_copied_again", pipeline=pipeline.name, table=str(table.name), reason="other masks")
            return table, replace(beginning_anew(pipeline, table, stored.generation), masks=stored.masks)
        if stored.phase is Phase.DATASYNC:
            done = self._stored.copy(pipeline, stored.table)
            # Its worker died with our predecessor; or it had ended, and nobody heard.
            stored = copied(stored, done) or stored.to(Phase.INIT)
        if stored.phase is Phase.FINISHEDCOPY:
            stored = stored.to(Phase.CATCHUP)
        return replace(wire.load(Table, stored.shape), version=PROVISIONAL) if stored.shape else table, stored

    def mask(self, follower: Follower) -> bool:
        """Find its masks; False for a table that can't be masked as it should: it must be held."""
        state = follower.state
        try:
            follower.masks = resolve(follower.pipeline, follower.table, state.masks, self._masking_secret)
        except EtlError as error:
            logs.error_line(log, "table_held", error)
            follower.state = state.to(Phase.ERRORED, resume=follower.phase, trouble=error.line)
            return False
        follower.state = replace(state, masks=follower.masks.text)
        return True

    def _looks_otherwise(self, pipeline: Pipeline, table: Table, stored: TableState) -> bool:
        try:
            return not same(resolve(pipeline, table, stored.masks, self._masking_secret), stored.masks)
        except EtlError:
            return False  # it is held
