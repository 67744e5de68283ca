"""The states of a source's tables: as the state store had them when the reader began, and as the reader writes them since.

The store is read once, and again only where somebody else writes (a copy worker). What was written is remembered even when the store loses it.

A write waits for the store's disk, so what many tables have to write at once goes together (`gathered`). Who acts on a state that was saved meanwhile
writes first (`flush`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator

from etl_supervisor.model.copy_state import CopyState
from etl_supervisor.model.pipeline import Pipeline
from etl_supervisor.model.table import Table, TableName
from etl_supervisor.model.table_state import TableState
from etl_supervisor.state.store import StateStore, Writer


class StoredTables:
    """The states of one source, by pipeline."""

    def __init__(
        self, store: StateStore, source: str, pipelines: Iterable[Pipeline], writer: Writer | None = None
    ) -> None:
        self._writer = writer
        self._store, self._source, self._pipelines = store, source, list(pipelines)
        self._states = {pipeline.name: store.tables(source, pipeline.name) for pipeline in self._pipelines}
        self._names = {
            (pipeline, state.oid): state.table for pipeline, states in self._states.items() for state in states.values()
        }
        self._unsaved: dict[tuple[str, TableName], TableState] = {}
        self._gathering = False

    def find(self, pipeline: Pipeline, table: Table) -> TableState | None:
        """What is known of a table: of itself, which may have had another name, else of one that had its name."""
        states = self._states[pipeline.name]
        same = states.get(self._names.get((pipeline.name, table.oid), table.name))
        return same if same is not None and same.oid == table.oid else states.get(table.name)

    def others(self, oids: Collection[int]) -> list[tuple[Pipeline, TableState]]:
        """The tables that are not among these."""
        every = [(pipeline, state) for pipeline in self._pipelines for state in self._states[pipeline.name].values()]
        return [(pipeline, state) for pipeline, state in every if state.oid not in oids]

    @property
    def newest_generation(self) -> int:
        """Of all tables; 0 without any."""
        return max((state.generation for states in self._states.values() for state in states.values()), default=0)

    def copy(self, pipeline: Pipeline, name: TableName) -> CopyState | None:
        """How far a table's copy is, by what the store has now."""
        return self._store.copy(self._source, pipeline.name, name)

    @contextlib.contextmanager
    def gathered(self) -> Iterator[None]:
        """What is saved inside is written at the end, in one go; also when there was an error inside."""
        if self._gathering:
            yield
            return
        self._gathering = True
        try:
            yield
        finally:
            self._gathering = False
            self.flush()

    def save(self, pipeline: Pipeline, state: TableState) -> None:
        """Write a table's state."""
        self._states[pipeline.name][state.table] = state
        self._names[pipeline.name, state.oid] = state.table
        self._unsaved[pipeline.name, state.table] = state
        if not self._gathering:
            self.flush()

    def flush(self) -> None:
        """Write what was saved and is not written."""
        for pipeline in self._pipelines:
            states = [state for (name, _), state in self._unsaved.items() if name == pipeline.name]
            if states:
                self._store.save_tables(self._source, pipeline.name, states, self._writer)
        self._unsaved.clear()

    def drop(self, pipeline: Pipeline, name: TableName) -> None:
        """Forget a table."""
        self.flush()
        self._states[pipeline.name].pop(name, None)
        self._store.drop_table(self._source, pipeline.name, name)
