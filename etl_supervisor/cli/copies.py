"""First copies for people and programs: how much is done, how fast, how long it will take.

What is done is counted in ranges that are durable; the whole is PostgreSQL's estimate. So a small table has nothing until it has all.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn

from etl_supervisor.model.copy_state import PAGE_BYTES, CopyState
from etl_supervisor.model.table_state import Phase, TableState

COPYING = frozenset({Phase.INIT, Phase.DATASYNC})


def under_way(state: TableState, copy: CopyState | None) -> CopyState | None:
    """The copy that a table waits for or that runs; None once it is complete (or was of an older generation)."""
    if state.phase not in COPYING or copy is None or copy.generation != state.generation or copy.copy_lsn:
        return None
    return copy


def line(copy: CopyState) -> str:
    """A copy in a few words: `1,000 of about 5,000 rows, 20 %, 350 rows/s, 0:00:11 left`."""
    total = f" of about {copy.rows_total:,}" if copy.rows_total else ""
    words = [f"{copy.rows:,}{total} rows", f"{copy.done:.0%}"]
    if copy.rows_per_second:
        words.append(f"{copy.rows_per_second:,.0f} rows/s")
    if copy.seconds_left is not None:
        words.append(f"{timedelta(seconds=round(copy.seconds_left))} left")
    return ", ".join(words)


def facts(copy: CopyState) -> dict[str, Any]:
    """A copy for a program. Estimates that nobody knows are null; `done` is 0 to 1."""
    return {
        "rows": copy.rows,
        "rows_total": copy.rows_total or None,
        "bytes": copy.pages * PAGE_BYTES,
        "bytes_total": copy.pages_total * PAGE_BYTES,
        "done": round(copy.done, 4),
        "rows_per_second": round(copy.rows_per_second, 1),
        "seconds_left": None if copy.seconds_left is None else round(copy.seconds_left, 1),
        "reported_at": copy.reported_at,
        "trouble": copy.trouble,
    }


def bars(copies: list[tuple[str, CopyState]]) -> Progress:
    """A bar for each (name, copy)."""
    shown = Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"))
    for name, copy in copies:
        shown.add_task(name, total=100, completed=round(copy.done * 100), words=line(copy))
    return shown
