"""What supervisors have counted of pipelines (app.usage, app.flow), and where each of them stands (app.metered).

The row of a supervisor is locked from reading it until the increase is written: a monitor that was followed by another while its transaction was
under way is waited for, and nothing is added twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

LOOK_SECONDS = 15.0  # a rate is that old at most; a look of 1,000 busy pipelines writes as many small rows
FLOW_KEPT_MINUTES = 60  # 240 looks of a pipeline
HOURS_KEPT_DAYS = 35  # 840 rows of a table that is never quiet; older ones are one row a day
USAGE_KEPT_DAYS = 400  # a month can be compared with that of the year before
METERED_KEPT_DAYS = 30  # a supervisor that was cut off for longer would add what it has counted once more


@dataclass(frozen=True, slots=True)
class Usage:
    """What was brought of a table; of the pipeline as a whole where `table_name` is empty."""

    pipeline: str
    table_name: str
    rows: float = 0
    billed_bytes: float = 0
    snowpipe_bytes: float = 0
    snowpipe_files: float = 0
    copy_bytes: float = 0
    copy_files: float = 0
    applied_rows: float = 0
    applies: float = 0
    apply_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Flow:
    """What a pipeline has brought since the look before; `latencies` are histograms (`model.latency`)."""

    pipeline: str
    latencies: Mapping[str, Mapping[str, float]]
    rows: float = 0
    bytes: float = 0
    applied_rows: float = 0
    applies: float = 0
    apply_seconds: float = 0.0


SUMS = tuple(field.name for field in fields(Usage) if field.name not in ("pipeline", "table_name"))
FLOW_SUMS = tuple(field.name for field in fields(Flow) if field.name not in ("pipeline", "latencies"))


def _given(columns: Sequence[str]) -> str:
    kinds = (f"{name} {'double precision' if name == 'apply_seconds' else 'bigint'}" for name in columns)
    return ", ".join(kinds)


_ADDED = ", ".join(f"{name} = u.{name} + excluded.{name}" for name in SUMS)
# A pipeline that was deleted meanwhile has no row to join.
_ADD_USAGE = (
    f"INSERT INTO app.usage AS u (pipeline_id, hour, table_name, {', '.join(SUMS)})"
    f" SELECT p.id, date_trunc('hour', now(), 'UTC'), table_name, {', '.join(f'given.{name}' for name in SUMS)}"
    f" FROM jsonb_to_recordset(%s) AS given(pipeline text, table_name text, {_given(SUMS)})"
    " JOIN app.pipelines p ON p.name = given.pipeline ORDER BY p.id, table_name"  # two that add wait for each other in one order
    " ON CONFLICT (pipeline_id, hour, table_name) DO UPDATE SET " + _ADDED
)
_ADD_FLOW = (
    f"INSERT INTO app.flow (pipeline_id, at, latencies, {', '.join(FLOW_SUMS)})"
    f" SELECT p.id, clock_timestamp(), latencies, {', '.join(f'given.{name}' for name in FLOW_SUMS)}"
    f" FROM jsonb_to_recordset(%s) AS given(pipeline text, latencies jsonb, {_given(FLOW_SUMS)})"
    " JOIN app.pipelines p ON p.name = given.pipeline"
)


_SUM_UP = (
    f"WITH hours AS (DELETE FROM app.usage WHERE hour < date_trunc('day', now(), 'UTC') - interval '{HOURS_KEPT_DAYS} days'"
    " AND hour <> date_trunc('day', hour, 'UTC') RETURNING *)"
    f" INSERT INTO app.usage AS u (pipeline_id, hour, table_name, {', '.join(SUMS)})"
    f" SELECT pipeline_id, date_trunc('day', hour, 'UTC'), table_name, {', '.join(f'sum({name})' for name in SUMS)}"
    " FROM hours GROUP BY 1, 2, 3 ORDER BY 1, 2, 3 ON CONFLICT (pipeline_id, hour, table_name) DO UPDATE SET " + _ADDED
)


def counted(connection: psycopg.Connection[Any], holder: str) -> dict[str, float]:
    """What this supervisor had counted when it was last written down; its row is locked until the transaction ends."""
    connection.execute("INSERT INTO app.metered (holder) VALUES (%s) ON CONFLICT DO NOTHING", [holder])
    row = connection.execute("SELECT counted FROM app.metered WHERE holder = %s FOR UPDATE", [holder]).fetchone()
    assert row is not None
    found: dict[str, float] = row[0]
    return found


def save(connection: psycopg.Connection[Any], holder: str, now: Mapping[str, float] | None) -> None:
    """It has looked, and has counted so much by now (None: no more than before; with a thousand tables that is half a megabyte)."""
    counted = None if now is None else Jsonb(now)
    connection.execute(
        "UPDATE app.metered SET at = clock_timestamp(), counted = coalesce(%s, counted) WHERE holder = %s",
        [counted, holder],
    )


def add_usage(connection: psycopg.Connection[Any], found: Sequence[Usage]) -> None:
    """Add to the present hour."""
    if found:
        connection.execute(_ADD_USAGE.encode(), [Jsonb([asdict(item) for item in found])])


def add_flow(connection: psycopg.Connection[Any], found: Sequence[Flow]) -> None:
    """Write what has come since the look before."""
    if found:
        connection.execute(_ADD_FLOW.encode(), [Jsonb([asdict(item) for item in found])])


def forget(connection: psycopg.Connection[Any]) -> None:
    """Sum hours up that are old, delete what is too old."""
    connection.execute(_SUM_UP.encode())
    for table, column, kept in (
        ("flow", "at", f"{FLOW_KEPT_MINUTES} minutes"),
        ("usage", "hour", f"{USAGE_KEPT_DAYS} days"),
        ("metered", "at", f"{METERED_KEPT_DAYS} days"),
    ):
        connection.execute(f"DELETE FROM app.{table} WHERE {column} < now() - interval '{kept}'".encode())
