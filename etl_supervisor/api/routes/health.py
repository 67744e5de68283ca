"""`/health`: this process answers. `/ready`: what it is for works, looked at now; 503 and the reasons when it does not.

config_database   answers, and its migrations have been run
state_store       answers
source <name>     the reader of each source with a started pipeline has reported lately and has no trouble of its own
supervisor        has reported lately (its monitor writes how the children are at every poll)
child <name>      monitor and actors run; no breaker is open
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from etl_supervisor.api.control import Control, ControlOf
from etl_supervisor.api.faults import Fault, from_etl_error
from etl_supervisor.api.pool import Connection
from etl_supervisor.errors import EtlError
from etl_supervisor.model.progress import SourceReport
from etl_supervisor.state.store import StateStore

STALE_SECONDS = 10.0  # a reader reports every second

router = APIRouter(tags=["health"])


class Check(BaseModel):
    """One thing that must work."""

    name: str
    ok: bool
    reason: str = ""


class Health(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Readiness(BaseModel):
    """Everything that was looked at."""

    status: Literal["ready", "not ready"]
    checks: list[Check]


@router.get("/health", summary="Whether this process answers")
async def health() -> Health:
    """For load balancers; asks nobody."""
    return Health()


@router.get("/ready", summary="Whether everything works", responses={503: {"model": Readiness}})
def ready(control: ControlOf, response: Response) -> Readiness:
    """An honest answer: 503 when anything does not. Names of sources are told to anybody; nothing else of them is."""
    checks = list(_checks(control))
    whole = all(check.ok for check in checks)
    response.status_code = 200 if whole else 503
    return Readiness(status="ready" if whole else "not ready", checks=checks)


def reader_trouble(report: SourceReport | None, now: float) -> str:
    """Why a reader is not fine; empty when it is."""
    if report is None:
        return "its reader has not reported yet"
    if report.state == "stopped":
        return "its reader has stopped"
    age = now - report.reported_at
    return f"its reader has not reported for {age:.0f} s" if age > STALE_SECONDS else ""


def children_trouble(report: dict[str, Any] | None) -> Iterator[Check]:
    """The supervisor's last report, judged. Readers are judged by their own reports."""
    if report is None or not report["fresh"]:
        yield Check(
            name="supervisor", ok=False, reason="it has not reported " + ("yet" if report is None else "lately")
        )
        return
    yield Check(name="supervisor", ok=True)
    for child in report["children"]:
        if child["name"] == "monitor" or child["name"].startswith("actor-"):
            reason = "" if child["running"] else "it does not run"
            reason = reason if child["breaker"] == "closed" else f"its breaker is {child['breaker']}"
            yield Check(name=f"child {child['name']}", ok=not reason, reason=reason)


def _checks(control: Control) -> Iterator[Check]:
    names: list[str] = []
    try:
        with control.pool.transaction() as connection:
            names = _started(connection)
            children = list(children_trouble(_supervisor(connection)))
        yield Check(name="config_database", ok=True)
        yield from children
    except Exception as error:  # every way in which it can fail is the answer
        yield Check(name="config_database", ok=False, reason=_reason(error))
    try:
        with control.store() as store:
            store.epoch("-")
            yield Check(name="state_store", ok=True)
            yield from _readers(store, names)
    except EtlError as error:
        yield Check(name="state_store", ok=False, reason=error.reason)


def _readers(store: StateStore, names: list[str]) -> Iterator[Check]:
    now = time.time()
    for name in names:
        reason = reader_trouble(store.report(name), now)
        yield Check(name=f"source {name}", ok=not reason, reason=reason)


def _started(connection: Connection) -> list[str]:
    query = "SELECT name FROM app.sources s WHERE EXISTS (SELECT FROM app.pipelines WHERE source_id = s.id AND status = 'START') ORDER BY id"
    return [row["name"] for row in connection.execute(query)]


def _supervisor(connection: Connection) -> dict[str, Any] | None:
    query = "SELECT children, good_until > now() AS fresh FROM app.supervisor_report"
    return connection.execute(query).fetchone()


def _reason(error: Exception) -> str:
    fault: Fault | None = from_etl_error(error) if isinstance(error, EtlError) else None
    return fault.message if fault else type(error).__name__
