"""The WAL monitor's tables: which sources it looks at, what it has measured, how they are, and alerts that are on their way.

An alert is written in the transaction that writes what was told, one row per channel; it is delivered by whoever locks the row
(`monitor/delivery.py`), and deleted only long after it was. So a crash before the commit tells it at the next look, and one after it at the
next start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Json

from etl_supervisor.model import lsn
from etl_supervisor.model.pipeline import Source
from etl_supervisor.model.wal import SAMPLES_MAX, Level, Outlook, Sample, SlotMeasure, SourceState
from etl_supervisor.repository.connection import connect, trouble
from etl_supervisor.repository.desired import source_of

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings

ALERTS_KEPT_DAYS = 30  # after their delivery, for people who ask what was told


@dataclass(frozen=True, slots=True)
class Watched:
    """A source to measure, with its own thresholds (MB; None: the settings'). `started`: it has a started pipeline."""

    source: Source
    warning_mb: int | None
    danger_mb: int | None
    started: bool


@dataclass(frozen=True, slots=True)
class Waiting:
    """An alert that is due."""

    id: int
    channel: str
    body: dict[str, Any]
    detail: str
    attempts: int


def watched(settings: Settings) -> list[Watched]:
    """Every source that is configured. EtlError(CONFIG_DATABASE)."""
    sql = (
        "SELECT s.*, EXISTS (SELECT FROM app.pipelines p WHERE p.source_id = s.id AND p.status = 'START') AS started"
        " FROM app.sources s ORDER BY s.id"
    )
    try:
        with connect(settings.config_dsn(), row_factory=dict_row) as connection:
            rows = connection.execute(sql).fetchall()
    except psycopg.Error as error:
        raise trouble(error) from None
    return [Watched(source_of(row), row["warning_wal_mb"], row["danger_wal_mb"], row["started"]) for row in rows]


def samples(connection: psycopg.Connection[Any], source_id: int, slot: str) -> list[Sample]:
    """The newest measurements of a slot, the oldest first."""
    rows = connection.execute(
        "SELECT extract(epoch FROM recorded_at)::float8, current_lsn::text, retained_bytes FROM app.wal_metrics"
        " WHERE source_id = %s AND slot_name = %s ORDER BY recorded_at DESC LIMIT %s",
        [source_id, slot, SAMPLES_MAX],
    ).fetchall()
    return [Sample(at, lsn.parse(current), retained) for at, current, retained in reversed(rows)]


def record(
    connection: psycopg.Connection[Any], source_id: int, found: SlotMeasure, outlook: Outlook, now: datetime
) -> None:
    """Write a measurement."""
    connection.execute(
        "INSERT INTO app.wal_metrics (source_id, slot_name, current_lsn, retained_bytes, recorded_at, confirmed_lsn, wal_status,"
        " safe_wal_bytes, lag_bytes, lag_seconds, growth_bytes_per_second, dies_in_seconds)"
        " VALUES (%s, %s, %s::pg_lsn, %s, %s, %s::pg_lsn, %s, %s, %s, %s, %s, %s)",
        [
            source_id,
            found.slot,
            lsn.text(found.current),
            found.retained_bytes,
            now,
            lsn.text(found.confirmed),
            "lost" if found.lost else found.wal_status,
            found.safe_wal_bytes,
            found.lag_bytes,
            outlook.lag_seconds,
            outlook.growth_bytes_per_second,
            outlook.dies_in_seconds,
        ],
    )


def forget(connection: psycopg.Connection[Any], source_id: int, days: int) -> None:
    """Delete the measurements of a source that are older, and alerts that were delivered long ago."""
    connection.execute(
        "DELETE FROM app.wal_metrics WHERE source_id = %s AND recorded_at < now() - make_interval(days => %s)",
        [source_id, days],
    )
    connection.execute(
        "DELETE FROM app.alerts WHERE delivered_at < now() - make_interval(days => %s)", [ALERTS_KEPT_DAYS]
    )


def state(connection: psycopg.Connection[Any], source_id: int) -> SourceState | None:
    """How a source was, locked until the transaction ends; None when it had no slot."""
    row = connection.execute(
        "SELECT level, told, trouble_since FROM app.wal_states WHERE source_id = %s FOR UPDATE", [source_id]
    ).fetchone()
    return None if row is None else SourceState(Level(row[0]), Level(row[1]), row[2])


def save_state(connection: psycopg.Connection[Any], source_id: int, state: SourceState | None) -> None:
    """Write how a source is; None: it has no slot, and needs none."""
    if state is None:
        connection.execute("DELETE FROM app.wal_states WHERE source_id = %s", [source_id])
        return
    connection.execute(
        "INSERT INTO app.wal_states (source_id, level, told, trouble_since) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (source_id) DO UPDATE SET (level, told, trouble_since)"
        " = ROW(excluded.level, excluded.told, excluded.trouble_since)",
        [source_id, state.level.value, state.told.value, state.trouble_since],
    )


def enqueue(connection: psycopg.Connection[Any], channels: Sequence[str], body: dict[str, Any], detail: str) -> None:
    """Have an alert delivered over each channel."""
    for channel in channels:
        connection.execute(
            "INSERT INTO app.alerts (channel, body, detail) VALUES (%s, %s, %s)", [channel, Json(body), detail]
        )


def next_alert(connection: psycopg.Connection[Any], channel: str) -> Waiting | None:
    """The first alert of a channel when it is due and nobody else is at it, locked until the transaction ends.

    Only the first: a recovery never overtakes what it is about."""
    row = connection.execute(
        "SELECT id, channel, body, detail, attempts FROM app.alerts WHERE due_at <= now() AND delivered_at IS NULL AND id ="
        " (SELECT min(id) FROM app.alerts WHERE channel = %s AND delivered_at IS NULL) FOR UPDATE SKIP LOCKED",
        [channel],
    ).fetchone()
    return None if row is None else Waiting(*row)


def delivered(connection: psycopg.Connection[Any], alert: Waiting) -> None:
    """It has arrived."""
    connection.execute(
        "UPDATE app.alerts SET delivered_at = now(), attempts = attempts + 1, last_error = NULL WHERE id = %s",
        [alert.id],
    )


def failed(connection: psycopg.Connection[Any], alert: Waiting, reason: str, pause_seconds: float) -> None:
    """It has not; try again after a pause."""
    connection.execute(
        "UPDATE app.alerts SET attempts = attempts + 1, last_error = %s, due_at = now() + make_interval(secs => %s)"
        " WHERE id = %s",
        [reason, pause_seconds, alert.id],
    )
