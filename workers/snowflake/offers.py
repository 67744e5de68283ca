"""What a policy offers beside landing table and target: columns for deleted rows, history, the live view.

`leave` goes first: what only the policy before needed is taken away. `_ETL_WATERMARK` notes the policy (`POLICY`; the command line needs it
too) and for which shape and policy all this was made (`OFFERED`; empty while the tables change): while neither changes, an open does nothing
here. A new generation makes it all anew, and so comes back what somebody has dropped. Every step is idempotent.

A history that the target went on without (it was switched off meanwhile) begins again: versions that were valid end now, and every row of the
target is a version.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import structlog
from snowflake.connector.errors import ProgrammingError

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc import wire
from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model import names
from etl_supervisor.model.apply_policy import ApplyMode, ApplyPolicy
from etl_supervisor.model.table import Table
from workers.snowflake import dead_letter, dynamic, history, live, task
from workers.snowflake.identifiers import Objects, literal
from workers.snowflake.owner import Row, shape_text
from workers.snowflake.reshape import mark_of
from workers.snowflake.script import swapped, transaction
from workers.snowflake.sftypes import HISTORY_META, KEYLESS_META, SOFT_META, column_type
from workers.snowflake.window import name_of

FORM = (
    3  # counts what this module and those that it asks make of a shape and a policy: another number makes it all anew
)

log = structlog.get_logger()


def ensure(cursor: Any, opening: OpenTable, objects: Objects, row: Row, applied: int) -> None:
    """Make what the policy offers, if shape or policy changed since `row` was written. The tables have the shape by now."""
    where = f"LANDING_TABLE = {literal(objects.landing)}"
    wanted = digest(opening, objects)
    keeps = opening.policy.history and opening.policy.mode.has_target and bool(opening.table.key)
    if keeps and row.offered and not _is_history(cursor, objects.history_sql):  # somebody has dropped it
        cursor.execute(f"UPDATE {objects.watermark_sql} SET OFFERED = '', HISTORY = 0 WHERE {where}")
        row = replace(row, offered="", history=0)
    if row.offered != wanted:
        _make(cursor, opening, objects)
    if keeps and applied not in (0, row.history):
        _begin_history(cursor, opening, objects, applied)
    if row.offered != wanted:
        cursor.execute(f"UPDATE {objects.watermark_sql} SET OFFERED = {literal(wanted)} WHERE {where}")


def digest(opening: OpenTable, objects: Objects) -> str:
    """What `OFFERED` says of this shape and policy, of where the target is, and of the pipeline's name, which is in comments."""
    made = f"{FORM} {objects.target_sql} {opening.pipeline} {shape_text(opening.table)} {wire.dump(opening.policy)}"
    return hashlib.sha256(made.encode()).hexdigest()


def withdraw(cursor: Any, objects: Objects, row: Row) -> Row:
    """Before the tables get another shape: a joint apply that was written for the older one finds that (`together`). The row then."""
    cursor.execute(f"UPDATE {objects.watermark_sql} SET OFFERED = '' WHERE LANDING_TABLE = {literal(objects.landing)}")
    return replace(row, offered="")


def leave(cursor: Any, opening: OpenTable, objects: Objects, row: Row, applied: int, place: str) -> tuple[int, bool]:
    """Take away what only the policy before (in `row`) needed, and note the new one; how far the target is applied then, and whether it was left
    alone before. EtlError(DESTINATION_SETUP) when the new one needs a change log that is whole and it is not.

    `append` leaves target and watermark as they are: what moves the target again goes on from there. A dynamic table moves the watermark, and no
    target is behind it: another way begins with the whole log."""
    policy, where = opening.policy, f"LANDING_TABLE = {literal(objects.landing)}"
    older = wire.load(ApplyPolicy, row.policy) if row.policy else policy
    if row.policy and older == policy:
        return applied, False
    if policy.mode is ApplyMode.DYNAMIC_TABLE and row.purged == opening.generation:
        reason = f"rows have left {objects.landing}, and a dynamic table needs all of them"
        raise EtlError(
            Kind.DESTINATION_SETUP, place, reason, "use another apply for this table, or have it copied again"
        )
    if older.together and not policy.together:  # nothing is shown together any more
        mark = literal(names.pipeline_mark(opening.pipeline_id))
        cursor.execute(f"DELETE FROM {objects.watermark_sql} WHERE LANDING_TABLE = {mark}")
    if older.mode is ApplyMode.TASK is not policy.mode:
        _run(cursor, task.drop(objects))
    if older.mode is ApplyMode.DYNAMIC_TABLE is not policy.mode:
        _run(cursor, [dynamic.drop(objects)])
        cursor.execute(
            f"UPDATE {objects.watermark_sql} SET APPLIED = 0, FENCE = 0 WHERE {where} AND EPOCH <= {opening.epoch}"
        )
        applied = 0
    if older.cluster_by and not policy.cluster_by and policy.mode.has_target and older.mode.has_target:
        cursor.execute(f"ALTER TABLE {objects.target_sql} DROP CLUSTERING KEY")
    if older.soft and not policy.soft and policy.mode.has_target and opening.table.key:
        cursor.execute(f"DELETE FROM {objects.target_sql} WHERE _ETL_DELETED")
    cursor.execute(f"UPDATE {objects.watermark_sql} SET POLICY = {literal(wire.dump(policy))} WHERE {where}")
    return applied, policy.mode.has_target and not older.mode.has_target


