"""What pipelines bring and spend: rates and latencies of the last minutes, and what was billed, by hour, for months.

Both come from what the supervisors' monitors write into the config database (`monitor.meter`), so they are told wherever the API runs. What
nobody has counted is null: rates while no supervisor has looked lately, costs where none ever has, and the time of warehouses, which Snowflake alone
knows.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from etl_supervisor.api import faults, rows
from etl_supervisor.api.access import Viewer
from etl_supervisor.api.bodies import Id, Moment
from etl_supervisor.api.control import ControlOf
from etl_supervisor.api.cursors import Cursor, NameCursor, after_id, after_name, by_id, name_cursor, page_of
from etl_supervisor.api.pool import Connection
from etl_supervisor.api.routes.resources import LIMIT_DEFAULT, Limit, desk_of
from etl_supervisor.model import latency
from etl_supervisor.model.cost import credits_of
from etl_supervisor.monitor.meter import WAY
from etl_supervisor.repository.metering import FLOW_KEPT_MINUTES, FLOW_SUMS, LOOK_SECONDS, SUMS

LOOKS_MISSED_MAX = 3  # then nobody counts at present
MINUTES_DEFAULT = 5
COST_DAYS_DEFAULT = 30

router = APIRouter(tags=["throughput and cost"])

_METERED = (
    "SELECT m.at, m.began_at, m.at > now() - make_interval(secs => %(late)s) AS fresh FROM app.metered m LEFT JOIN app.leases l"
    " ON l.source_id = %(source)s AND l.holder = m.holder AND l.expires_at >= now() ORDER BY l.holder IS NULL, m.at DESC LIMIT 1"
)
_FLOW = (
    f"SELECT {', '.join(f'coalesce(sum({name}), 0) AS {name}' for name in FLOW_SUMS)}, coalesce(jsonb_agg(latencies), '[]') AS latencies"
    " FROM app.flow WHERE pipeline_id = %(pipeline)s AND at > %(from)s AND at <= %(to)s"
)
_SUMS = ", ".join(
    f"coalesce(sum(u.{name}), 0)::{'float8' if name == 'apply_seconds' else 'bigint'} AS {name}" for name in SUMS
)
_IN_SPAN = "u.hour >= date_trunc('hour', %(from)s::timestamptz, 'UTC') AND u.hour < %(to)s"
_OF_TABLES = (
    f"SELECT u.table_name, {_SUMS} FROM app.usage u WHERE u.pipeline_id = %(pipeline)s AND {_IN_SPAN}"
    " AND u.table_name > %(after)s GROUP BY u.table_name ORDER BY u.table_name LIMIT %(limit)s"
)
_OF_PIPELINES = (
    f"SELECT p.id, p.name, min(u.hour) AS counted_from, {_SUMS} FROM app.pipelines p LEFT JOIN app.usage u ON u.pipeline_id = p.id AND {_IN_SPAN}"
    " WHERE (%(tenant)s::text IS NULL OR p.tenant = %(tenant)s) AND (%(pipeline)s::bigint IS NULL OR p.id = %(pipeline)s) AND p.id > %(after)s"
    " GROUP BY p.id ORDER BY p.id LIMIT %(limit)s"
)


class Latency(BaseModel):
    """From a commit in the source, in seconds, of the oldest row of each batch. Beyond the histogram's last bound it is that bound."""

    batches: int
    p50: float
    p95: float
    p99: float


