"""First copies for people: how much is done, how fast, how long it will take. What is counted: `monitor.backfills`."""

from __future__ import annotations

from datetime import timedelta

from rich.progress import BarColumn, Progress, TextColumn

from etl_supervisor.model.copy_state import CopyState


def line(copy: CopyState) -> str:
    """A copy in a few words: `1,000 of about 5,000 rows, 20 %, 350 rows/s, 0:00:11 left`."""
    total = f" of about {copy.rows_total:,}" if copy.rows_total else ""
    words = [f"{copy.rows:,}{total} rows", f"{copy.done:.0%}"]
    if copy.rows_per_second:
        words.append(f"{copy.rows_per_second:,.0f} rows/s")
    if copy.seconds_left is not None:
        words.append(f"{timedelta(seconds=round(copy.seconds_left))} left")
    return ", ".join(words)


def bars(copies: list[tuple[str, CopyState]]) -> Progress:
    """A bar for each (name, copy)."""
    shown = Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"))
    for name, copy in copies:
        shown.add_task(name, total=100, completed=round(copy.done * 100), words=line(copy))
    return shown
