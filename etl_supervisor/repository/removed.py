"""Pipelines that were deleted and are not cleaned up yet (app.removed, filled by a trigger).

younger than the grace       as if it were paused: parked while others of its source run, so that a row inserted again with its id goes on
older                        cleaned up: slots are dropped, state is forgotten, then the row is deleted
its name is in use again     the same at once; the new pipeline waits for that (`desired`), for state is kept by name
inserted again with its id   nothing was deleted: the row is deleted

Nothing is cleaned up while a reader may have it: the monitor waits until one that was told to end has ended or was killed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row

from etl_supervisor.model.parking import apart
from etl_supervisor.model.pipeline import PipelineName, Source, SourceSpec
from etl_supervisor.repository.connection import connect, trouble
from etl_supervisor.repository.desired import source_of

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings

_SELECT = """
SELECT r.*, EXISTS (SELECT FROM app.pipelines p WHERE (p.source_id)::text = r.source->>'id') AS others
FROM app.removed r
"""
_DUE = """
WHERE removed_at <= now() - make_interval(secs => %s)
   OR EXISTS (SELECT FROM app.pipelines p WHERE p.name = r.pipeline AND p.id <> r.pipeline_id)
ORDER BY r.id
"""


@dataclass(frozen=True, slots=True)
class Removed:
    """A pipeline to clean up after. `last`: no other pipeline has its source, whose slot goes too."""

    id: int
    pipeline: PipelineName
    source: Source
    last: bool

    @property
    def parked(self) -> Source:
        """The stream that it may have had for itself."""
        return apart(SourceSpec(self.source, ()), self.pipeline).source


def due(settings: Settings) -> list[Removed]:
    """What is to be cleaned up now."""
    try:
        with connect(settings.config_dsn(), row_factory=dict_row) as connection:
            connection.execute(
                "DELETE FROM app.removed r USING app.pipelines p WHERE p.id = r.pipeline_id AND p.name = r.pipeline"
            )
            rows = connection.execute(_SELECT + _DUE, [settings.delete_grace_seconds]).fetchall()
    except psycopg.Error as error:
        raise trouble(error) from None
    return [_removed(row) for row in rows]


def waiting(settings: Settings) -> list[Removed]:
    """All that was deleted and is not cleaned up."""
    try:
        with connect(settings.config_dsn(), row_factory=dict_row) as connection:
            return [_removed(row) for row in connection.execute(_SELECT)]
    except psycopg.Error as error:
        raise trouble(error) from None


def done(settings: Settings, removed: Removed) -> None:
    """It is cleaned up."""
    try:
        with connect(settings.config_dsn()) as connection:
            connection.execute("DELETE FROM app.removed WHERE id = %s", [removed.id])
    except psycopg.Error as error:
        raise trouble(error) from None


def _removed(row: dict[str, Any]) -> Removed:
    return Removed(
        row["id"], PipelineName(row["pipeline_id"], row["pipeline"]), source_of(row["source"]), not row["others"]
    )
