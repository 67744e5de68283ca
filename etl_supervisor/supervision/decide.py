"""Desired configuration against what runs; a pure comparison."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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
