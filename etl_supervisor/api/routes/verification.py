"""Verifications by the API: asked for (an operation), and what those before have found.

They are those of `etl-supervisor verify`: the same function, one at a time of a pipeline, whoever asked. Keys are in the operation's result, as the
command prints them with --json, and go with it; the history has counts only.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from etl_supervisor.api import faults, rows
from etl_supervisor.api.access import Operator, Viewer
from etl_supervisor.api.bodies import Body, Id, Page, Text
from etl_supervisor.api.control import ControlOf
from etl_supervisor.api.cursors import after_id, by_id, page_of
from etl_supervisor.api.operations import Operation
from etl_supervisor.api.routes.resources import Filters, desk_of
from etl_supervisor.model.pipeline import PipelineStatus
from etl_supervisor.model.verified import Verdict
from etl_supervisor.monitor import verification
from etl_supervisor.monitor.verification import VerifiedNowError, Wish
from etl_supervisor.repository import verify_runs

KEYS_DEFAULT, KEYS_MAX = 20, 1000  # the command shows as many, and has as many with --json
TABLES_MAX = 1000  # more are verified by leaving `tables` out

router = APIRouter(prefix="/pipelines", tags=["verification"])


class VerifyBody(Body):
    """What to compare."""

    model_config = ConfigDict(json_schema_extra={"example": {"tables": ["public.orders"], "repair": False}})

    tables: Annotated[list[Text], Field(max_length=TABLES_MAX)] | None = Field(
        None, min_length=1, description="schema.table; every table when not given"
    )
    repair: bool = Field(
        False,
        description="Put ranges that differ right; where that will not do the table is copied again, as `resync` does",
    )
    keys: int = Field(
        KEYS_DEFAULT,
        ge=0,
        le=KEYS_MAX,
        description="How many keys of each sort the result names; of a table without a key they are whole rows",
    )


class NotEqual(BaseModel):
    """A table that was not found equal, without keys. `trouble` says why it was not compared."""

    table: str
    lsn: str
    source_rows: int
    target_rows: int
    missing: int = Field(description="Rows that only the source has")
    extra: int = Field(description="Rows that only the target has")
    different: int = Field(description="Rows that both have, with other values")
    whole: bool = Field(description="False: the counts are lower limits")
    not_compared: list[str] = Field(description="Columns that only one side has")
    dead: int = Field(description="Rows in the dead letter")
    trouble: str
    repaired: int | None = Field(
        None, description="Rows of ranges that were copied again; the table was compared once more then"
    )


class VerifyRun(BaseModel):
    """One verification, by the command or by the API."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": 7,
                "status": "succeeded",
                "who": "ops (1a2b3c4d)",
                "repair": False,
                "tables": 12,
                "equal": 11,
                "findings": [
                    {
                        "table": "public.orders",
                        "lsn": "0/1A2B3C8",
                        "source_rows": 3000,
                        "target_rows": 2999,
                        "missing": 2,
                        "extra": 1,
                        "different": 1,
                        "whole": True,
                        "not_compared": [],
                        "dead": 0,
                        "trouble": "",
                        "repaired": None,
                    }
                ],
                "error": None,
                "began_at": "2026-01-01T12:00:00Z",
                "finished_at": "2026-01-01T12:00:09Z",
            }
        }
    )

    id: int
    status: Literal["running", "succeeded", "failed", "lost"] = Field(
        description="lost: its process was not heard of any more"
    )
    who: str
    repair: bool
    tables: int = Field(description="How many were to be compared")
    equal: int | None = Field(description="How many of them are; null until its end")
    findings: list[NotEqual] | None = Field(
        description="Tables that differed, or were not compared; at most a thousand; null until its end"
    )
    error: str | None = Field(description="Why it ended before all were compared")
    began_at: datetime
    finished_at: datetime | None


@router.post(
    "/{key}/verify",
    status_code=202,
    summary="Compare source and target row by row",
    operation_id="verify_pipeline",
)
def verify(key: Id, body: VerifyBody, control: ControlOf, caller: Operator) -> Operation:
    """While the pipeline runs, at one LSN. The result has `equal` and, for each table, what `etl-supervisor verify --json` prints."""
    with desk_of(control, caller) as desk:
        row = rows.one(desk, rows.PIPELINE, key)
    if row["status"] != PipelineStatus.START:
        raise faults.conflict(f"Pipeline {row['name']} is not started", entity_type="Pipeline", entity_id=str(key))
    wish = Wish(row["name"], caller.name, tuple(body.tables or ()), body.repair)
    try:
        run = verification.begin(control.settings, wish)
    except VerifiedNowError as error:
        message = f"Pipeline {row['name']} is being verified already"
        raise faults.conflict(message, entity_type="Pipeline", entity_id=str(key), remedy=error.remedy) from None

    def work() -> dict[str, Any]:
        told: list[dict[str, Any]] = []

        def tell(verdict: Verdict) -> None:
            told.append(verification.facts(verdict, body.keys))

        with run:
            equal = run.work(tell)
        return {"run": run.key, "equal": equal, "tables": told}

    try:
        return control.crew.begin_long(caller, row["tenant"], ("verify", f"pipeline {key}"), work)
    except BaseException as error:
        run.end(error)
        raise


@router.get("/{key}/verify-runs", summary="List verifications", operation_id="list_verify_runs")
def list_verify_runs(
    key: Id, control: ControlOf, caller: Viewer, filters: Annotated[Filters, Query()]
) -> Page[VerifyRun]:
    """The newest first; those of the last 400 days. Up to where each table is known to be equal: `verified_through` of the pipeline's tables."""
    before = after_id(filters.cursor)
    with desk_of(control, caller) as desk:
        rows.one(desk, rows.PIPELINE, key)
        found = verify_runs.listed(desk.connection, key, before, filters.limit + 1)
    return Page[VerifyRun](**page_of(found, filters.limit, by_id))
