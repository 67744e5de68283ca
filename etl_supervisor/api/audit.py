"""The audit log: who changed what, before and after. Written in the transaction of the change, so it has what happened and nothing else.

Of secrets it keeps whether there was one, and that it was replaced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from psycopg.types.json import Jsonb

from etl_supervisor.api.caller import Caller
from etl_supervisor.api.pool import Connection

if TYPE_CHECKING:
    from etl_supervisor.api.rows import Entity

MASK = "***"
NEW_MASK = "*** (new)"
NO_TENANT = ""
_IN_ORDER = 0x4554_4C41  # an advisory lock: entries are numbered in the order in which they can be seen, so a follower misses none
_LEFT_OUT = frozenset({"_version", "updated_at"})


def write(
    connection: Connection,
    caller: Caller,
    action: str,
    entity: Entity,
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
) -> None:
    """A change of a row: whole when it was made or deleted, else the columns that differ."""
    row = after or before
    assert row is not None
    old, new = _masked(entity, before, None), _masked(entity, after, before)
    if old is not None and new is not None:
        differs = [key for key in new if new[key] != old.get(key)]
        old, new = {key: old.get(key) for key in differs}, {key: new[key] for key in differs}
    note(connection, caller, action, (entity.name, f"{row['id']} {row['name']}"), (old, new), row.get("tenant"))


def note(
    connection: Connection,
    caller: Caller,
    action: str,
    what: tuple[str, str],
    change: tuple[dict[str, Any] | None, dict[str, Any] | None] = (None, None),
    tenant: str | None = None,
) -> None:
    """Anything that was done: to `what` (kind, name), with what was before and after. No secrets."""
    connection.execute("SELECT pg_advisory_xact_lock(%s)", [_IN_ORDER])
    values = [None if part is None else Jsonb(part, _dumps) for part in change]
    connection.execute(
        "INSERT INTO app.audit_log (who, tenant, action, entity, entity_id, before, after) VALUES (%s, %s, %s, %s, %s, %s, %s)",
        [caller.name, tenant or caller.tenant or NO_TENANT, action, *what, *values],
    )


def listed(
    connection: Connection, caller: Caller, after: int, limit: int, *, newest_first: bool = True
) -> list[dict[str, Any]]:
    """Entries of the caller's tenant, beyond the entry `after` (0: from the beginning)."""
    order, beyond = ("DESC", "<") if newest_first else ("ASC", ">")
    return connection.execute(
        "SELECT id, at, who, tenant, action, entity, entity_id, before, after FROM app.audit_log"
        f" WHERE (%(tenant)s::text IS NULL OR tenant = %(tenant)s) AND (%(after)s = 0 OR id {beyond} %(after)s)"
        f" ORDER BY id {order} LIMIT %(limit)s".encode(),
        {"tenant": caller.tenant, "after": after, "limit": limit},
    ).fetchall()


def _masked(entity: Entity, row: dict[str, Any] | None, other: dict[str, Any] | None) -> dict[str, Any] | None:
    if row is None:
        return None
    shown = {key: value for key, value in row.items() if key not in _LEFT_OUT}
    for key in entity.secrets:
        if shown[key] is not None:
            shown[key] = NEW_MASK if other is not None and other[key] != shown[key] else MASK
    return shown


def _dumps(value: object) -> bytes:
    return orjson.dumps(value, default=str)
