"""Dead rows listed, replayed and dropped: what the command line does with `_ETL_DEAD_LETTER`.

A replayed row takes its own place in the change log, so later changes keep their precedence. Its place is below the watermark (the apply has
passed it), so its target rows are then derived anew from the log, in one block that looks at the watermark first:

    its key's rows, and truncates              when no key of the table ever changed
    all rows of the generation                 else: a row's value may have come from another key

Before the watermark has passed it a row is not replayed: an apply may be on its way whose survey does not know it. A table without a key has
no target; its rows go into the log and that is all. A row of an older generation was overtaken by a copy of the whole table.

Every step may come twice: the row is merged into the log by its position, and leaves the dead letter in the block that changes the target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import orjson
from snowflake.connector.errors import Error, ProgrammingError

from etl_supervisor.errors import Kind
from etl_supervisor.model import names
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.model.table import Column, Table, TableName
from etl_supervisor.model.types import ValueKind, ValueType
from workers.snowflake import apply as applying
from workers.snowflake.connection import classify
from workers.snowflake.ddl import DOES_NOT_EXIST
from workers.snowflake.identifiers import Objects, literal, quoted
from workers.snowflake.sftypes import LANDING_META

_LISTED = (
    "ID, PIPELINE, SOURCE_TABLE, LANDING_TABLE, GENERATION, COMMIT_LSN, LSN, ORDINAL, OP, ROW_KEY, REASON,"
    " COLUMN_NAME, BYTES, LEFT_OUT, DEAD_AT"
)


class Outcome(StrEnum):
    """What became of a dead row; only `replayed` takes it out of the dead letter."""

    REPLAYED = "replayed"
    INCOMPLETE = "values are left out of it: write them once more in the source, then drop it"
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
    keys: tuple[str, ...]
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
                yield dead.id, _replay(cursor, dead)
        except ProgrammingError:
            yield dead.id, Outcome.REFUSED
        except Error as error:
            raise classify(error, f"destination {destination.name}", Kind.APPLY) from None


def _replay(cursor: Any, dead: Dead) -> Outcome:
    if dead.left_out:
        return Outcome.INCOMPLETE
    objects = dead.objects
    generation, applied = cursor.execute(
        f"SELECT GENERATION, APPLIED FROM {objects.watermark_sql} WHERE LANDING_TABLE = {literal(objects.landing)}"
    ).fetchone()
    if int(generation) != dead.generation:
        return Outcome.OVERTAKEN
    if dead.keys and int(applied) <= dead.position[0]:
        return Outcome.TOO_EARLY
    columns = _columns(cursor, objects)
    cursor.execute(_land(dead, columns))
    forget = f"DELETE FROM {objects.dead_letter_sql} WHERE ID = {literal(dead.id)}"
    if not dead.keys:
        cursor.execute(forget)
        return Outcome.REPLAYED
    steps = [
        f"UPDATE {objects.watermark_sql} SET UPDATED_AT = CURRENT_TIMESTAMP() WHERE LANDING_TABLE = {literal(objects.landing)}"
        f" AND GENERATION = {dead.generation} AND APPLIED = {int(applied)}",
        f"IF (SQLROWCOUNT <> 1) THEN\n    ROLLBACK;\n    RETURN '{applying.MOVED}';\n  END IF",
        *_derive(cursor, dead, columns, int(applied)),
        forget,
    ]
    (outcome,) = cursor.execute(applying.transaction(steps, "replayed")).fetchone()
    return Outcome.TOO_EARLY if outcome == applying.MOVED else Outcome.REPLAYED


def _land(dead: Dead, columns: dict[str, str]) -> str:
    """The row into the log, unless it is there."""
    objects = dead.objects
    values = ", ".join(f"{_member(name, kind)} AS {quoted(name)}" for name, kind in columns.items())
    names_ = ", ".join(map(quoted, columns))
    same = " AND ".join(f"l.{name} = s.{name}" for name in ("_ETL_GENERATION", *applying.POSITION))
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


def _derive(cursor: Any, dead: Dead, columns: dict[str, str], applied: int) -> list[str]:
    """The MERGE that brings the target's rows to what the log says."""
    objects = dead.objects
    window = applying.window_of(dead.generation, 0, applied)
    if not applying.survey(cursor, objects, window).moves:
        here = " AND ".join(f"{name} = {value}" for name, value in zip(applying.POSITION, dead.position, strict=True))
        mine = f"SELECT %s FROM {objects.landing_sql} WHERE _ETL_GENERATION = {dead.generation} AND {here}"
        same = " AND ".join(f"{quoted(key)} = ({mine % quoted(key)})" for key in dead.keys)
        window += f" AND (_ETL_OP = 'T' OR ({same}))"
    found = applying.survey(cursor, objects, window)
    return [applying.merge(_table(columns, dead, found), objects, window, found)] if found.rows else []


def _table(columns: dict[str, str], dead: Dead, found: applying.Survey) -> Table:
    """The table's shape, as far as a MERGE needs it. The log's texts name columns as the source does."""
    meta = {name for name, _ in LANDING_META}
    source = {names.column(name): name for name in found.unchanged}
    any_type = ValueType(ValueKind.TEXT)
    made = (Column(source.get(name, name), any_type, key=name in dead.keys) for name in columns if name not in meta)
    return Table(TableName("", dead.objects.landing), 0, tuple(made))


def _columns(cursor: Any, objects: Objects) -> dict[str, str]:
    cursor.execute(f"DESCRIBE TABLE {objects.landing_sql}")
    titles = [item[0].lower() for item in cursor.description]
    name, kind = titles.index("name"), titles.index("type")
    return {row[name]: row[kind] for row in cursor.fetchall()}


def _dead(destination: Destination, row: dict[str, Any]) -> Dead:
    keys = tuple(names.column(name) for name in orjson.loads(row["row_key"]))
    position = (int(row["commit_lsn"]), int(row["lsn"]), int(row["ordinal"]))
    objects = _objects(destination, row["landing_table"])
    return Dead(row["id"], objects, int(row["generation"]), position, keys, row["left_out"] is not None)


def _objects(destination: Destination, landing: str) -> Objects:
    return Objects(
        destination.database.upper(),
        destination.schema.upper(),
        destination.landing_schema.upper(),
        landing.removeprefix(names.LANDING_PREFIX),
        landing,
    )
