"""What a window does to the tables of a policy, in order: target, history, rows that are equal.

The statements hold for windows whose rows are known and for those that are not known yet (a task's): what a window does not have, they do not find.
"""

from __future__ import annotations

from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model.table import Column
from etl_supervisor.model.types import ValueKind
from workers.snowflake import history, keyless, target
from workers.snowflake.identifiers import Objects
from workers.snowflake.window import Window, name_of

# Kinds whose order is the same here and there and that have no values beside their column.
_ORDERED = {
    ValueKind.INT16: "NUMBER",
    ValueKind.INT32: "NUMBER",
    ValueKind.INT64: "NUMBER",
    ValueKind.TEXT: "VARCHAR",
    ValueKind.UUID: "VARCHAR",
}


def first(opening: OpenTable, objects: Objects, start: str) -> list[str]:
    """What comes before the first window of a generation."""
    policy, keyed = opening.policy, bool(opening.table.key)
    closed = [history.closed(objects, start)] if policy.history and keyed else []
    return [*closed, target.emptied(objects.target_sql, soft=policy.soft and keyed)]


def moved(opening: OpenTable, objects: Objects, window: Window) -> list[str]:
    """What a window does."""
    policy = opening.policy
    if not opening.table.key:
        return [*([target.truncated(window, soft=False)] if window.truncates else []), keyless.merge(window)]
    steps = history.steps(window, objects) if policy.history else []
    if window.truncates:
        steps.append(target.truncated(window, soft=policy.soft))
    limits, between = pruned(window)
    return [*limits, *steps, target.merge(window, soft=policy.soft, between=between)]


def pruned(window: Window) -> tuple[list[str], str]:
    """Variables with the first and last key of a window, and the condition that lets Snowflake skip the target's other partitions."""
    leading: Column = next(column for column in window.columns if column.key)
    kind = _ORDERED.get(leading.type.kind)
    if kind is None:
        return [], ""
    name = name_of(leading)
    limits = [
        f"LET {variable} {kind} := (SELECT {function}({name}) FROM {window.source})"
        for variable, function in (("first_key", "MIN"), ("last_key", "MAX"))
    ]
    return limits, f" AND t.{name} BETWEEN :first_key AND :last_key"
