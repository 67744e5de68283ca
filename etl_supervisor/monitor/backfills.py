"""First copies, told to programs: what `etl-supervisor status --json` and the API say, by the same functions (pure).

    waiting    no worker has begun it, or what one wrote was of an older generation
    copying    a worker is at it, or was and another one goes on with what is left
    stopped    it failed and is held or waits to be tried again
    complete   every row of its snapshot is durable

What is done is counted in ranges of pages that are durable; the whole is PostgreSQL's estimate. So a small table has nothing until it has all.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from etl_supervisor.model.copy_state import PAGE_BYTES, CopyState
from etl_supervisor.model.table_state import Phase, TableState

COPYING = frozenset({Phase.INIT, Phase.DATASYNC})


class Stage(StrEnum):
    """How a copy is."""

    WAITING = "waiting"
    COPYING = "copying"
    STOPPED = "stopped"
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class Backfill:
    """A table's copy, the present one or the last. `copy` is None while, or because, nobody knows more of it."""

    stage: Stage
    copy: CopyState | None


def backfill(state: TableState, copy: CopyState | None) -> Backfill:
    """The copy that belongs to a table's state."""
    current = copy if copy is not None and copy.generation == state.generation else None
    phase = state.resume if state.phase is Phase.ERRORED else state.phase
    if phase not in COPYING or (current is not None and current.copy_lsn):
        return Backfill(Stage.COMPLETE, current)
    if state.phase is Phase.ERRORED:
        return Backfill(Stage.STOPPED, current)
    return Backfill(Stage.WAITING if current is None else Stage.COPYING, current)


def under_way(state: TableState, copy: CopyState | None) -> CopyState | None:
    """The copy that a table waits for or that runs; None once it is complete (or was of an older generation)."""
    found = backfill(state, copy)
    return found.copy if found.stage is Stage.COPYING else None


def facts(copy: CopyState) -> dict[str, Any]:
    """How far a copy is. Estimates that nobody knows are null; `done` is 0 to 1; times are Unix seconds.

    `pages` are the parts that it is counted in. `began_at` and the pace are those of its last worker, which found `rows_before` done.
    """
    return {
        "rows": copy.rows,
        "rows_total": copy.rows_total or None,
        "rows_before": copy.began_rows,
        "bytes": copy.pages * PAGE_BYTES,
        "bytes_total": copy.pages_total * PAGE_BYTES or None,
        "pages": copy.pages,
        "pages_total": copy.pages_total or None,
        "done": round(copy.done, 4),
        "rows_per_second": round(copy.rows_per_second, 1),
        "seconds_left": None if copy.seconds_left is None else round(copy.seconds_left, 1),
        "began_at": copy.began or None,
        "finished_at": copy.reported_at if copy.copy_lsn else None,
        "reported_at": copy.reported_at,
        "trouble": copy.trouble,
    }
