"""Dead rows listed, replayed and dropped: what the command line does with `_ETL_DEAD_LETTER`.

A replayed row takes its own place in the change log, so later changes keep their precedence. Its place is below the watermark (the apply has
passed it), so its target rows are then derived anew from the log, in one block that looks at the watermark first:

    its key's rows, and truncates              when no key of the table ever changed
    all rows of the generation                 else: a row's value may have come from another key
    the rows of its value, and truncates       in a table without a key: as many as the log leaves

The versions of these keys in a history are made again too. Both need a log that is whole: where rows have left it (`PURGED`), a table without a key
gets one row more or one less, and a history keeps the versions that it has.

Before the watermark has passed it a row is not replayed: an apply may be on its way whose survey does not know it. Where the policy has no target,
rows go into the log and that is all. A row of an older generation was overtaken by a copy of the whole table; one of another shape has members that
are no columns any more, or lacks some: nobody can say what they would hold.

Every step may come twice: the row is merged into the log by its position, and leaves the dead letter in the block that changes the target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import orjson
from snowflake.connector.errors import Error, ProgrammingError

from etl_supervisor.errors import Kind
from etl_supervisor.ipc import wire
from etl_supervisor.model.apply_policy import ApplyPolicy
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.model.table import Table
from workers.snowflake import apply as applying
from workers.snowflake import history, keyless, target
from workers.snowflake.connection import DOES_NOT_EXIST, classify
from workers.snowflake.identifiers import Objects, literal, objects_of, quoted
from workers.snowflake.script import MOVED, swapped, transaction
from workers.snowflake.sftypes import LANDING_META, column_type
from workers.snowflake.window import POSITION, key_of

_LISTED = (
    "ID, PIPELINE, SOURCE_TABLE, LANDING_TABLE, GENERATION, COMMIT_LSN, LSN, ORDINAL, OP, ROW_KEY, REASON,"
    " COLUMN_NAME, BYTES, LEFT_OUT, DEAD_AT"
)


class Outcome(StrEnum):
    """What became of a dead row; only `replayed` takes it out of the dead letter."""

    REPLAYED = "replayed"
    INCOMPLETE = "values are left out of it: write them once more in the source, then drop it"
    RESHAPED = "the table has other columns since: write the row once more in the source, then drop it"
    OVERTAKEN = "the table was copied since: drop it"
    TOO_EARLY = "the target has not come so far: try again after the next apply"
    REFUSED = "Snowflake refuses it still"


@dataclass(frozen=True, slots=True)
class Dead:
    """The head of a dead row."""

    id: str
    objects: Objects
    generation: int
    position: tuple[int, int, int]
    left_out: bool


def listed(connection: Any, destination: Destination, pipeline: str | None) -> list[dict[str, Any]]:
    """The heads of the dead rows in a destination, oldest first; by column name."""
    where = "PART = 0" + (f" AND PIPELINE = {literal(pipeline)}" if pipeline is not None else "")
    table = _objects(destination, "").dead_letter_sql
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT {_LISTED} FROM {table} WHERE {where} ORDER BY DEAD_AT, COMMIT_LSN, LSN, ORDINAL")
            titles = [item[0].lower() for item in cursor.description]
            return [dict(zip(titles, row, strict=True)) for row in cursor.fetchall()]
    except ProgrammingError as error:
        if error.errno == DOES_NOT_EXIST:  # nothing ever died here
            return []
        raise classify(error, f"destination {destination.name}", Kind.DESTINATION_SETUP) from None
    except Error as error:
        raise classify(error, f"destination {destination.name}", Kind.DESTINATION_SETUP) from None


def drop(connection: Any, destination: Destination, ids: Sequence[str]) -> None:
    """Forget these rows."""
    table = _objects(destination, "").dead_letter_sql
    try:
        with connection.cursor() as cursor:
            for name in ids:
                cursor.execute(f"DELETE FROM {table} WHERE ID = {literal(name)}")
    except Error as error:
        raise classify(error, f"destination {destination.name}", Kind.DESTINATION_SETUP) from None


def replay(connection: Any, destination: Destination, rows: Sequence[dict[str, Any]]) -> Iterator[tuple[str, Outcome]]:
    """Bring rows of `listed` to their place, one after another; what became of each."""
    for row in rows:
        dead = _dead(destination, row)
        try:
            with connection.cursor() as cursor:
                yield dead.id, _replay(cursor, destination, dead)
        except ProgrammingError:
            yield dead.id, Outcome.REFUSED
        except Error as error:
            raise classify(error, f"destination {destination.name}", Kind.APPLY) from None


def _replay(cursor: Any, destination: Destination, dead: Dead) -> Outcome:
    objects = dead.objects
    generation, applied, shape, policy_text, base, purged = cursor.execute(
        f"SELECT GENERATION, APPLIED, SHAPE, POLICY, BASE, PURGED FROM {objects.watermark_sql} WHERE LANDING_TABLE = {literal(objects.landing)}"
    ).fetchone()
    table, applied = wire.load(Table, shape), int(applied)
    objects = replace(objects_of(destination, table), landing=objects.landing)
    dead = replace(dead, objects=objects)
    policy = wire.load(ApplyPolicy, policy_text)
    if int(generation) != dead.generation:
        return Outcome.OVERTAKEN
    if dead.left_out:
        return Outcome.INCOMPLETE
    if (
        _members(cursor, dead) | dict(LANDING_META).keys() != _columns(table).keys()
    ):  # its line has no empty fields of ours
        return Outcome.RESHAPED
    if policy.mode.has_target and applied <= dead.position[0]:
        return Outcome.TOO_EARLY
    cursor.execute(_land(dead, _columns(table)))
    forget = f"DELETE FROM {objects.dead_letter_sql} WHERE ID = {literal(dead.id)}"
    if not policy.mode.has_target:
        cursor.execute(forget)
        return Outcome.REPLAYED
    update = (
        f"UPDATE {objects.watermark_sql} SET UPDATED_AT = CURRENT_TIMESTAMP() WHERE LANDING_TABLE = {literal(objects.landing)}"
        f" AND GENERATION = {dead.generation} AND APPLIED = {applied}"
    )
    log = _Log(table, policy, int(base), applied, whole=int(purged) != dead.generation)
    steps = [*swapped(update), forget, *_derive(cursor, dead, log)]
    (outcome,) = cursor.execute(transaction(steps, "replayed")).fetchone()
    return Outcome.TOO_EARLY if outcome == MOVED else Outcome.REPLAYED


def _members(cursor: Any, dead: Dead) -> set[str]:
    """The columns that the payload has; a position column that it leaves out is NULL."""
    cursor.execute(f"SELECT PAYLOAD FROM {dead.objects.dead_letter_sql} WHERE ID = {literal(dead.id)} ORDER BY PART")
    return {*orjson.loads("".join(text for (text,) in cursor.fetchall())), *dict(LANDING_META)}


def _columns(table: Table) -> dict[str, str]:
    """The landing table's columns with their types."""
    return dict(LANDING_META) | {column.landed: column_type(column.type) for column in table.columns}


