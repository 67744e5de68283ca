"""First copies of a pipeline's tables: how far they are, how fast, when they end; and how the last ones were.

The facts are those of `etl-supervisor status --json`: what copy workers write into the state store with each range that is durable.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from etl_supervisor.api import rows
from etl_supervisor.api.access import Viewer
from etl_supervisor.api.bodies import Id, Page
from etl_supervisor.api.control import ControlOf
from etl_supervisor.api.cursors import NameCursor, after_name, name_cursor, page_of
from etl_supervisor.api.routes.resources import LIMIT_DEFAULT, Limit, desk_of
from etl_supervisor.model.table_state import Phase
from etl_supervisor.monitor.backfills import Stage, backfill, facts

router = APIRouter(prefix="/pipelines", tags=["pipelines at work"])


class Copy(BaseModel):
    """How far a first copy is. Estimates that nobody knows are null; times are Unix seconds."""

    rows: int = Field(description="Rows that are durable, of finished parts")
    rows_total: int | None = Field(description="PostgreSQL's estimate")
    rows_before: int = Field(description="How many of them an earlier worker had done")
    bytes: int = Field(description="Pages of the table that are done, in bytes")
    bytes_total: int | None
    pages: int
    pages_total: int | None
    done: float = Field(description="0 to 1")
    rows_per_second: float = Field(description="Of the last worker")
    seconds_left: float | None = Field(description="At that pace")
    began_at: float | None = Field(description="When the last worker began")
    finished_at: float | None = Field(description="When the last part was durable; null until it is complete")
    reported_at: float
    trouble: str


class Backfill(BaseModel):
    """A table's copy, the present one or the last. `copy` is null when no worker has begun it, or nothing is kept of it."""

    schema_: str = Field(alias="schema")
    table: str
    state: Phase
    stage: Stage = Field(description="waiting, copying, stopped or complete")
    rows_copied: int = Field(description="Of the last copy that was complete")
    copy_: Copy | None = Field(alias="copy")
    trouble: str


class CopyFilters(BaseModel):
    """Which copies; a parameter that is not known is refused."""

    model_config = ConfigDict(extra="forbid")

    stage: Stage | None = None
    limit: Limit = LIMIT_DEFAULT
    cursor: NameCursor = None


@router.get("/{key}/backfills", summary="List first copies", operation_id="list_backfills")
def list_backfills(
    key: Id, control: ControlOf, caller: Viewer, filters: Annotated[CopyFilters, Query()]
) -> Page[Backfill]:
    """By the tables' names."""
    after = after_name(filters.cursor)
    with desk_of(control, caller) as desk:
        row = rows.one(desk, rows.PIPELINE, key)
        source = rows.one(desk, rows.SOURCE, row["source_id"])
    with control.store() as store:
        states = store.tables(source["name"], row["name"])
        copies = store.copies(source["name"], row["name"])
    found = []
    for name, state in sorted(states.items()):
        known = backfill(state, copies.get(name))
        if [name.schema, name.name] <= after or filters.stage not in (None, known.stage):
            continue
        found.append(
            Backfill(
                schema=name.schema,
                table=name.name,
                state=state.phase,
                stage=known.stage,
                rows_copied=state.rows_copied,
                copy=None if known.copy is None else Copy(**facts(known.copy)),
                trouble=state.trouble,
            )
        )
        if len(found) > filters.limit:
            break
    return Page[Backfill](**page_of(found, filters.limit, lambda last: name_cursor(last.schema_, last.table)))
