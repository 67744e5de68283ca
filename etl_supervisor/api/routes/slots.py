"""Logical slots of a source's database: listed, made, altered, advanced, dropped.

    whose                                   dropped     failover altered              advanced
    a started pipeline's of this source     no          not off while slot_failover   no: changes would be lost
    this source's, nothing started          yes         not off while slot_failover   no
    another source's of ours                no          no                            no
    nobody's of ours                        yes         yes                           yes

None while somebody reads from it.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from psycopg import sql
from pydantic import BaseModel, Field

from etl_supervisor.api import audit, faults, sessions
from etl_supervisor.api.access import Admin, Viewer
from etl_supervisor.api.bodies import Body, Id
from etl_supervisor.api.control import Control, ControlOf
from etl_supervisor.api.operations import Operation
from etl_supervisor.api.routes.inspection import change, row_of
from etl_supervisor.model import names
from etl_supervisor.repository import desired

PG_VERSION_FAILOVER = 170_000
LONG = (
    "-c statement_timeout=300000"  # a slot waits for open transactions, and one that is advanced reads what is between
)

router = APIRouter(prefix="/sources", tags=["source inspection"])

_SLOTS = """
SELECT slot_name AS name, plugin, active, wal_status, safe_wal_size AS safe_wal_bytes, confirmed_flush_lsn::text AS confirmed, temporary,
       pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
                       restart_lsn)::bigint AS retained_bytes, (to_jsonb(s) ->> 'failover')::boolean AS failover
FROM pg_replication_slots s WHERE slot_type = 'logical' AND database = current_database() ORDER BY 1"""


class Slot(BaseModel):
    """A logical slot of this database. `retained_bytes` is the WAL it holds back; `ours` says that this source reads from it."""

    name: str
    plugin: str | None
    active: bool
    wal_status: str | None
    safe_wal_bytes: int | None
    confirmed: str | None
    temporary: bool
    retained_bytes: int | None
    failover: bool | None = Field(description="Whether standbys keep a copy of it; null before PostgreSQL 17")
    ours: bool


class SlotBody(Body):
    """A slot to be made."""

    name: str | None = Field(None, pattern=r"^[a-z0-9_]{1,63}$", description="The source's own when not given")


class SlotChanges(Body):
    """What PostgreSQL lets one change of a slot."""

    failover: bool = Field(description="Whether standbys keep a copy of it (PostgreSQL 17)")


class AdvanceBody(Body):
    """Where a slot goes: everything before is forgotten."""

    to: str | None = Field(
        None, pattern=r"^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$", description="An LSN; the end of the WAL when not given"
    )


@router.get("/{key}/slots", summary="List logical slots")
def list_slots(key: Id, control: ControlOf, caller: Viewer) -> list[Slot]:
    """Of the source's database."""
    row = row_of(control, caller, key)
    return [_view(found, row) for found in _slots(control, row).values()]


@router.post("/{key}/slots", status_code=202, summary="Make a slot")
def create_slot(key: Id, body: SlotBody, control: ControlOf, caller: Admin) -> Operation:
    """It waits for the transactions that are open. The reader makes its own slot itself: this is for making it beforehand."""
    row = row_of(control, caller, key)
    name = body.name or names.slot(row["replication_id"])

    def work() -> dict[str, Any]:
        with sessions.of_source(control, row, options=LONG) as connection:
            made = connection.execute(
                "SELECT * FROM pg_create_logical_replication_slot(%s, 'pgoutput')", [name]
            ).fetchone()
        assert made is not None
        return {"name": name, "lsn": str(made["lsn"])}

    return control.crew.begin(caller, row["tenant"], ("create slot", f"source {key}, slot {name}"), work)


