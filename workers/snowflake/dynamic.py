"""`apply: dynamic_table`: Snowflake keeps the current table itself, from the change log alone, within a target lag.

The log is never purged in this mode; a generation is shown from the moment when its copy is whole (`_ETL_WATERMARK.SHOWN` and `BASE`, written
once in a generation).
"""

from __future__ import annotations

from etl_supervisor.ipc.messages import OpenTable
from workers.snowflake import keyless, target
from workers.snowflake.identifiers import Objects, literal, quoted
from workers.snowflake.sftypes import TARGET_META
from workers.snowflake.window import Window, dead_rows, may_be_unchanged, name_of, with_clause


def create(opening: OpenTable, objects: Objects) -> str:
    """CREATE DYNAMIC TABLE."""
    warehouse = opening.destination.warehouse
    runs_on = f" WAREHOUSE = {quoted(warehouse.upper())}" if warehouse else ""
    return (
        f"CREATE OR REPLACE DYNAMIC TABLE {objects.target_sql} TARGET_LAG = '{opening.policy.schedule_minutes} minutes'"
        f"{runs_on} AS\n{_query(opening, objects)}"
    )


def drop(objects: Objects) -> str:
    """Take it away."""
    return f"DROP DYNAMIC TABLE IF EXISTS {objects.target_sql}"


def _query(opening: OpenTable, objects: Objects) -> str:
    table = opening.table
    source = (
        f"{objects.landing_sql} l JOIN {objects.watermark_sql} m ON m.LANDING_TABLE = {literal(objects.landing)}"
        " AND l._ETL_GENERATION = m.SHOWN AND l._ETL_COMMIT_LSN >= m.BASE"
    )
    unchanged = may_be_unchanged(table)
    generation = f"SELECT SHOWN FROM {objects.watermark_sql} WHERE LANDING_TABLE = {literal(objects.landing)}"
    dead = dead_rows(objects, f"({generation})") if unchanged else None
    window = Window(table.columns, source, None, unchanged, bool(unchanged), dead=dead)
    parts = target.current(window) if table.key else keyless.difference(window)
    columns = ", ".join([*(name_of(column) for column in table.columns), *(name for name, _ in TARGET_META)])
    return f"{with_clause(parts, recursive=window.moves)}SELECT {columns} FROM s WHERE _ETL_OP <> 'D'"
