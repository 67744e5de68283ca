"""Desired configuration against what runs, copies that are wanted against those that run; pure comparisons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from etl_supervisor.ipc.messages import CopyWanted
from etl_supervisor.model.pipeline import SourceSpec


@dataclass(frozen=True, slots=True)
class Changes:
    """What has to happen to the readers, by the names of their sources."""

    start: tuple[SourceSpec, ...]
    stop: tuple[str, ...]
    restart: tuple[SourceSpec, ...]


def changes(desired: Iterable[SourceSpec], running: Mapping[str, SourceSpec]) -> Changes:
    """Start what is new, stop (drain) what is gone, restart what has changed; everything else is left alone."""
    wanted = {spec.source.name: spec for spec in desired}
    return Changes(
        start=tuple(spec for name, spec in wanted.items() if name not in running),
        stop=tuple(name for name in running if name not in wanted),
        restart=tuple(spec for name, spec in wanted.items() if name in running and running[name] != spec),
    )


@dataclass(frozen=True, slots=True)
class Copies:
    """Which copies start now, in the order in which they were asked for, and which go on waiting."""

    start: tuple[CopyWanted, ...]
    wait: tuple[CopyWanted, ...]


def copies(wanted: Iterable[CopyWanted], readers: Mapping[str, SourceSpec], running: Iterable[CopyWanted]) -> Copies:
    """At most `max_table_sync_workers` copies of a pipeline at a time, and one of a table.

    `readers` are those that run, by the names of their sources. A copy of a source without a reader, or of a pipeline that its
    reader does not have, is forgotten: the next reader asks for it again.
    """
    running = tuple(running)
    busy = Counter(copy.pipeline_id for copy in running)
    tables = {_table(copy) for copy in running}
    start, wait = [], []
    for copy in wanted:
        limit = _workers_max(copy, readers)
        if limit is None:
            continue
        if busy[copy.pipeline_id] >= limit or _table(copy) in tables:
            wait.append(copy)
            continue
        busy[copy.pipeline_id] += 1
        tables.add(_table(copy))
        start.append(copy)
    return Copies(tuple(start), tuple(wait))


def _workers_max(copy: CopyWanted, readers: Mapping[str, SourceSpec]) -> int | None:
    spec = readers.get(copy.source)
    found = [p.max_table_sync_workers for p in spec.pipelines if p.id == copy.pipeline_id] if spec else []
    return found[0] if found else None


def _table(copy: CopyWanted) -> tuple[int, str, str]:
    return copy.pipeline_id, copy.schema, copy.table
