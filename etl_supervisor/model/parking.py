"""Pipelines that stream apart from the others of their source, from a copy of its slot.

    in the shared stream  ──paused while others run, or its destination does not answer──►  parked
  parked                slot <slot>_p<id>, position kept under <source>@<pipeline>
    parked, paused        nobody reads; the slot keeps its WAL
    parked, started       a reader of its own, reader-<source>@<pipeline>, decodes for it alone
    near the shared one   both readers end; the shared one comes to the parked position if need be, and goes on with the pipeline
    the source got a new generation     the parked position counts no more: the slot is dropped, and the tables begin anew with the shared stream
    its own slot was lost               as any slot: by policy it is replaced, everything is copied again apart, then it comes back

A parked slot on the server *is* what makes a pipeline parked: a position that the state store has lost is taken from it. Being behind costs
nothing but decoding: what was landed is filtered by the channels' tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from etl_supervisor.model.pipeline import Pipeline, PipelineName, SourceSpec
from etl_supervisor.model.progress import Progress

JOIN_BYTES_MAX = 64 << 20  # of WAL: decoded in a few seconds, in which the others wait


def apart(spec: SourceSpec, pipeline: Pipeline | PipelineName) -> SourceSpec:
    """What the pipeline's own reader has to do; of a paused one it says only where its position is."""
    source = replace(spec.source, parked=PipelineName(pipeline.id, pipeline.name))
    return SourceSpec(source, (pipeline,) if isinstance(pipeline, Pipeline) else ())


def overtaken(shared: Progress | None, parked: Progress) -> bool:
    """Whether the source has begun anew since: the parked position, though its slot may be there, is of a history that is over."""
    return shared is not None and parked.generation < shared.generation


def may_join(shared: Progress | None, parked: Progress) -> bool:
    """Whether a parked pipeline is so near that the shared stream takes it back, or has nowhere else to go on from.

    One that broke must first have moved; one that was promoted must have proved what it has. A later generation is its own business: its tables
    have begun anew in the same history.
    """
    if shared is None or overtaken(shared, parked):
        return shared is not None
    if parked.confirmed <= parked.stuck_at or parked.forked_at:
        return False
    same = (shared.system_identifier, shared.timeline) == (parked.system_identifier, parked.timeline)
    return same and shared.confirmed - parked.confirmed <= JOIN_BYTES_MAX


def arranged(spec: SourceSpec, shared: Progress | None, parked: Mapping[str, Progress]) -> list[SourceSpec]:
    """The readers that a source needs: the shared one, and one for each started pipeline that is parked (`parked`, by name)."""
    alone = [p for p in spec.pipelines if p.name in parked and not may_join(shared, parked[p.name])]
    together = tuple(pipeline for pipeline in spec.pipelines if pipeline not in alone)
    specs = [replace(spec, pipelines=together)] if together else []
    return specs + [apart(spec, pipeline) for pipeline in alone]
