"""What a pipeline is doing: positions, lag, tables, errors, dead rows; copying again and trying again.

Everything comes from what readers write into the state store (every second), so it is seen wherever the API runs. Only dead rows are asked of
Snowflake.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from etl_supervisor.api import audit, faults, rows, sessions
from etl_supervisor.api.access import Operator, Viewer
from etl_supervisor.api.bodies import Body, Id, Text
from etl_supervisor.api.caller import Caller
from etl_supervisor.api.control import Control, ControlOf
from etl_supervisor.api.operations import Operation
from etl_supervisor.api.routes.copying import Copy
from etl_supervisor.api.routes.health import reader_trouble
from etl_supervisor.api.routes.inspection import Tested, finding
from etl_supervisor.api.routes.resources import desk_of
from etl_supervisor.errors import EtlError
from etl_supervisor.model import lsn
from etl_supervisor.model.copy_state import CopyState
from etl_supervisor.model.dead_rows import chosen
from etl_supervisor.model.progress import SourceReport
from etl_supervisor.model.table import TableName
from etl_supervisor.model.table_state import Phase, TableState
from etl_supervisor.model.verified import Verified
from etl_supervisor.monitor.backfills import facts, under_way

DEAD_ROWS_MAX = 1000

pipelines = APIRouter(prefix="/pipelines", tags=["pipelines at work"])
destinations = APIRouter(prefix="/destinations", tags=["pipelines at work"])


class TableStatus(BaseModel):
    """A table in a pipeline; `state` as docs/operations.md tells."""

    schema_: str = Field(alias="schema")
    table: str
    state: Phase
    rows_copied: int
    dead: int = Field(description="Rows in the dead letter when the last one came")
    attempts: int
    trouble: str
    copying: Copy | None
    verified_through: str | None = Field(description="The newest LSN at which the target was found equal to the source")
    verified_at: float | None = Field(description="When that was found, Unix seconds")


class PipelineStatus(BaseModel):
    """How a pipeline is. Positions are null until its reader has reported; they are the source's, which its pipelines share."""

    status: str = Field(description="What is wanted: START or PAUSE")
    reader: str = Field(description="What its reader says it does; empty when there is none")
    fresh: bool = Field(description="Whether the reader has reported lately")
    reported_at: float | None
    received_lsn: str | None
    durable_lsn: str | None
    confirmed_lsn: str | None
    lag_bytes: int | None = Field(description="WAL that the source holds back")
    lag_seconds: float | None = Field(description="Age of the oldest change that is not durable")
    rows: int | None = Field(description="Rows decoded since the reader started")
    wal_status: str | None
    safe_wal_bytes: int | None
    tables: dict[str, int] = Field(description="How many tables are in each state")
    errors: list[str] = Field(description="What is wrong now")


class ResyncBody(Body):
    """Which table is copied again; every one when neither is given."""

    schema_: Text = Field("public", alias="schema")
    table: Text | None = None


class Asked(BaseModel):
    """What was asked for; the tables' states tell how it goes."""

    asked: str
    see: str


class ReplayBody(Body):
    """Which dead rows are brought to their place; all when not given."""

    ids: list[Text] | None = Field(None, max_length=DEAD_ROWS_MAX)


class DropBody(Body):
    """Which dead rows are forgotten: some, those of a table, or all of the pipeline."""

    model_config = ConfigDict(json_schema_extra={"example": {"schema": "public", "table": "orders"}})

    ids: list[Text] | None = Field(None, min_length=1, max_length=DEAD_ROWS_MAX)
    schema_: Text = Field("public", alias="schema")
    table: Text | None = None
    all: bool = False

    @model_validator(mode="after")
    def _one_way(self) -> DropBody:
        if (self.ids is not None) + (self.table is not None) + self.all != 1:
            raise ValueError("give ids, or table, or all")
        return self


class DeadRow(BaseModel):
    """A row that Snowflake did not take, without its payload."""

    id: str
    table: str
    commit_lsn: str
    operation: str
    reason: str
    since: str


