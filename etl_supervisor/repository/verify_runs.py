"""Verifications of pipelines in the config database (app.verify_runs): at most one of a pipeline runs, whoever asked for it.

    claim    a row `running`; a unique index lets one in. A row whose owner was not heard of for LOST_SECONDS is `lost` first
    beat     every BEAT_SECONDS; False when the row was given to somebody else meanwhile
    finish   what it found; a row that was lost stays lost

Every function is one transaction on a connection of its own, so it does not matter which thread calls it. EtlError(CONFIG_DATABASE) from all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.types.json import Jsonb

from etl_supervisor.repository.connection import connect, trouble

if TYPE_CHECKING:
    from etl_supervisor.config.settings import Settings

BEAT_SECONDS = 5.0
LOST_SECONDS = 30  # six beats: a config database that is away for so long may have let another one in
KEPT_DAYS = 400  # a year can be compared with the one before; a row has counts of tables that differ, no more

COLUMNS = (
    "id, who, repair, tables, began_at, finished_at, equal, findings, error,"
    f" CASE WHEN status = 'running' AND beat_at < now() - interval '{LOST_SECONDS} seconds' THEN 'lost' ELSE status END AS status"
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a verification ended: how many tables were equal, what is to be said of the others (no keys), why it broke off ("": it did not)."""

    equal: int
    findings: list[dict[str, Any]]
    error: str = ""


def claim(settings: Settings, pipeline_id: int, who: str, repair: bool, tables: int) -> int | None:
    """The id of the new run; None while another one runs."""
    try:
        with connect(settings.config_dsn()) as connection:
            connection.execute(
                "DELETE FROM app.verify_runs WHERE pipeline_id = %s AND began_at < now() - make_interval(days => %s)",
                [pipeline_id, KEPT_DAYS],
            )
            connection.execute(
                "UPDATE app.verify_runs SET status = 'lost' WHERE pipeline_id = %s AND status = 'running'"
                " AND beat_at < now() - make_interval(secs => %s)",
                [pipeline_id, LOST_SECONDS],
            )
            row = connection.execute(
                "INSERT INTO app.verify_runs (pipeline_id, who, repair, tables) VALUES (%s, %s, %s, %s)"
                " ON CONFLICT (pipeline_id) WHERE status = 'running' DO NOTHING RETURNING id",
                [pipeline_id, who, repair, tables],
            ).fetchone()
    except psycopg.Error as error:
        raise trouble(error) from None
    return None if row is None else int(row[0])


def beat(settings: Settings, key: int) -> bool:
    """Say that it goes on; False when it is not ours any more."""
    return _update(settings, "beat_at = now()", [], key)


def finish(settings: Settings, key: int, outcome: Outcome) -> bool:
    """Write what came of it; False when it was lost before."""
    status = "failed" if outcome.error else "succeeded"
    values = [status, outcome.equal, Jsonb(outcome.findings), outcome.error or None]
    return _update(settings, "status = %s, finished_at = now(), equal = %s, findings = %s, error = %s", values, key)


def listed(connection: psycopg.Connection[Any], pipeline_id: int, before: int, limit: int) -> list[Any]:
    """Runs of a pipeline, the newest first, beyond the run `before` (0: from the newest)."""
    query = (
        f"SELECT {COLUMNS} FROM app.verify_runs WHERE pipeline_id = %(pipeline)s AND (%(before)s = 0 OR id < %(before)s)"
        " ORDER BY id DESC LIMIT %(limit)s"
    )
    return connection.execute(query.encode(), {"pipeline": pipeline_id, "before": before, "limit": limit}).fetchall()


def _update(settings: Settings, changes: str, values: list[Any], key: int) -> bool:
    query = f"UPDATE app.verify_runs SET {changes} WHERE id = %s AND status = 'running'"
    try:
        with connect(settings.config_dsn()) as connection:
            return connection.execute(query.encode(), [*values, key]).rowcount == 1
    except psycopg.Error as error:
        raise trouble(error) from None
