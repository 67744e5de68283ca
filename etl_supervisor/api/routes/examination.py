"""The doctor by the API: everything that is configured, or one pipeline with both its ends, before it is started.

Both take seconds (logins, catalogs), so they are operations. The result has `ok` (nothing is wrong; risks and advice may be left) and `findings`,
which are those of `etl-supervisor doctor --json`.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from etl_supervisor.api import rows
from etl_supervisor.api.access import Admin, Operator
from etl_supervisor.api.bodies import Id
from etl_supervisor.api.control import Control, ControlOf
from etl_supervisor.api.operations import Operation
from etl_supervisor.api.routes.administration import installation_wide
from etl_supervisor.api.routes.resources import desk_of
from etl_supervisor.errors import EtlError
from etl_supervisor.model.finding import Finding, Weight
from etl_supervisor.model.pipeline import SourceSpec
from etl_supervisor.monitor import doctor
from etl_supervisor.repository import desired

router = APIRouter(tags=["doctor"])


@router.post("/doctor", status_code=202, summary="Look at everything that is configured")
def examine(control: ControlOf, caller: Admin) -> Operation:
    """Sources and destinations of started pipelines, secrets, the state store; for admins of all tenants. Changes nothing."""
    installation_wide(caller)

    def work() -> dict[str, Any]:
        return _result(doctor.examine(control.settings))

    return control.crew.begin(caller, "default", ("doctor", "everything"), work)


@router.post("/pipelines/{key}/validate", status_code=202, summary="Check a pipeline before it is started")
def validate(key: Id, control: ControlOf, caller: Operator) -> Operation:
    """Source and destination, as this pipeline will use them."""
    with desk_of(control, caller) as desk:
        row = rows.one(desk, rows.PIPELINE, key)
        source = rows.one(desk, rows.SOURCE, row["source_id"])
        destination = rows.one(desk, rows.DESTINATION, row["destination_id"])

    def work() -> dict[str, Any]:
        return _result(_of_pipeline(control, source, row | {"destination": destination}))

    return control.crew.begin(caller, row["tenant"], ("validate", f"pipeline {key}"), work)


def _of_pipeline(control: Control, source: dict[str, Any], row: dict[str, Any]) -> list[Finding]:
    settings = control.settings
    try:
        pipeline = desired.pipeline_of(row, can_hash=settings.masking_secret is not None)
    except EtlError as error:
        return [Finding.of(error)]
    spec = SourceSpec(desired.source_of(source), (pipeline,))
    found = doctor.of_source(settings, spec, doctor.slots(settings))
    return [*found, *doctor.of_destination(settings, pipeline.destination, [pipeline])]


def _result(found: list[Finding]) -> dict[str, Any]:
    return {
        "ok": not any(item.weight is Weight.WRONG for item in found),
        "findings": [asdict(item) for item in found],
    }
