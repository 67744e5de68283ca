"""Desired configuration against what runs, copies that are wanted against those that run; pure comparisons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from etl_supervisor.ipc.messages import CopyEnded, CopyWanted
from etl_supervisor.model.pipeline import SourceSpec

SMALL_TABLE_BYTES = 8 << 20  # read in a fraction of a second: less than a worker and a slot of its own take
TABLES_PER_WORKER_MAX = (
    200  # each is locked until the last one is read, and PostgreSQL's lock table has some thousand places
)


@dataclass(frozen=True, slots=True)
class Changes:
    """What has to happen to the readers, by the names of their streams."""

    start: tuple[SourceSpec, ...]
    stop: tuple[str, ...]
    restart: tuple[SourceSpec, ...]


def changes(desired: Iterable[SourceSpec], running: Mapping[str, SourceSpec]) -> Changes:
    """Start what is new, stop (drain) what is gone, restart what has changed; everything else is left alone."""
    wanted = {spec.source.stream: spec for spec in desired}
    return Changes(
        start=tuple(spec for name, spec in wanted.items() if name not in running),
        stop=tuple(name for name in running if name not in wanted),
        restart=tuple(spec for name, spec in wanted.items() if name in running and running[name] != spec),
    )


@dataclass(frozen=True, slots=True)
class Copies:
    """Which copies start now, each group in a worker of its own, and which go on waiting."""

    start: tuple[tuple[CopyWanted, ...], ...]
    wait: tuple[CopyWanted, ...]


def copies(
    wanted: Iterable[CopyWanted], readers: Mapping[str, SourceSpec], running: Iterable[tuple[CopyWanted, ...]]
) -> Copies:
    """At most `max_table_sync_workers` workers of a pipeline at a time, and one of a table; small tables that wait go together.

    `readers` are those that run, by the names of their sources; `running` is what each worker has still to do. A copy of a source without a reader,
    or of a pipeline that its reader does not have, is forgotten: the next reader asks for it again.
    """
    workers = [tables for tables in running if tables]
    busy = Counter(tables[0].pipeline_id for tables in workers)
    taken = {table_of(copy) for tables in workers for copy in tables}
    start: list[list[CopyWanted]] = []
    sharing: dict[int, list[CopyWanted]] = {}  # pipeline -> the group that has room for small ones
    wait = []
    for copy in wanted:
        limit = _workers_max(copy, readers)
        if limit is None:
            continue
        group = sharing.get(copy.pipeline_id, []) if copy.bytes <= SMALL_TABLE_BYTES else []
        room = 0 < len(group) < TABLES_PER_WORKER_MAX
        if table_of(copy) in taken or not (room or busy[copy.pipeline_id] < limit):
            wait.append(copy)
            continue
        taken.add(table_of(copy))
        if room:
            group.append(copy)
            continue
        busy[copy.pipeline_id] += 1
        start.append([copy])
        if copy.bytes <= SMALL_TABLE_BYTES:
            sharing[copy.pipeline_id] = start[-1]
    return Copies(tuple(tuple(group) for group in start), tuple(wait))


def table_of(message: CopyWanted | CopyEnded) -> tuple[int, str, str]:
    """Which table of which pipeline a message is about."""
    return message.pipeline_id, message.schema, message.table


def _workers_max(copy: CopyWanted, readers: Mapping[str, SourceSpec]) -> int | None:
    spec = readers.get(copy.source)
    found = [p.max_table_sync_workers for p in spec.pipelines if p.id == copy.pipeline_id] if spec else []
    return found[0] if found else None