@router.patch("/{key}/slots/{name}", summary="Alter a slot")
def alter_slot(key: Id, name: str, body: SlotChanges, control: ControlOf, caller: Admin) -> Slot:
    """Refused (409) while somebody reads from it, and where `slot_failover` of the source says otherwise."""
    row = row_of(control, caller, key)
    slot = _idle(control, row, name)
    if slot["failover"] is None:
        raise faults.invalid("failover", f"it needs PostgreSQL {PG_VERSION_FAILOVER // 10_000} or newer")
    _not_anothers(control, row, name)
    if _own(row, name) and row["slot_failover"] and not body.failover:
        raise faults.conflict(f"Slot {name} is as slot_failover of the source says; change that first", slot=name)
    if slot["failover"] != body.failover:
        # A command of replication connections, which take no parameters.
        statement = sql.SQL("ALTER_REPLICATION_SLOT {} (FAILOVER {})").format(
            sql.Identifier(name), sql.SQL("true" if body.failover else "false")
        )
        with sessions.of_source(control, row, replication="database") as connection:
            connection.execute(statement)
        with control.pool.transaction() as connection:
            place = ("Source", f"{key} {row['name']}: {name}")
            changed = ({"failover": slot["failover"]}, {"failover": body.failover})
            audit.note(connection, caller, "alter slot", place, changed, row["tenant"])
    return _view(_slots(control, row)[name], row)


@router.post("/{key}/slots/{name}/advance", status_code=202, summary="Advance a slot")
def advance_slot(key: Id, name: str, body: AdvanceBody, control: ControlOf, caller: Admin) -> Operation:
    """Lets go of the WAL that a slot holds back. Refused (409) for slots of ours: their changes would be lost."""
    row = row_of(control, caller, key)
    _idle(control, row, name)
    if name in desired.slots(control.settings):
        raise faults.conflict(f"Slot {name} is a source's of ours: what it holds would be lost", slot=name)

    def work() -> dict[str, Any]:
        with sessions.of_source(control, row, options=LONG) as connection:
            moved = connection.execute(
                "SELECT end_lsn::text AS lsn FROM pg_replication_slot_advance(%s, coalesce(%s::pg_lsn, pg_current_wal_lsn()))",
                [name, body.to],
            ).fetchone()
        assert moved is not None
        return {"name": name, "lsn": moved["lsn"]}

    return control.crew.begin(caller, row["tenant"], ("advance slot", f"source {key}, slot {name}"), work)


@router.delete("/{key}/slots/{name}", status_code=204, summary="Drop a slot")
def drop_slot(key: Id, name: str, control: ControlOf, caller: Admin) -> None:
    """Refused (409) for the slot of a started pipeline, and one that is read."""
    row = row_of(control, caller, key)
    if name not in _slots(control, row):
        raise faults.not_found("Slot", name)
    _not_anothers(control, row, name)
    if name in _started(control):
        raise faults.conflict(f"Slot {name} is needed by started pipelines; pause them first", slot=name)
    _idle(control, row, name)
    statement = sql.SQL("SELECT pg_drop_replication_slot({})").format(sql.Literal(name))
    change(control, caller, row, [statement], ("drop slot", name, None))


def _slots(control: Control, row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    with sessions.of_source(control, row) as connection:
        return {found["name"]: found for found in connection.execute(_SLOTS).fetchall()}


def _idle(control: Control, row: dict[str, Any], name: str) -> dict[str, Any]:
    """A slot that nobody reads from. Fault 404, 409."""
    found = _slots(control, row).get(name)
    if found is None:
        raise faults.not_found("Slot", name)
    if found["active"]:
        raise faults.conflict(f"Slot {name} is being read; pause its pipelines, or stop its reader, first", slot=name)
    return found


def _not_anothers(control: Control, row: dict[str, Any], name: str) -> None:
    """Fault 409 for a slot of another source of ours, whoever's that is."""
    if not _own(row, name) and name in desired.slots(control.settings):
        raise faults.conflict(f"Slot {name} belongs to another source", slot=name)


def _own(row: dict[str, Any], name: str) -> bool:
    return names.shared_slot(name) == names.slot(row["replication_id"])


def _view(found: dict[str, Any], row: dict[str, Any]) -> Slot:
    return Slot(**found, ours=_own(row, found["name"]))


def _started(control: Control) -> set[str]:
    """The slots that started pipelines read from, of whatever source and tenant: their names are unique."""
    with control.pool.transaction() as connection:
        found = connection.execute(
            "SELECT s.replication_id, p.id FROM app.pipelines p JOIN app.sources s ON s.id = p.source_id WHERE status = 'START'"
        ).fetchall()
    return {names.slot(item["replication_id"], pipeline) for item in found for pipeline in (None, item["id"])}
