"""The tables that a reader follows: by handle, by name, and those of them that are not opened yet."""

from __future__ import annotations

from etl_supervisor.model.table import Table, TableName
from workers.reader.follower import Follower


class Followers(dict[int, Follower]):
    """By handle; changed by these methods alone."""

    def __init__(self) -> None:
        super().__init__()
        self._names: dict[tuple[int, TableName], list[Follower]] = {}
        self._begun: list[Follower] = []

    def add(self, follower: Follower) -> None:
        """One that begins."""
        self[follower.handle] = follower
        self._names.setdefault((follower.pipeline.id, follower.table.name), []).append(follower)
        self._begun.append(follower)

    def remove(self, follower: Follower) -> None:
        """One that has ended."""
        del self[follower.handle]
        self.named(follower.pipeline.id, follower.table.name).remove(follower)

    def reshape(self, follower: Follower, table: Table) -> None:
        """Its table has another shape, or another name."""
        self.named(follower.pipeline.id, follower.table.name).remove(follower)
        follower.table = table
        self._names.setdefault((follower.pipeline.id, table.name), []).append(follower)

    def named(self, pipeline_id: int, name: TableName) -> list[Follower]:
        """Those of a pipeline whose table has this name: one, or none; two while a table has the name of one that is going."""
        return self._names.get((pipeline_id, name), [])

    def take_begun(self) -> list[Follower]:
        """Those that were added since this was asked last."""
        begun, self._begun = self._begun, []
        return begun
