"""A table of which nothing is there yet: made by one block, one round trip.

    target, landing table, live view, watermark row     each CREATE without IF NOT EXISTS

What is there already, or a policy that needs more than these, is `ddl`'s, which looks first. A block that fails or dies halfway leaves objects
without a watermark row: the next open looks at them and goes on. The row comes last and says that all is made. Of two blocks of one table at the
same moment the second fails at its first CREATE. A row of another owner that came meanwhile is left alone, and `ddl` refuses the table.
"""

from __future__ import annotations

from typing import Any

from etl_supervisor.ipc import wire
from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model.apply_policy import ApplyMode
from etl_supervisor.model.table import Column, Table
from workers.snowflake import live, offers, owner
from workers.snowflake.identifiers import Objects, literal, quoted
from workers.snowflake.reshape import Mark, mark_of
from workers.snowflake.script import plain
from workers.snowflake.sftypes import KEYLESS_META, LANDING_META, SOFT_META, TARGET_META, column_type

MADE = "made"
_MODES = (ApplyMode.MERGE, ApplyMode.VIEW, ApplyMode.APPEND)


def is_simple(opening: OpenTable) -> bool:
    """True when the policy needs nothing beyond what the block makes."""
    policy = opening.policy
    return policy.mode in _MODES and not policy.history and not policy.cluster_by


def make(cursor: Any, opening: OpenTable, objects: Objects) -> bool:
    """Make everything; False when the table has a watermark row after all. The connector's error when something else is there."""
    (outcome,) = cursor.execute(block(opening, objects)).fetchone()
    return bool(outcome == MADE)


def block(opening: OpenTable, objects: Objects) -> str:
    """The whole of it as one statement."""
    notes = offers.notes(opening, objects)
    tables = [create_landing(opening.table, objects, notes[objects.landing_sql])]
    if opening.policy.mode.has_target:
        tables.insert(0, create_target(opening, objects, notes[objects.target_sql]))
        tables.append(live.view(opening, objects, replaces=False))
    row = owner.Row(
        owner.shape_text(opening.table), opening.since, wire.dump(opening.policy), offers.digest(opening, objects)
    )
    entered = [owner.entry(opening, objects, row), "IF (SQLROWCOUNT <> 1) THEN\n    RETURN 'known';\n  END IF"]
    return plain([*tables, *entered], MADE)


def create_landing(table: Table, objects: Objects, note: str = "", *, once: str = "") -> str:
    """CREATE TABLE of the change log; `note` is its comment, `once` may be IF NOT EXISTS."""
    meta = [f"{name} {kind}" for name, kind in LANDING_META]
    columns = ", ".join([*meta, *_definitions(table)])
    text = f"CREATE TRANSIENT TABLE {once} {objects.landing_sql} ({columns}) DATA_RETENTION_TIME_IN_DAYS = 0"
    return f"{text} COMMENT = {literal(note)}" if note else text


def create_target(opening: OpenTable, objects: Objects, note: str = "", *, once: str = "") -> str:
    """CREATE TABLE of the current rows."""
    soft = SOFT_META if opening.policy.soft else ()
    meta = (*TARGET_META, *(soft if opening.table.key else KEYLESS_META))
    columns = ", ".join([*_definitions(opening.table), *(f"{name} {kind}" for name, kind in meta)])
    text = f"CREATE TABLE {once} {objects.target_sql} ({columns})"
    return f"{text} COMMENT = {literal(note)}" if note else text


def columns_of(table: Table) -> list[tuple[str, str]]:
    """(name, type as it is asked for) of the columns that are the source's."""
    return [(column.landed, column_type(column.type)) for column in table.columns]


def definition(column: Column, mark: Mark) -> str:
    """A column in CREATE or ADD COLUMN."""
    return f"{quoted(column.landed)} {column_type(column.type)} COMMENT {literal(mark.text)}"


def _definitions(table: Table) -> list[str]:
    return [definition(column, mark_of(column, table.oid)) for column in table.columns]
