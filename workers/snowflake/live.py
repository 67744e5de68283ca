"""The view `<TABLE>_LIVE`: the rows as of the last landed change, which is the target and what landed since.

It takes the window beyond the watermark as an apply would, without waiting for one. While a generation has not been applied yet (its copy is
under way) the view shows the target alone: the last state that was whole. One statement reads one state of Snowflake, so watermark, target and
change log are of one moment.
"""

from __future__ import annotations

from etl_supervisor.ipc.messages import OpenTable
from workers.snowflake import keyless, target
from workers.snowflake.identifiers import Objects, literal
from workers.snowflake.sftypes import TARGET_META
from workers.snowflake.window import Window, dead_rows, may_be_unchanged, name_of, same_key, with_clause


def view(opening: OpenTable, objects: Objects, *, replaces: bool = True) -> str:
    """CREATE VIEW; unless it `replaces`, it fails where something has the name."""
    table = opening.table
    source = (
        f"{objects.landing_sql} l JOIN {objects.watermark_sql} m ON m.LANDING_TABLE = {literal(objects.landing)}"
        " AND l._ETL_GENERATION = m.GENERATION AND l._ETL_COMMIT_LSN >= m.APPLIED AND m.APPLIED > 0"
    )
    unchanged = may_be_unchanged(table)
    generation = f"SELECT GENERATION FROM {objects.watermark_sql} WHERE LANDING_TABLE = {literal(objects.landing)}"
    dead = dead_rows(objects, f"({generation})") if unchanged else None
    window = Window(table.columns, source, objects.target_sql, unchanged, bool(unchanged), dead=dead)
    there = " AND NOT COALESCE(t._ETL_DELETED, FALSE)" if opening.policy.soft and table.key else ""
    if table.key:
        parts, same = target.current(window), same_key(table.columns, "t.", "s.")
    else:
        parts, same = keyless.difference(window), keyless.same_row(window, "t.", "s.")
    columns = [*(name_of(column) for column in table.columns), *(name for name, _ in TARGET_META)]
    of_target, of_log = (", ".join(f"{row}.{column}" for column in columns) for row in ("t", "s"))
    return (
        f"CREATE {'OR REPLACE ' if replaces else ''}VIEW {objects.live_sql} AS {with_clause(parts)}"
        f"SELECT {of_target} FROM {objects.target_sql} t LEFT JOIN s ON {same}"
        f" WHERE s._ETL_OP IS NULL AND (SELECT COUNT(*) FROM v WHERE _ETL_OP = 'T') = 0{there}"
        f" UNION ALL SELECT {of_log} FROM s WHERE s._ETL_OP <> 'D'"
    )