def _land(dead: Dead, columns: dict[str, str]) -> str:
    """The row into the log, unless it is there."""
    objects = dead.objects
    values = ", ".join(f"{_member(name, kind)} AS {quoted(name)}" for name, kind in columns.items())
    names_ = ", ".join(map(quoted, columns))
    same = " AND ".join(f"l.{name} = s.{name}" for name in ("_ETL_GENERATION", *POSITION))
    return (
        f"MERGE INTO {objects.landing_sql} l USING (SELECT {values} FROM (SELECT PARSE_JSON(LISTAGG(PAYLOAD, '')"
        f" WITHIN GROUP (ORDER BY PART)) AS J FROM {objects.dead_letter_sql} WHERE ID = {literal(dead.id)}) q) s ON {same}"
        f" WHEN NOT MATCHED THEN INSERT ({names_}) VALUES ({', '.join(f's.{quoted(name)}' for name in columns)})"
    )


def _member(name: str, kind: str) -> str:
    """A member of the payload as the column's type; the forms are those of `ndjson`."""
    value = f"J:{quoted(name)}"
    if kind.startswith("VARIANT"):
        return f"STRIP_NULL_VALUE({value})"
    if kind.startswith("BINARY"):
        return f"TO_BINARY({value}::VARCHAR, 'BASE64')"
    return f"{value}::VARCHAR::{kind}"


@dataclass(frozen=True, slots=True)
class _Log:
    """The rows from which a target is derived: of the table's generation, from `base` to `applied`; `whole`: all of them are there."""

    table: Table
    policy: ApplyPolicy
    base: int
    applied: int
    whole: bool


def _derive(cursor: Any, dead: Dead, log: _Log) -> list[str]:
    """What brings the target's rows, and their versions, to what the log says."""
    objects, table = dead.objects, log.table
    rows = applying.window_of(dead.generation, log.base, log.applied)
    others = applying.dead_before(objects, dead.generation, log.applied)
    here = " AND ".join(f"{name} = {value}" for name, value in zip(POSITION, dead.position, strict=True))
    own = f"FROM {objects.landing_sql} WHERE _ETL_GENERATION = {dead.generation} AND {here}"
    same = "TRUE"
    if not table.key:
        same = keyless.same_value(table.columns, own)
        rows += f" AND (_ETL_OP = 'T' OR ({same}))" if log.whole else f" AND {here}"
    elif not applying.survey(cursor, objects, rows, others).moves:
        same = " AND ".join(f"{part} = (SELECT {part} {own})" for part in key_of(table.columns))
        rows += f" AND (_ETL_OP = 'T' OR ({same}))"
    found = applying.survey(cursor, objects, rows, others)
    if not found.rows:
        return []
    window = applying.surveyed(table, objects, rows, others, found)
    if not table.key:
        anew = [f"DELETE FROM {objects.target_sql} WHERE {same}"] if log.whole else []
        return [*anew, keyless.merge(window)]
    versions = history.remade(window, objects, log.base, same) if log.policy.history and log.whole else []
    return [*versions, target.merge(window, soft=log.policy.soft)]


def _dead(destination: Destination, row: dict[str, Any]) -> Dead:
    position = (int(row["commit_lsn"]), int(row["lsn"]), int(row["ordinal"]))
    objects = _objects(destination, row["landing_table"])
    return Dead(row["id"], objects, int(row["generation"]), position, row["left_out"] is not None)


def _objects(destination: Destination, landing: str) -> Objects:
    """What the landing schema has of a table whose shape, and so its target, is not known yet."""
    schema = destination.schema.upper()
    return Objects(destination.database.upper(), schema, destination.landing_schema.upper(), "", landing)
