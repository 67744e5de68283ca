"""What a child is, as data."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from etl_supervisor.ipc.messages import CopyWanted
from etl_supervisor.model.pipeline import SourceSpec


class ChildKind(StrEnum):
    """The kinds of children."""

    MONITOR = "monitor"
    ACTOR = "actor"
    READER = "reader"
    COPY = "copy"
    API = "api"


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One child. `entry` is `module:function`, imported after the fork; the function takes a ChildContext and returns an exit code.

    `permanent` children are restarted when they end; a copy worker is not: its reader decides. `until` is when the lease of its source runs out, if
    nothing is heard meanwhile (`model.tenure`); infinite without leases.
    """

    name: str
    kind: ChildKind
    entry: str
    permanent: bool = True
    actor: int = -1
    source: SourceSpec | None = None
    copies: tuple[CopyWanted, ...] = ()
    until: float = float("inf")


ENTRIES: dict[ChildKind, str] = {
    ChildKind.MONITOR: "etl_supervisor.monitor.process:main",
    ChildKind.ACTOR: "workers.snowflake.entry:main",
    ChildKind.READER: "workers.reader.entry:main",
    ChildKind.COPY: "workers.reader.copy:main",
    ChildKind.API: "etl_supervisor.api.process:main",
}

HEAVY = (
    ChildKind.READER,
    ChildKind.COPY,
    ChildKind.ACTOR,
)  # they come from the nursery: there may be many, and they must be back soon


def reader_name(source: str) -> str:
    """The name of a source's reader."""
    return f"reader-{source}"
