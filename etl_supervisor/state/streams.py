"""Which readers the sources need: the state store knows which pipelines are parked."""

from __future__ import annotations

from collections.abc import Iterable

from etl_supervisor.model.parking import apart, arranged
from etl_supervisor.model.pipeline import SourceSpec
from etl_supervisor.state.store import StateStore


def arrange(specs: Iterable[SourceSpec], store: StateStore) -> tuple[SourceSpec, ...]:
    """What should run, stream by stream. EtlError(STATE_STORE) when the store does not answer."""
    return tuple(stream for spec in specs for stream in _streams(spec, store))


def _streams(spec: SourceSpec, store: StateStore) -> list[SourceSpec]:
    found = {pipeline.name: store.progress(apart(spec, pipeline).source.stream) for pipeline in spec.pipelines}
    parked = {name: progress for name, progress in found.items() if progress is not None}
    return arranged(spec, store.progress(spec.source.stream) if parked else None, parked)
