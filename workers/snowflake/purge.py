"""Applied rows leave the change log after a retention.

Never before: a row goes when it lies behind the watermark (or is of a generation before the one that is shown) and has been landed longer than
the retention. The statement reads the watermark itself, so it can't be late. While rows of the table are in the dead letter nothing goes: a
replay derives a key's row from the log. `_ETL_WATERMARK.PURGED` notes the generation, before its first row goes: its log is not whole any more. A
policy without a target needs the whole log and is never purged.
"""

from __future__ import annotations

from typing import Any

from snowflake.connector.errors import Error, ProgrammingError

from etl_supervisor.errors import Kind
from etl_supervisor.ipc.messages import OpenTable
from workers.snowflake.connection import DOES_NOT_EXIST, classify
from workers.snowflake.identifiers import Objects, literal, objects_of

SECONDS_BETWEEN_MIN = 60.0
SECONDS_BETWEEN_MAX = 6 * 3600.0


def pause_seconds(opening: OpenTable) -> float | None:
    """Seconds between two purges: a fourth of the retention, within limits; None: this table is not purged."""
    policy = opening.policy
    if policy.retention_hours is None or not policy.mode.has_target:
        return None
    return min(SECONDS_BETWEEN_MAX, max(SECONDS_BETWEEN_MIN, policy.retention_hours * 900))


def purge(connection: Any, opening: OpenTable) -> int:
    """Delete what may go; how many rows went."""
    objects = objects_of(opening.destination, opening.table)
    try:
        with connection.cursor() as cursor:
            if _dead(cursor, objects):
                return 0
            cursor.execute(
                f"UPDATE {objects.watermark_sql} SET PURGED = GENERATION WHERE LANDING_TABLE = {literal(objects.landing)}"
                " AND APPLIED > 0 AND PURGED <> GENERATION"
            )
            cursor.execute(_statement(objects, opening.policy.retention_hours or 0.0))
            return int(cursor.rowcount or 0)
    except Error as error:
        place = f"pipeline {opening.pipeline}, table {opening.table.name}"
        raise classify(error, place, Kind.APPLY) from None


def _dead(cursor: Any, objects: Objects) -> bool:
    try:
        (count,) = cursor.execute(
            f"SELECT COUNT(*) FROM {objects.dead_letter_sql} WHERE LANDING_TABLE = {literal(objects.landing)}"
        ).fetchone()
    except ProgrammingError as error:
        if error.errno == DOES_NOT_EXIST:
            return False
        raise
    return bool(count)


def _statement(objects: Objects, retention_hours: float) -> str:
    return (
        f"DELETE FROM {objects.landing_sql} l USING {objects.watermark_sql} m"
        f" WHERE m.LANDING_TABLE = {literal(objects.landing)}"
        " AND (l._ETL_GENERATION < m.SHOWN OR (l._ETL_GENERATION = m.GENERATION AND l._ETL_COMMIT_LSN < m.APPLIED))"
        f" AND l._ETL_LOADED_AT <= DATEADD(second, -{round(retention_hours * 3600)}, CURRENT_TIMESTAMP())"
    )