@pipelines.get("/{key}/status", summary="Read how a pipeline is")
def read_status(key: Id, control: ControlOf, caller: Viewer) -> PipelineStatus:
    """Lag, positions, states, errors."""
    row, source = _pipeline(control, caller, key)
    with control.store() as store:
        report = store.report(source["name"])
        states = list(store.tables(source["name"], row["name"]).values())
    trouble = reader_trouble(report, time.time())
    return PipelineStatus(
        status=row["status"],
        reader=report.state if report else "",
        fresh=not trouble,
        **_positions(report),
        tables=Counter(str(state.phase) for state in states),
        errors=_errors(report, states),
    )


@pipelines.get("/{key}/tables", summary="List the tables of a pipeline")
def list_tables(key: Id, control: ControlOf, caller: Viewer, state: Phase | None = None) -> list[TableStatus]:
    """By name; with how far copies are."""
    row, source = _pipeline(control, caller, key)
    with control.store() as store:
        states = store.tables(source["name"], row["name"])
        copies = store.copies(source["name"], row["name"])
        verified = store.verified(source["name"], row["name"])
    return [
        _table(found, copies.get(name), verified.get(name))
        for name, found in sorted(states.items())
        if state in (None, found.phase)
    ]


@pipelines.post("/{key}/resync", status_code=202, summary="Copy tables again")
def resync(key: Id, body: ResyncBody, control: ControlOf, caller: Operator) -> Asked:
    """While the rest streams; the target is replaced in one step. The request is durable when this answers."""
    row, source = _pipeline(control, caller, key)
    table = TableName(body.schema_, body.table) if body.table else None
    with control.store() as store:
        if table is not None and table not in store.tables(source["name"], row["name"]):
            raise faults.not_found("Table", table)
        store.ask_resync(source["name"], row["name"], table)
    what = str(table or "every table")
    with control.pool.transaction() as connection:
        audit.note(connection, caller, "resync", ("Pipeline", f"{key} {row['name']}: {what}"), tenant=row["tenant"])
    return Asked(asked=what, see=f"/api/v1/pipelines/{key}/tables")


@pipelines.post("/{key}/retry", status_code=202, summary="Try held tables again")
def retry(key: Id, control: ControlOf, caller: Operator) -> Asked:
    """The reader of the source starts again at its confirmed position, at the next poll of the configuration."""
    with desk_of(control, caller) as desk:
        before = rows.one(desk, rows.PIPELINE, key, lock=True)
        rows.update(desk, rows.PIPELINE, key, {"retries": before["retries"] + 1}, None, "retry")
    return Asked(asked="held tables", see=f"/api/v1/pipelines/{key}/tables")


@destinations.post("/{key}/test", status_code=202, summary="Test the connection to a destination")
def test_destination(key: Id, control: ControlOf, caller: Operator) -> Operation:
    """Logs in as the actors do. The result is that of a source's test."""
    with desk_of(control, caller) as desk:
        row = rows.one(desk, rows.DESTINATION, key)

    def work() -> dict[str, Any]:
        return _login(control, row).model_dump()

    return control.crew.begin(caller, row["tenant"], ("test", f"destination {key}"), work)


@pipelines.get("/{key}/dead-letters", summary="List dead rows")
def list_dead_rows(
    key: Id, control: ControlOf, caller: Viewer, limit: Annotated[int, Query(ge=1, le=DEAD_ROWS_MAX)] = 100
) -> list[DeadRow]:
    """What Snowflake did not take, asked of Snowflake now. Payloads and keys stay there."""
    row, destination = _with_destination(control, caller, key)
    with sessions.of_destination(control, destination) as (worker, session, there):
        found = worker.listed(session, there, row["name"])
    return [_dead(item) for item in found[:limit]]


