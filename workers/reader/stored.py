"""The states of a source's tables: as the state store had them when the reader began, and as the reader writes them since.

The store is read once, and again only where somebody else writes (a copy worker). What was written is remembered even when the store loses it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from etl_supervisor.model.pipeline import Pipeline
from etl_supervisor.model.table import Table, TableName
from etl_supervisor.model.table_state import TableState
from etl_supervisor.state.store import StateStore


class StoredTables:
    """The states of one source, by pipeline."""

    def __init__(self, store: StateStore, source: str, pipelines: Iterable[Pipeline]) -> None:
        self._store, self._source = store, source
        self._states = {pipeline.name: store.tables(source, pipeline.name) for pipeline in pipelines}

    def find(self, pipeline: Pipeline, table: Table) -> TableState | None:
        """What is known of a table: of itself, which may have had another name, else of one that had its name."""
        states = self._states[pipeline.name]
        same = (state for state in states.values() if state.oid == table.oid)
        return next(same, None) or states.get(table.name)

    def others(self, oids: Collection[int]) -> list[TableState]:
        """The tables that are not among these, in any pipeline."""
        found = {state.oid: state for states in self._states.values() for state in states.values()}
        return [state for oid, state in found.items() if oid not in oids and state.shape]

    def read(self, pipeline: Pipeline, name: TableName) -> TableState | None:
        """What the store has now."""
        return self._store.tables(self._source, pipeline.name).get(name)

    def save(self, pipeline: Pipeline, state: TableState) -> None:
        """Write a table's state."""
        self._states[pipeline.name][state.table] = state
        self._store.save_table(self._source, pipeline.name, state)

    def drop(self, pipeline: Pipeline, name: TableName) -> None:
        """Forget a table."""
        self._states[pipeline.name].pop(name, None)
        self._store.drop_table(self._source, pipeline.name, name)
