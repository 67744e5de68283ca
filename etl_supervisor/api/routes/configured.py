"""Sources, destinations, pipelines; starting and pausing.

Status changes take effect at the supervisor's next poll of the configuration, as an UPDATE in psql does.
"""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Response

from etl_supervisor.api import faults, rows
from etl_supervisor.api.access import Operator
from etl_supervisor.api.bodies import DestinationBody, Id, PipelineBody, SourceBody, Text, view_of
from etl_supervisor.api.caller import Caller
from etl_supervisor.api.control import Control, ControlOf
from etl_supervisor.api.routes.resources import Filters, IfMatch, Kind, add, desk_of, etag, seen_version, shown
from etl_supervisor.api.rows import DESTINATION, PIPELINE, SOURCE, Desk
from etl_supervisor.model.pipeline import PipelineStatus
from etl_supervisor.repository import desired

TENANT_DEFAULT = "default"

sources = APIRouter(prefix="/sources", tags=["sources"])
destinations = APIRouter(prefix="/destinations", tags=["destinations"])
pipelines = APIRouter(prefix="/pipelines", tags=["pipelines"])
PipelineView: Any = view_of(PipelineBody, PIPELINE.name, PIPELINE.secrets)


class SourceFilters(Filters):
    """Of the list of sources."""

    name: Text | None = None
    pg_host: Text | None = None
    pg_database: Text | None = None


class DestinationFilters(Filters):
    """Of the list of destinations."""

    name: Text | None = None
    destination_type: Text | None = None
    snowflake_account: Text | None = None


class PipelineFilters(Filters):
    """Of the list of pipelines."""

    name: Text | None = None
    status: Literal["START", "PAUSE"] | None = None
    source_id: Id | None = None
    destination_id: Id | None = None


def _owned(_: Control, desk: Desk, values: dict[str, Any]) -> dict[str, Any]:
    """A source or destination belongs to the tenant of the key that makes it."""
    own, wanted = desk.caller.tenant, values.get("tenant")
    if own is not None and wanted not in (None, own):
        raise faults.Fault(403, "PermissionDeniedError", f"The key belongs to tenant {own}", tenant=own)
    return values | {"tenant": wanted or own or TENANT_DEFAULT}


def _joined(control: Control, desk: Desk, values: dict[str, Any]) -> dict[str, Any]:
    """A pipeline joins a source and a destination of one tenant. What an older pipeline of this name left in the state store is
    forgotten: its tables are no copies of the new one's."""
    ends = []
    for entity, field in ((SOURCE, "source_id"), (DESTINATION, "destination_id")):
        try:
            ends.append(rows.one(desk, entity, values[field]))
        except faults.Fault as fault:
            raise faults.invalid(field, fault.message) from None
    source, destination = ends
    if source["tenant"] != destination["tenant"]:
        raise faults.invalid("destination_id", "the destination belongs to another tenant than the source")
    with control.store() as store:
        for table in store.tables(source["name"], values["name"]):
            store.drop_table(source["name"], values["name"], table)
    return values | {"tenant": source["tenant"]}


def _goes_together(desk: Desk, row: dict[str, Any]) -> None:
    """EtlError(CONFIG) for settings that the supervisor would leave the pipeline out for."""
    full = row | {"destination": rows.one(desk, DESTINATION, row["destination_id"])}
    desired.pipeline_of(full, can_hash=True)  # whether there is a secret to hash with is the supervisor's to say


add(sources, Kind(SOURCE, SourceBody, SourceFilters, _owned))
add(destinations, Kind(DESTINATION, DestinationBody, DestinationFilters, _owned))
add(pipelines, Kind(PIPELINE, PipelineBody, PipelineFilters, _joined, _goes_together))


@pipelines.post("/{key}/start", response_model=PipelineView, summary="Start a pipeline")
def start_pipeline(key: Id, control: ControlOf, caller: Operator, response: Response, if_match: IfMatch = None) -> Any:
    """It runs from the next poll of the configuration on. Starting a started one changes nothing."""
    return _become(control, caller, (key, if_match), PipelineStatus.START, response)


@pipelines.post("/{key}/pause", response_model=PipelineView, summary="Pause a pipeline")
def pause_pipeline(key: Id, control: ControlOf, caller: Operator, response: Response, if_match: IfMatch = None) -> Any:
    """It drains at the next poll of the configuration. PostgreSQL keeps the WAL for it."""
    return _become(control, caller, (key, if_match), PipelineStatus.PAUSE, response)


def _become(
    control: Control, caller: Caller, which: tuple[int, str | None], status: PipelineStatus, response: Response
) -> Any:
    key, if_match = which
    action = {PipelineStatus.START: "start", PipelineStatus.PAUSE: "pause"}[status]
    with desk_of(control, caller) as desk:
        row = rows.update(desk, PIPELINE, key, {"status": str(status)}, seen_version(if_match, key), action)
    response.headers["ETag"] = etag(row)
    return shown(PIPELINE, row)
