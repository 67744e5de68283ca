"""`apply: task`: Snowflake itself runs the block, by a TASK on its schedule.

    actor    writes into `_ETL_WATERMARK.FENCE` how far the change log is whole
    task     the same fenced block, from APPLIED to FENCE; its text knows the table's shape, not its rows
    stream   wakes the task; nothing is read from it, since it knows landed rows and not whole ones

The block empties the stream only when no row lies beyond the fence: else the task runs again by its schedule until the fence has passed them.
Rows that land while it runs stay in the stream. Two runs, or a run and an actor, meet at the watermark's row: the second finds it moved.
"""

from __future__ import annotations

from etl_supervisor.ipc.messages import OpenTable
from workers.snowflake import moving
from workers.snowflake.identifiers import Objects, literal, quoted
from workers.snowflake.script import swapped, transaction
from workers.snowflake.window import Window, dead_rows, may_be_unchanged


def create(opening: OpenTable, objects: Objects) -> list[str]:
    """The statements that make the task and let it run."""
    warehouse = opening.destination.warehouse
    runs_on = (
        f" WAREHOUSE = {quoted(warehouse.upper())}" if warehouse else ""
    )  # without one Snowflake finds compute by itself
    return [
        f"CREATE STREAM IF NOT EXISTS {objects.stream_sql} ON TABLE {objects.landing_sql} APPEND_ONLY = TRUE",
        f"CREATE OR REPLACE TASK {objects.task_sql}{runs_on} SCHEDULE = '{opening.policy.schedule_minutes} MINUTE'"
        f" WHEN SYSTEM$STREAM_HAS_DATA({literal(objects.stream_sql)}) AS\n{_block(opening, objects)}",
        f"ALTER TASK {objects.task_sql} RESUME",
    ]


def drop(objects: Objects) -> list[str]:
    """The statements that take it away."""
    return [f"DROP TASK IF EXISTS {objects.task_sql}", f"DROP STREAM IF EXISTS {objects.stream_sql}"]


def reached(opening: OpenTable, objects: Objects, fence: int, start: int) -> str:
    """Tell the task that the change log is whole up to `fence`. The first fence of a generation tells where its first window begins, `start`:
    later ones do not, since the task may not have run in between."""
    return (
        f"UPDATE {objects.watermark_sql} SET FENCE = {fence}, EPOCH = {opening.epoch}, UPDATED_AT = CURRENT_TIMESTAMP(),"
        f" BASE = IFF(APPLIED = 0 AND FENCE = 0, {start}, BASE) WHERE LANDING_TABLE = {literal(objects.landing)}"
        f" AND OWNER = {literal(opening.owner)} AND GENERATION = {opening.generation} AND FENCE < {fence}"
        f" AND EPOCH <= {opening.epoch}"
    )


def _block(opening: OpenTable, objects: Objects) -> str:
    """The apply block, with the watermark's numbers as variables."""
    mark = f"{objects.watermark_sql} WHERE LANDING_TABLE = {literal(objects.landing)}"
    numbers = [
        f"LET v_{name} NUMBER := (SELECT {value} FROM {mark})"
        for name, value in (
            ("generation", "GENERATION"),
            ("applied", "APPLIED"),
            ("fence", "FENCE"),
            ("start", "GREATEST(APPLIED, BASE)"),
        )
    ]
    steps = [*_moved_on(opening, objects), *_applied(opening, objects)]
    inside = ";\n    ".join(steps)
    beyond = (
        f"LET v_beyond NUMBER := (SELECT COUNT(*) FROM {objects.landing_sql} l WHERE l._ETL_GENERATION = :v_generation"
        " AND l._ETL_COMMIT_LSN >= :v_fence)"
    )
    emptied = f"INSERT INTO {objects.landing_sql} (_ETL_OP) SELECT _ETL_OP FROM {objects.stream_sql} WHERE FALSE"
    return transaction(
        [
            *numbers,
            f"IF (v_fence > v_applied) THEN\n    {inside};\n  END IF",
            beyond,
            f"IF (v_beyond = 0) THEN\n    {emptied};\n  END IF",
        ],
        "applied",
    )


def _moved_on(opening: OpenTable, objects: Objects) -> list[str]:
    history = ", HISTORY = :v_fence" if opening.policy.history else ""
    return swapped(
        f"UPDATE {objects.watermark_sql} SET APPLIED = :v_fence, UPDATED_AT = CURRENT_TIMESTAMP(), SHOWN = GENERATION{history}"
        f" WHERE LANDING_TABLE = {literal(objects.landing)} AND GENERATION = :v_generation AND APPLIED = :v_applied"
        " AND FENCE >= :v_fence"
    )


def _applied(opening: OpenTable, objects: Objects) -> list[str]:
    unchanged = may_be_unchanged(opening.table)
    source = (
        f"{objects.landing_sql} l WHERE _ETL_GENERATION = :v_generation AND _ETL_COMMIT_LSN >= :v_start"
        " AND _ETL_COMMIT_LSN < :v_fence"
    )
    dead = f"{dead_rows(objects, ':v_generation')} AND COMMIT_LSN < :v_fence" if unchanged else None
    window = Window(opening.table.columns, source, objects.target_sql, unchanged, bool(unchanged), dead=dead)
    first = ";\n      ".join(moving.first(opening, objects, ":v_start"))
    return [f"IF (v_applied = 0) THEN\n      {first};\n    END IF", *moving.moved(opening, objects, window)]
