"""What the WAL monitor has measured: the history, page by page, and where each slot of a source goes from here.

The history is a plain list; where there is more, the header `Link` names the next page (rel="next"), and a page that begins with its cursor goes on
behind the last measurement, whatever was measured or forgotten meanwhile.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from etl_supervisor.api import rows
from etl_supervisor.api.access import Viewer
from etl_supervisor.api.bodies import Id, Moment, Text
from etl_supervisor.api.control import ControlOf
from etl_supervisor.api.cursors import Cursor, after_moment, moment_cursor, row_id
from etl_supervisor.api.pool import Connection
from etl_supervisor.api.routes.resources import LIMIT_DEFAULT, Limit, desk_of
from etl_supervisor.model.wal import Level
from etl_supervisor.monitor.alerts import MB, Thresholds
from etl_supervisor.repository.alerting import in_force

FORECAST_DAYS_MAX = 365  # beyond a year a line through half an hour says nothing

router = APIRouter(tags=["watching"])

_COLUMNS = (
    "m.id, source_id, slot_name, current_lsn::text AS current_lsn, retained_bytes, recorded_at,"
    " confirmed_lsn::text AS confirmed_lsn, wal_status, safe_wal_bytes, lag_bytes, lag_seconds, growth_bytes_per_second, dies_in_seconds"
)
_HISTORY = (
    f"SELECT {_COLUMNS} FROM app.wal_metrics m JOIN app.sources s ON s.id = m.source_id"
    " WHERE (%(source)s::bigint IS NULL OR source_id = %(source)s) AND (%(slot)s::text IS NULL OR slot_name = %(slot)s)"
    " AND (%(tenant)s::text IS NULL OR s.tenant = %(tenant)s)"
    " AND (%(from)s::timestamptz IS NULL OR recorded_at >= %(from)s) AND (%(to)s::timestamptz IS NULL OR recorded_at < %(to)s)"
    " AND (%(moment)s::timestamptz IS NULL OR (recorded_at, m.id) < (%(moment)s, %(id)s))"
    " ORDER BY recorded_at DESC, m.id DESC LIMIT %(limit)s"
)
_NEWEST = (
    f"SELECT DISTINCT ON (slot_name) {_COLUMNS} FROM app.wal_metrics m WHERE source_id = %(source)s AND recorded_at ="
    " (SELECT max(recorded_at) FROM app.wal_metrics WHERE source_id = %(source)s) ORDER BY slot_name, m.id DESC"
)


class WalMetric(BaseModel):
    """One measurement of a slot."""

    id: int
    source_id: int
    slot_name: str
    current_lsn: str
    retained_bytes: int
    recorded_at: datetime
    confirmed_lsn: str | None = None
    wal_status: str | None = None
    safe_wal_bytes: int | None = Field(None, description="May be written until the slot is lost; null without a limit")
    lag_bytes: int | None = None
    lag_seconds: float | None = None
    growth_bytes_per_second: float | None = None
    dies_in_seconds: float | None = Field(None, description="When the slot is lost at this rate; null when it never is")


class WalFilters(BaseModel):
    """Which measurements; a parameter that is not known is refused."""

    model_config = ConfigDict(extra="forbid")

    source_id: Id | None = None
    slot_name: Text | None = None
    from_: Moment | None = Field(None, alias="from", description="Recorded at this moment or later")
    to: Moment | None = Field(None, description="Recorded before this moment")
    limit: Limit = LIMIT_DEFAULT
    cursor: Cursor = None


class Forecast(BaseModel):
    """When a slot gets there if it goes on growing as over the last measurements; null: not within a year, or nobody can tell."""

    warning_at: datetime | None
    danger_at: datetime | None
    lost_at: datetime | None


class SlotNow(WalMetric):
    """The newest measurement of a slot, and where it goes."""

    forecast: Forecast


class SourceWal(BaseModel):
    """How the WAL is that a source keeps for us."""

    level: Level | None = Field(description="As bad as the worst of its slots; null when it has none")
    trouble_since: datetime | None
    warning_mb: int = Field(description="Retained WAL that warns: the source's own, else the setting; MB are MiB")
    danger_mb: int
    slots: list[SlotNow]


@router.get("/metrics/wal", summary="Read WAL metrics", operation_id="read_wal_metrics")
def read_wal_metrics(
    control: ControlOf,
    caller: Viewer,
    request: Request,
    response: Response,
    filters: Annotated[WalFilters, Query()],
) -> list[WalMetric]:
    """What the WAL monitor has measured, the newest first. The header `Link` (rel="next") leads to the rest."""
    moment, key = after_moment(filters.cursor, row_id) or (None, 0)
    asked = {
        "source": filters.source_id,
        "slot": filters.slot_name,
        "tenant": caller.tenant,
        "from": filters.from_,
        "to": filters.to,
        "moment": moment,
        "id": key,
        "limit": filters.limit + 1,
    }
    with desk_of(control, caller) as desk:
        if filters.source_id is not None:
            rows.one(desk, rows.SOURCE, filters.source_id)
        found = desk.connection.execute(_HISTORY, asked).fetchall()
    if len(found) > filters.limit:
        found = found[: filters.limit]
        cursor = moment_cursor(found[-1]["recorded_at"], found[-1]["id"])
        following = request.url.include_query_params(cursor=cursor)
        response.headers["Link"] = f'<{following.path}?{following.query}>; rel="next"'
    return [WalMetric(**row) for row in found]


@router.get("/sources/{key}/wal", summary="Read how a source's WAL is", operation_id="read_source_wal")
def read_source_wal(key: Id, control: ControlOf, caller: Viewer) -> SourceWal:
    """Its level, and each slot as it was measured last, with a forecast."""
    with desk_of(control, caller) as desk:
        source = rows.one(desk, rows.SOURCE, key)
        state = _state(desk.connection, key)
        slots = desk.connection.execute(_NEWEST, {"source": key}).fetchall()
        alerting = in_force(desk.connection, control.settings)
    thresholds = Thresholds.between(alerting, source["warning_wal_mb"], source["danger_wal_mb"])
    return SourceWal(
        level=state["level"],
        trouble_since=state["trouble_since"],
        warning_mb=thresholds.warning_mb,
        danger_mb=thresholds.danger_mb,
        slots=[SlotNow(**slot, forecast=forecast(slot, thresholds)) for slot in slots],
    )


def forecast(slot: dict[str, Any], thresholds: Thresholds) -> Forecast:
    """Of a measurement. What is reached already is reached at its moment."""
    growth, now = slot["growth_bytes_per_second"], slot["recorded_at"]

    def reached(bytes_left: float) -> datetime | None:
        if bytes_left <= 0:
            return _after(now, 0.0)
        return _after(now, bytes_left / growth) if growth is not None and growth > 0 else None

    return Forecast(
        warning_at=reached(thresholds.warning_mb * MB - slot["retained_bytes"]),
        danger_at=reached(thresholds.danger_mb * MB - slot["retained_bytes"]),
        lost_at=None if slot["dies_in_seconds"] is None else _after(now, slot["dies_in_seconds"]),
    )


def _after(moment: datetime, seconds: float) -> datetime | None:
    return moment + timedelta(seconds=seconds) if seconds <= FORECAST_DAYS_MAX * 86_400 else None


def _state(connection: Connection, key: int) -> dict[str, Any]:
    query = "SELECT level, trouble_since FROM app.wal_states WHERE source_id = %s"
    return connection.execute(query, [key]).fetchone() or {"level": None, "trouble_since": None}