class Throughput(BaseModel):
    """What a pipeline brought in the last minutes. Everything is null when no supervisor has counted lately."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "from": "2026-01-01T12:00:00Z",
                "to": "2026-01-01T12:05:00Z",
                "rows_per_second": 41250.5,
                "bytes_per_second": 10436376.2,
                "applied_rows_per_second": 40980.0,
                "batches": 1240,
                "applies": 5,
                "apply_seconds": 11.4,
                "latency": {
                    "accepted": None,
                    "durable": {"batches": 1240, "p50": 6.1, "p95": 9.4, "p99": 9.9},
                    "applied": {"batches": 1180, "p50": 38.0, "p95": 64.0, "p99": 71.5},
                },
            }
        }
    )

    from_: datetime | None = Field(alias="from")
    to: datetime | None = Field(description="When it was counted last")
    rows_per_second: float | None = Field(description="Rows brought to landing tables, those of copies too")
    bytes_per_second: float | None = Field(description="Of what was sent: NDJSON and Parquet")
    applied_rows_per_second: float | None = Field(description="Rows of the change log that applies brought to targets")
    batches: int | None = Field(description="Batches of changes that became durable")
    applies: int | None
    apply_seconds: float | None
    latency: dict[str, Latency | None] = Field(
        description="accepted (Snowflake has answered; pipelines with small batches only), durable, applied; null: there was none"
    )


class Spent(BaseModel):
    """What was brought, and the credits that loading it costs."""

    rows: int
    billed_bytes: int = Field(description="Values by streaming, as Snowflake bills them")
    snowpipe_bytes: int = Field(description="Parquet by Snowpipe, as Snowflake bills it")
    snowpipe_files: int
    copy_bytes: int = Field(description="Parquet by COPY, which costs the time of its warehouse")
    copy_files: int
    applied_rows: int
    credits: dict[str, float | None] = Field(
        description="Estimated: streaming, snowpipe; copy and apply are null where there were any, as the warehouse is billed by its time"
    )


class SpentByTable(Spent):
    """Of one table; `(others)` are those beyond a thousand of a process."""

    table: str


class SpentByPipeline(Spent):
    """Of one pipeline."""

    id: int
    name: str
    applies: int = Field(description="Apply blocks (MERGE)")
    apply_seconds: float = Field(description="How long they took; not what a warehouse bills")
    counted_from: datetime | None = Field(description="The first hour in which something was brought; null: none")


class Cost(BaseModel):
    """A span of time, whole hours. `pipeline` is null when no supervisor has ever counted."""

    from_: datetime = Field(alias="from")
    to: datetime
    counted_to: datetime | None = Field(description="When a supervisor has counted last")
    pipeline: SpentByPipeline | None
    tables: list[SpentByTable] = Field(description="By name, those that brought something")
    next_cursor: str | None


class Costs(BaseModel):
    """A span of time, whole hours, of all pipelines in the order of ids; none while no supervisor has ever counted."""

    from_: datetime = Field(alias="from")
    to: datetime
    counted_to: datetime | None = Field(description="When a supervisor has counted last")
    items: list[SpentByPipeline]
    next_cursor: str | None


class Span(BaseModel):
    """Which hours; a parameter that is not known is refused."""

    model_config = ConfigDict(extra="forbid")

    from_: Moment | None = Field(None, alias="from", description="From its hour on (UTC); 30 days ago")
    to: Moment | None = Field(None, description="Hours that began before it; now")
    limit: Limit = LIMIT_DEFAULT


class CostFilters(Span):
    """Which hours, and a place in the list of tables."""

    cursor: NameCursor = None


class CostsFilters(Span):
    """Which hours, and a place in the list of pipelines."""

    cursor: Cursor = None


@router.get("/pipelines/{key}/throughput", summary="Read what a pipeline brings", operation_id="read_throughput")
def read_throughput(
    key: Id,
    control: ControlOf,
    caller: Viewer,
    minutes: Annotated[int, Query(ge=1, le=FLOW_KEPT_MINUTES, description="Of the last minutes")] = MINUTES_DEFAULT,
) -> Throughput:
    """Rates and latencies, counted every 15 s."""
    with desk_of(control, caller) as desk:
        row = rows.one(desk, rows.PIPELINE, key)
        asked = {"late": LOOKS_MISSED_MAX * LOOK_SECONDS, "source": row["source_id"]}
        metered = desk.connection.execute(_METERED, asked).fetchone()
        if metered is None or not metered["fresh"]:
            unknown = dict.fromkeys(field.alias or name for name, field in Throughput.model_fields.items())
            return Throughput(**(unknown | {"latency": dict.fromkeys(WAY)}))
        since = max(metered["at"] - timedelta(minutes=minutes), metered["began_at"])
        span = {"pipeline": key, "from": since, "to": metered["at"]}
        found = desk.connection.execute(_FLOW.encode(), span).fetchone()
    assert found is not None
    return _throughput(since, metered["at"], found)


@router.get("/pipelines/{key}/cost", summary="Read what a pipeline costs", operation_id="read_cost")
def read_cost(key: Id, control: ControlOf, caller: Viewer, filters: Annotated[CostFilters, Query()]) -> Cost:
    """What loading costs, with its tables, one page of them at a time."""
    after = "".join(after_name(filters.cursor))
    span = _span(filters)
    with desk_of(control, caller) as desk:
        rows.one(desk, rows.PIPELINE, key)
        until = _counted_to(desk.connection)
        one = span | {"tenant": None, "pipeline": key, "after": 0, "limit": 1}
        whole = desk.connection.execute(_OF_PIPELINES.encode(), one).fetchone()
        asked = span | {"pipeline": key, "after": after, "limit": filters.limit + 1}
        found = desk.connection.execute(_OF_TABLES.encode(), asked).fetchall()
    page = page_of(found, filters.limit, lambda last: name_cursor(last["table_name"]))
    return Cost(
        **span,
        counted_to=until,
        pipeline=None if until is None or whole is None else SpentByPipeline(**_spent(whole)),
        tables=[SpentByTable(table=row["table_name"], **_spent(row)) for row in page["items"]],
        next_cursor=page["next_cursor"],
    )


@router.get("/cost", summary="Read what all pipelines cost", operation_id="read_costs")
def read_costs(control: ControlOf, caller: Viewer, filters: Annotated[CostsFilters, Query()]) -> Costs:
    """Each as a whole; those of the caller's tenant."""
    span = _span(filters)
    asked = {"tenant": caller.tenant, "pipeline": None, "after": after_id(filters.cursor)}
    with desk_of(control, caller) as desk:
        until = _counted_to(desk.connection)
        found = desk.connection.execute(_OF_PIPELINES.encode(), span | asked | {"limit": filters.limit + 1}).fetchall()
    page = page_of(found if until is not None else [], filters.limit, by_id)
    page["items"] = [SpentByPipeline(**_spent(row)) for row in page["items"]]
    return Costs(**span, counted_to=until, **page)