@pipelines.post("/{key}/dead-letters/replay", status_code=202, summary="Bring dead rows to their place")
def replay(key: Id, body: ReplayBody, control: ControlOf, caller: Operator) -> Operation:
    """When the cause is gone. The result tells the outcome of each row."""
    row, destination = _with_destination(control, caller, key)

    def work() -> dict[str, Any]:
        with sessions.of_destination(control, destination) as (worker, session, there):
            found = worker.listed(session, there, row["name"])
            meant = _meant(found, body.ids)
            return {"rows": {name: str(outcome) for name, outcome in worker.replay(session, there, meant)}}

    return control.crew.begin(caller, row["tenant"], ("replay", f"pipeline {key}"), work)


@pipelines.post("/{key}/dead-letters/drop", status_code=202, summary="Forget dead rows")
def drop(key: Id, body: DropBody, control: ControlOf, caller: Operator) -> Operation:
    """Their values are gone for good. The result has the ids of what was forgotten."""
    row, destination = _with_destination(control, caller, key)
    table = str(TableName(body.schema_, body.table)) if body.table else None

    def work() -> dict[str, Any]:
        with sessions.of_destination(control, destination) as (worker, session, there):
            ids = [item["id"] for item in _meant(worker.listed(session, there, row["name"]), body.ids, table)]
            worker.drop(session, there, ids)
            return {"dropped": len(ids), "ids": ids}

    return control.crew.begin(caller, row["tenant"], ("drop dead rows", f"pipeline {key}"), work)


def _meant(found: list[dict[str, Any]], ids: list[str] | None, table: str | None = None) -> list[dict[str, Any]]:
    """Fault 404 for an id that no dead row has."""
    meant, unknown = chosen(found, ids, table)
    if unknown:
        raise faults.not_found("DeadRow", unknown[0])
    return meant


def _pipeline(control: Control, caller: Caller, key: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """A pipeline and its source."""
    with desk_of(control, caller) as desk:
        row = rows.one(desk, rows.PIPELINE, key)
        return row, rows.one(desk, rows.SOURCE, row["source_id"])


def _with_destination(control: Control, caller: Caller, key: int) -> tuple[dict[str, Any], dict[str, Any]]:
    with desk_of(control, caller) as desk:
        row = rows.one(desk, rows.PIPELINE, key)
        return row, rows.one(desk, rows.DESTINATION, row["destination_id"])


def _login(control: Control, row: dict[str, Any]) -> Tested:
    try:
        with sessions.of_destination(control, row):
            return Tested(ok=True)
    except EtlError as error:
        return Tested(ok=False, findings=[finding(error)])


def _positions(report: SourceReport | None) -> dict[str, Any]:
    plain = ("reported_at", "lag_bytes", "lag_seconds", "rows", "safe_wal_bytes", "wal_status")
    places = ("received", "durable", "confirmed")
    if report is None:
        return dict.fromkeys((*plain, *(f"{name}_lsn" for name in places)))
    told = {name: getattr(report, name) for name in plain}
    return told | {f"{name}_lsn": lsn.text(getattr(report, name)) for name in places}


def _errors(report: SourceReport | None, states: Iterable[TableState]) -> list[str]:
    lines = [report.trouble] if report is not None else []
    lines += [state.trouble for state in states]
    return list(dict.fromkeys(line for line in lines if line))


def _table(state: TableState, copy: CopyState | None, verified: Verified | None) -> TableStatus:
    current = under_way(state, copy)
    return TableStatus(
        schema=state.table.schema,
        table=state.table.name,
        state=state.phase,
        rows_copied=state.rows_copied,
        dead=state.dead,
        attempts=state.attempts,
        trouble=state.trouble,
        copying=None if current is None else Copy(**facts(current)),
        verified_through=None if verified is None else lsn.text(verified.lsn),
        verified_at=None if verified is None else verified.at,
    )


def _dead(item: dict[str, Any]) -> DeadRow:
    return DeadRow(
        id=item["id"],
        table=item["source_table"],
        commit_lsn=lsn.text(int(item["commit_lsn"])),
        operation=item["op"],
        reason=item["reason"],
        since=str(item["dead_at"]),
    )
