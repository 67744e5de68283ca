"""How a table's change log becomes its current table: per pipeline, with exceptions per table."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from etl_supervisor.model.table import TableName


class ApplyMode(StrEnum):
    """Who keeps the current table, and how."""

    MERGE = "merge"  # the actor, by one fenced block at a time
    VIEW = "view"  # as merge, but seldom: readers use <TABLE>_LIVE
    TASK = "task"  # a Snowflake TASK, by the same block
    DYNAMIC_TABLE = "dynamic_table"  # Snowflake, from the change log alone
    APPEND = "append"  # nobody: there is the change log only

    @property
    def has_target(self) -> bool:
        """True when blocks move a target table."""
        return self in (ApplyMode.MERGE, ApplyMode.VIEW, ApplyMode.TASK)


class Deletes(StrEnum):
    """What a delete leaves in the target."""

    HARD = "hard"  # nothing
    SOFT = "soft"  # the row as it was, marked


@dataclass(frozen=True, slots=True)
class ApplyPolicy:
    """How one table is applied. Between two applies lie `interval_seconds_min` to `interval_seconds_max`.

    `retention_hours` is how long applied rows stay in the change log (None: for ever); `schedule_minutes` is the task's schedule and the
    dynamic table's target lag. `cluster_by` names columns (as in the source) by which Snowflake keeps the target sorted; none: as it comes.
    `together`: the tables of the pipeline become visible in one transaction, at the end of one of the source's.
    """

    mode: ApplyMode = ApplyMode.MERGE
    delete: Deletes = Deletes.HARD
    history: bool = False
    interval_seconds_min: float = 60.0
    interval_seconds_max: float = 3600.0
    retention_hours: float | None = None
    schedule_minutes: int = 60
    cluster_by: tuple[str, ...] = ()
    together: bool = False

    @property
    def soft(self) -> bool:
        """True when deleted rows stay."""
        return self.delete is Deletes.SOFT

    @property
    def problem(self) -> str:
        """Why this can't be; empty when it can."""
        if self.together and self.mode is not ApplyMode.MERGE:
            return f"with apply {self.mode} tables can't become visible together (consistency transaction)"
        if self.mode.has_target or not (self.soft or self.history):
            return ""
        return f"apply {self.mode} keeps no target of its own, so neither deleted rows nor a history"

    @property
    def remedy(self) -> str:
        """What helps against `problem`."""
        return "use apply merge, or consistency table" if self.together else "use apply merge, view or task for it"


@dataclass(frozen=True, slots=True)
class TablePolicy:
    """A table that is applied in a way of its own."""

    table: TableName
    policy: ApplyPolicy
