"""The watermark row of a table: whose it is, how far the target is, and which shape the tables have.

It is the owner mark: (pipeline, source cluster and slot, table). Another owner is refused, and so is a table
whose rows are under names of another case (`identifier_case` was changed). A slot that was lost to another cluster goes on with the
tables of its former owner, in a new generation.

Its epoch is that of the newest reader: opening a table raises the epochs of all tables of the pipeline, before a row is sent, so an apply that an
older reader has asked for (one that was stopped, and goes on) finds its watermark taken. A reader with an older epoch opens nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc import wire
from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model.table import Table
from workers.snowflake.identifiers import Objects, literal

_COLUMNS = (
    *("LANDING_TABLE", "PIPELINE_ID", "OWNER", "SOURCE_SCHEMA", "SOURCE_TABLE", "PIPELINE"),
    *("GENERATION", "APPLIED", "EPOCH", "SHOWN"),
    *("SHAPE", "SHAPE_SINCE", "POLICY", "OFFERED", "HISTORY", "PURGED"),
)


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far a target is: everything below `applied` (commit_lsn, exclusive) of `generation`; `epoch` is the reader's that moved it, `shown` the
    generation whose rows are in it (0: none)."""

    generation: int
    applied: int
    epoch: int
    shown: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """The rest of the row: the shape and the token from which it holds, the policy, for which of both something is offered; up to where the history
    is, and of which generation rows were purged (0: none)."""

    shape: str = ""
    since: str = ""
    policy: str = ""
    offered: str = ""
    history: int = 0
    purged: int = 0


def shape_text(table: Table) -> str:
    """A shape as the row keeps it: without its version, which counts within one reader's life only."""
    return wire.dump(replace(table, version=0))


def entry(opening: OpenTable, objects: Objects, row: Row) -> str:
    """The row of a table that has none; one statement, so two opens of the same table at the same moment make one."""
    table = opening.table.name
    return (
        f"MERGE INTO {objects.watermark_sql} w USING (SELECT {literal(objects.landing)} AS LANDING_TABLE) s"
        " ON w.LANDING_TABLE = s.LANDING_TABLE WHEN NOT MATCHED THEN INSERT (LANDING_TABLE, PIPELINE_ID, PIPELINE, OWNER,"
        " SOURCE_SCHEMA, SOURCE_TABLE, GENERATION, APPLIED, EPOCH, SHAPE, SHAPE_SINCE, POLICY, OFFERED, FENCE, BASE, SHOWN, HISTORY, PURGED,"
        " COMMITTED_AT, UPDATED_AT)"
        " VALUES (s.LANDING_TABLE,"
        f" {opening.pipeline_id}, {literal(opening.pipeline)}, {literal(opening.owner)}, {literal(table.schema)},"
        f" {literal(table.name)}, {opening.generation}, 0, {opening.epoch}, {literal(row.shape)}, {literal(row.since)},"
        f" {literal(row.policy)}, {literal(row.offered)}, 0, 0, 0, 0, 0, NULL, CURRENT_TIMESTAMP())"
    )


def own(cursor: Any, opening: OpenTable, objects: Objects, place: str) -> tuple[Watermark, Row]:
    """The watermark row: made if there is none, refused if it is another's, moved on for a new generation."""
    where = f"LANDING_TABLE = {literal(objects.landing)}"
    found = _read(cursor, opening, objects, place)
    if found is None:
        cursor.execute(entry(opening, objects, Row()))
        found = _read(cursor, opening, objects, place)
        assert found is not None
    owner, mark, row = found
    if mark.epoch > opening.epoch:
        reason = f"epoch {opening.epoch} is not the newest ({mark.epoch}): another reader has taken the pipeline over"
        raise EtlError(Kind.STREAM, place, reason, "this one ends; if there is no other, check this machine's clock")
    if mark.generation > opening.generation:
        reason = f"{objects.landing} is in generation {mark.generation}, later than ours ({opening.generation})"
        raise EtlError(Kind.DESTINATION_SETUP, place, reason, "check this machine's clock, then copy the source again")
    if mark.generation < opening.generation or owner != opening.owner:
        cursor.execute(
            f"UPDATE {objects.watermark_sql} SET GENERATION = {opening.generation}, APPLIED = 0, FENCE = 0, HISTORY = 0, OFFERED = '',"
            f" OWNER = {literal(opening.owner)}, EPOCH = {opening.epoch}"
            f" WHERE {where} AND GENERATION = {mark.generation} AND EPOCH <= {opening.epoch}"
        )
        return Watermark(opening.generation, 0, mark.epoch, mark.shown), replace(row, history=0, offered="")
    return mark, row


def take_over(cursor: Any, opening: OpenTable, objects: Objects) -> None:
    """From now on no older reader's apply moves any table of the pipeline."""
    cursor.execute(
        f"UPDATE {objects.watermark_sql} SET EPOCH = {opening.epoch}"
        f" WHERE PIPELINE_ID = {opening.pipeline_id} AND EPOCH < {opening.epoch}"
    )


def _read(cursor: Any, opening: OpenTable, objects: Objects, place: str) -> tuple[str, Watermark, Row] | None:
    """Owner, watermark and the rest, in one question with that for rows of this table under another name. EtlError(DESTINATION_SETUP) when the
    landing table is another table's, or this table's rows are in another one."""
    table = opening.table.name
    ours = (opening.pipeline_id, table.schema, table.name)
    rows = cursor.execute(
        f"SELECT {', '.join(_COLUMNS)} FROM {objects.watermark_sql}"
        f" WHERE LANDING_TABLE = {literal(objects.landing)} OR (PIPELINE_ID = {opening.pipeline_id}"
        f" AND SOURCE_SCHEMA = {literal(table.schema)} AND SOURCE_TABLE = {literal(table.name)})"
    ).fetchall()
    found = None
    for there in (dict(zip(_COLUMNS, row, strict=True)) for row in rows):
        whose = (int(there["PIPELINE_ID"]), there["SOURCE_SCHEMA"], there["SOURCE_TABLE"])
        if whose == ours:
            _check_case(opening, objects, there["LANDING_TABLE"], there["SHAPE"], place)
        if there["LANDING_TABLE"] != objects.landing:
            continue
        if whose != ours or there["OWNER"] not in (opening.owner, opening.former):
            reason = f"{objects.landing} belongs to table {whose[1]}.{whose[2]} of pipeline {there['PIPELINE']}"
            remedy = "use another landing schema and schema for this pipeline"
            raise EtlError(Kind.DESTINATION_SETUP, place, reason, remedy)
        mark = Watermark(*(int(there[name] or 0) for name in ("GENERATION", "APPLIED", "EPOCH", "SHOWN")))
        shape, since, policy, offered = (there[name] or "" for name in ("SHAPE", "SHAPE_SINCE", "POLICY", "OFFERED"))
        row = Row(shape, since, policy, offered, int(there["HISTORY"] or 0), int(there["PURGED"] or 0))
        found = there["OWNER"], mark, row
    return found


def _check_case(opening: OpenTable, objects: Objects, landing: str, shape: str, place: str) -> None:
    """The rows of this table are under names of the same case."""
    columns = zip(wire.load(Table, shape).columns if shape else (), opening.table.columns, strict=False)
    if landing != objects.landing or any(there.keeps_case != now.keeps_case for there, now in columns):
        reason = f"its rows are in {landing}, whose names have another case"
        remedy = (
            "set identifier_case of the destination back, or use another destination with a landing schema of its own"
        )
        raise EtlError(Kind.DESTINATION_SETUP, place, reason, remedy)