def _throughput(since: datetime, until: datetime, found: dict[str, Any]) -> Throughput:
    seconds = max(1.0, (until - since).total_seconds())
    ways = {name: latency.together(look.get(name, {}) for look in found["latencies"]) for name in WAY}
    return Throughput(
        **{"from": since, "to": until},
        rows_per_second=round(float(found["rows"]) / seconds, 3),
        bytes_per_second=round(float(found["bytes"]) / seconds, 3),
        applied_rows_per_second=round(float(found["applied_rows"]) / seconds, 3),
        batches=latency.count(ways["durable"]),
        applies=int(found["applies"]),
        apply_seconds=round(float(found["apply_seconds"]), 3),
        latency={name: _latency(way) for name, way in ways.items()},
    )


def _latency(way: latency.Histogram) -> Latency | None:
    middle, most, nearly = (latency.percentile(way, part) for part in (0.5, 0.95, 0.99))
    if middle is None or most is None or nearly is None:
        return None
    return Latency(batches=latency.count(way), p50=round(middle, 4), p95=round(most, 4), p99=round(nearly, 4))


def _span(filters: Span) -> dict[str, Any]:
    until = filters.to or datetime.now(UTC)
    try:
        since = filters.from_ or until - timedelta(days=COST_DAYS_DEFAULT)
    except OverflowError:  # the calendar begins with year 1
        raise faults.invalid("to", "nothing was counted so long ago") from None
    if since >= until:
        raise faults.invalid("from", "it is not before `to`")
    return {"from": since, "to": until}


def _counted_to(connection: Connection) -> datetime | None:
    row = connection.execute("SELECT max(at) AS at FROM app.metered").fetchone()
    found: datetime | None = row["at"] if row is not None else None
    return found


def _spent(row: dict[str, Any]) -> dict[str, Any]:
    """A row of sums with its credits."""
    bill = credits_of(row["billed_bytes"], row["snowpipe_bytes"], row["copy_files"], row["applies"])
    return row | {"credits": asdict(bill)}