def make_way(cursor: Any, objects: Objects, place: str) -> None:
    """Before a target is made: its name may be what another table's policy offers. EtlError(DESTINATION_SETUP) if that is a history."""
    other = objects.landing.removesuffix(names.LIVE_SUFFIX)
    if other != objects.landing and _policy_of(cursor, objects, other) is not None:
        cursor.execute(f"DROP VIEW IF EXISTS {objects.target_sql}")
    if objects.target.endswith(names.HISTORY_SUFFIX) and _is_history(cursor, objects.target_sql):
        reason = f"{objects.target} is the history of another table"
        raise EtlError(Kind.DESTINATION_SETUP, place, reason, "set apply_history to false there, and rename or drop it")


def _is_history(cursor: Any, table_sql: str) -> bool:
    try:
        cursor.execute(f"SELECT _ETL_FROM_LSN FROM {table_sql} LIMIT 0")
    except ProgrammingError:
        return False
    return True


def _policy_of(cursor: Any, objects: Objects, landing: str) -> ApplyPolicy | None:
    row = cursor.execute(
        f"SELECT POLICY FROM {objects.watermark_sql} WHERE LANDING_TABLE = {literal(landing)}"
    ).fetchone()
    return wire.load(ApplyPolicy, row[0]) if row is not None and row[0] else None


def _make(cursor: Any, opening: OpenTable, objects: Objects) -> None:
    table, policy = opening.table, opening.policy
    place = f"pipeline {opening.pipeline}, table {table.name}"
    for table_sql, note in notes(opening, objects).items():
        cursor.execute(f"COMMENT ON TABLE {table_sql} IS {literal(note)}")
    dead_letter.complete(cursor, objects)  # view, task and dynamic table look for dead rows
    if policy.mode is ApplyMode.DYNAMIC_TABLE:
        cursor.execute(dynamic.create(opening, objects))
    if not policy.mode.has_target:
        return
    _cluster(cursor, opening, objects, place)
    soft = SOFT_META if policy.soft else ()
    for name, kind in soft if table.key else KEYLESS_META:
        cursor.execute(f"ALTER TABLE {objects.target_sql} ADD COLUMN IF NOT EXISTS {name} {kind}")
    if policy.history and table.key:
        if _policy_of(cursor, objects, objects.landing + names.HISTORY_SUFFIX) is not None:
            reason = f"{objects.target}{names.HISTORY_SUFFIX} is the target of another table"
            raise EtlError(Kind.DESTINATION_SETUP, place, reason, "set apply_history to false for this table")
        cursor.execute(_history_table(table, objects))
    if _policy_of(cursor, objects, objects.landing + names.LIVE_SUFFIX) is None:
        cursor.execute(live.view(opening, objects))
    else:
        log.warning("live_view_left_out", place=place, reason="its name is that of another table's target")
    if policy.mode is ApplyMode.TASK:
        _run(cursor, task.create(opening, objects))


def notes(opening: OpenTable, objects: Objects) -> dict[str, str]:
    """What the tables say in Snowflake of what they are and whose: table -> comment."""
    whose = f"{opening.table.name} by ETL Stream, pipeline {opening.pipeline}"
    said = f"{opening.table.comment}\n" if opening.table.comment else ""
    target = {objects.target_sql: f"{said}Current rows of {whose}"} if opening.policy.mode.has_target else {}
    return {objects.landing_sql: f"{said}Change log of {whose}"} | target


def _cluster(cursor: Any, opening: OpenTable, objects: Objects, place: str) -> None:
    """Have Snowflake keep the target sorted. A key that a person has set is left alone."""
    known = {column.name: name_of(column) for column in opening.table.columns}
    wanted = opening.policy.cluster_by
    unknown = [name for name in wanted if name not in known]
    if unknown:
        reason = f"cluster_by names {', '.join(unknown)}, which the table does not have"
        raise EtlError(Kind.DESTINATION_SETUP, place, reason, "correct apply_tables of the pipeline")
    if wanted:
        cursor.execute(f"ALTER TABLE {objects.target_sql} CLUSTER BY ({', '.join(known[name] for name in wanted)})")


def _run(cursor: Any, statements: list[str]) -> None:
    for statement in statements:
        cursor.execute(statement)


def _history_table(table: Table, objects: Objects) -> str:
    columns = [
        f"{name_of(column)} {column_type(column.type)} COMMENT {literal(mark_of(column, table.oid).text)}"
        for column in table.columns
    ]
    meta = [f"{name} {kind}" for name, kind in HISTORY_META]
    return f"CREATE TABLE IF NOT EXISTS {objects.history_sql} ({', '.join([*columns, *meta])})"


def _begin_history(cursor: Any, opening: OpenTable, objects: Objects, applied: int) -> None:
    """The history catches up with the target; under the watermark, so that it happens once and no apply comes between."""
    soft = opening.policy.soft
    update = (
        f"UPDATE {objects.watermark_sql} SET HISTORY = APPLIED WHERE LANDING_TABLE = {literal(objects.landing)}"
        f" AND APPLIED = {applied} AND HISTORY <> APPLIED"
    )
    steps = [
        *swapped(update),
        history.closed(objects, str(applied)),
        history.begun(objects, opening.table.columns, soft=soft),
    ]
    cursor.execute(transaction(steps, "begun"))
