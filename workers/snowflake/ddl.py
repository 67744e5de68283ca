"""Makes a table's objects what they have to be: schemas, landing table, target, watermark; brings them to a table's shape.

One look (DESCRIBE of both tables), then only what `reshape.plan` says. Every step is idempotent, so it may run twice or be cut off anywhere: the
next open goes on. A column added with a default gets it in every row that is there at that moment, landed or applied (the actor calls this only when
everything sent under the older shape is durable).

The watermark row is the owner mark: (pipeline, source cluster and slot, table). Another owner is refused, and so is a table whose rows are under
names of another case (`identifier_case` was changed). It also keeps the shape and the token from
which it holds: a shape of an earlier place (a stream that begins again, or the catalog at a reader's start) changes nothing, and what
the caller works with is the shape that is there.

Neither table has constraints: keys are dropped and become nullable in the source, and Snowflake would refuse rows for an old one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, assert_never

import orjson
import structlog
from snowflake.connector.errors import Error, ProgrammingError

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc import wire
from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model.table import Column, Table
from etl_supervisor.model.types import is_special
from workers.snowflake import marks, offers
from workers.snowflake.connection import DOES_NOT_EXIST, NO_SUCH_COLUMN, classify
from workers.snowflake.identifiers import Objects, check_columns, literal, objects_of, quoted
from workers.snowflake.ndjson import constant
from workers.snowflake.reshape import Add, Fill, Mark, Present, Remark, Rename, Step, Widen, mark_of, plan
from workers.snowflake.sftypes import HISTORY_META, KEYLESS_META, LANDING_META, SOFT_META, TARGET_META, column_type

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far a target is: everything below `applied` (commit_lsn, exclusive) of `generation`; `epoch` is the reader's that moved it, `shown` the
    generation whose rows are in it (0: none)."""

    generation: int
    applied: int
    epoch: int
    shown: int = 0


@dataclass(frozen=True, slots=True)
class Ensured:
    """What an open found or made: the watermark, and the shape that the tables have."""

    watermark: Watermark
    table: Table


def ensure(connection: Any, opening: OpenTable) -> Ensured:
    """Create or alter what is needed. EtlError(SCHEMA, DESTINATION_SETUP, …) when it can't be."""
    place = f"pipeline {opening.pipeline}, table {opening.table.name}"
    check_columns(opening.table)
    objects = objects_of(opening.destination, opening.table)
    try:
        with connection.cursor() as cursor:
            return _ensure(cursor, opening, objects, place)
    except Error as error:
        raise classify(error, place, Kind.DESTINATION_SETUP) from None


def column_types(connection: Any, opening: OpenTable) -> list[tuple[str, str]]:
    """(name, type as Snowflake describes it) of the landing table's columns."""
    objects = objects_of(opening.destination, opening.table)
    try:
        with connection.cursor() as cursor:
            cursor.execute(f"DESCRIBE TABLE {objects.landing_sql}")
            titles = [item[0].lower() for item in cursor.description]
            name, kind = titles.index("name"), titles.index("type")
            return [(row[name], row[kind]) for row in cursor.fetchall()]
    except Error as error:
        raise classify(error, f"pipeline {opening.pipeline}", Kind.DESTINATION_SETUP) from None


def _ensure(cursor: Any, opening: OpenTable, objects: Objects, place: str) -> Ensured:
    landing = _described(cursor, objects.landing_sql)
    if landing is None:
        _create_schema(cursor, objects, objects.landing_schema)
        cursor.execute(marks.create(objects))
    try:
        watermark, shape, since = _own(cursor, opening, objects, place)
    except ProgrammingError as error:
        if error.errno not in NO_SUCH_COLUMN:
            raise
        marks.complete(cursor, objects)
        watermark, shape, since = _own(cursor, opening, objects, place)
    applied, alone = offers.leave(cursor, opening, objects, watermark.applied, place)
    watermark = replace(watermark, applied=applied)
    aims = opening.policy.mode.has_target
    if landing is None and aims:
        offers.make_way(cursor, objects, place)
    target = _described(cursor, objects.target_sql) if aims else []
    if watermark.applied and (landing is None or target is None):
        watermark = _begin_again(cursor, objects, watermark, place, log_is_there=landing is not None)
    if landing is None or target is None:
        _create(cursor, opening.table, objects, aims=aims)
        log.info("EnsureTableInitialized", pipeline=opening.pipeline, landing=objects.landing, target=objects.target)
        landing = landing or _described(cursor, objects.landing_sql) or []
        target = target or (aims and _described(cursor, objects.target_sql)) or []
    known = bool(shape) and opening.since <= since
    table = replace(wire.load(Table, shape), version=opening.table.version) if known else opening.table
    if not known or alone:  # a target that was left alone has an older shape than the log
        offers.withdraw(cursor, objects)
        for table_sql, present, landed in _shaped(cursor, opening, objects, landing, target):
            for step in plan(present, table):
                _take(cursor, table_sql, step, landed=landed)
                log.info("table_altered", place=place, table=table_sql, step=_told(step))
    if not known:
        _keep_shape(cursor, opening, objects)
    offers.ensure(cursor, replace(opening, table=table), objects, watermark.applied)
    return Ensured(watermark, table)


def _begin_again(cursor: Any, objects: Objects, watermark: Watermark, place: str, *, log_is_there: bool) -> Watermark:
    """A table that somebody has dropped. The target is made again of the whole change log; EtlError(DESTINATION_SETUP) when that is not there."""
    where = f"LANDING_TABLE = {literal(objects.landing)}"
    (purged,) = cursor.execute(f"SELECT PURGED FROM {objects.watermark_sql} WHERE {where}").fetchone()
    if not log_is_there or int(purged) == watermark.generation:
        reason = f"{objects.target} is gone, and rows have left {objects.landing}"
        if not log_is_there:
            reason = f"{objects.landing} is gone, with changes that may not be applied"
        raise EtlError(Kind.DESTINATION_SETUP, place, reason, "undrop it, or have the table copied again")
    cursor.execute(f"UPDATE {objects.watermark_sql} SET APPLIED = 0, FENCE = 0 WHERE {where}")
    log.warning("target_made_again", place=place, target=objects.target)
    return replace(watermark, applied=0)


def _shaped(
    cursor: Any, opening: OpenTable, objects: Objects, landing: list[Present], target: list[Present]
) -> Iterator[tuple[str, list[Present], bool]]:
    """The tables that have the shape of the source: name, columns, and whether it is the change log."""
    yield objects.landing_sql, landing, True
    if not opening.policy.mode.has_target:
        return
    yield objects.target_sql, target, False
    history = _described(cursor, objects.history_sql) if opening.table.key else None
    if history is not None:
        yield objects.history_sql, history, False


def _keep_shape(cursor: Any, opening: OpenTable, objects: Objects) -> None:
    """Note the shape, unless one of a later place stands there by now (a copy and the stream open the same table)."""
    cursor.execute(
        f"UPDATE {objects.watermark_sql} SET SHAPE = {literal(wire.dump(opening.table))},"
        f" SHAPE_SINCE = {literal(opening.since)} WHERE LANDING_TABLE = {literal(objects.landing)}"
        f" AND SHAPE_SINCE <= {literal(opening.since)}"
    )


def _described(cursor: Any, table: str) -> list[Present] | None:
    """The columns that are not the system's own; None when there is no such table."""
    try:
        cursor.execute(f"DESCRIBE TABLE {table}")
    except ProgrammingError as error:
        if error.errno == DOES_NOT_EXIST:
            return None
        raise
    titles = [item[0].lower() for item in cursor.description]
    name, kind, comment = (titles.index(title) for title in ("name", "type", "comment"))
    own = {title for title, _ in (*LANDING_META, *TARGET_META, *SOFT_META, *KEYLESS_META, *HISTORY_META)}
    return [
        Present(row[name], _spelled(row[kind]), Mark.read(row[comment] or ""))
        for row in cursor.fetchall()
        if row[name] not in own
    ]


def _spelled(described: str) -> str:
    """A described type in the spelling of `sftypes.column_type`: sizes of text and time types are all alike to us."""
    kind, _, _ = described.partition("(")
    return described if kind == "NUMBER" else kind


def _create_schema(cursor: Any, objects: Objects, schema: str) -> None:
    """Make a schema if there is none. One that is there needs no privilege to make schemas."""
    known = f"{quoted(objects.database)}.INFORMATION_SCHEMA.SCHEMATA"
    there = cursor.execute(f"SELECT 1 FROM {known} WHERE SCHEMA_NAME = {literal(schema)}").fetchone()
    if there is None:
        cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(objects.database)}.{quoted(schema)}")


def _create(cursor: Any, table: Table, objects: Objects, *, aims: bool) -> None:
    columns = [_definition(column, mark_of(column, table.oid)) for column in table.columns]
    landing = ", ".join([f"{name} {kind}" for name, kind in LANDING_META] + columns)
    cursor.execute(
        f"CREATE TRANSIENT TABLE IF NOT EXISTS {objects.landing_sql} ({landing}) DATA_RETENTION_TIME_IN_DAYS = 0"
    )
    meta = TARGET_META if table.key else (*TARGET_META, *KEYLESS_META)
    target = ", ".join(columns + [f"{name} {kind}" for name, kind in meta])
    if aims:
        _create_schema(cursor, objects, objects.schema)
        cursor.execute(f"CREATE TABLE IF NOT EXISTS {objects.target_sql} ({target})")


def _definition(column: Column, mark: Mark) -> str:
    return f"{quoted(column.landed)} {column_type(column.type)} COMMENT {literal(mark.text)}"


def _take(cursor: Any, table_sql: str, step: Step, *, landed: bool) -> None:
    """One step. Idempotent: a step that was taken and not noted does no harm when it is taken again."""
    alter = f"ALTER TABLE {table_sql}"
    match step:
        case Rename(old=old, new=new):
            _rename_inside(cursor, table_sql, step, landed=landed)
            cursor.execute(f"{alter} RENAME COLUMN {quoted(old)} TO {quoted(new)}")
        case Remark(name=name, mark=mark):
            _remark(cursor, table_sql, name, mark)
        case Widen(name=name, type=kind):
            cursor.execute(f"{alter} ALTER COLUMN {quoted(name)} SET DATA TYPE {kind}")
        case Add(column=column, mark=mark):
            cursor.execute(f"{alter} ADD COLUMN IF NOT EXISTS {_definition(column, mark)}")
        case Fill(column=column, mark=mark):
            _fill(cursor, table_sql, column)
            _remark(cursor, table_sql, column.landed, mark)
        case _:
            assert_never(step)


def _remark(cursor: Any, table_sql: str, name: str, mark: Mark) -> None:
    cursor.execute(f"COMMENT ON COLUMN {table_sql}.{quoted(name)} IS {literal(mark.text)}")


def _rename_inside(cursor: Any, table_sql: str, step: Rename, *, landed: bool) -> None:
    """Rows name columns of their own in JSON texts: as a member (special values, old keys) or as an item (what was not sent)."""
    old, new = (orjson.dumps(name).decode() for name in (step.old_source, step.new_source))
    texts = {"_ETL_SPECIAL": ":"} | ({"_ETL_OLD_KEY": ":", "_ETL_UNCHANGED": ""} if landed else {})
    for column, after in texts.items():
        cursor.execute(
            f"UPDATE {table_sql} SET {column} = REPLACE({column}, {literal(old + after)}, {literal(new + after)})"
            f" WHERE POSITION({literal(old + after)} IN {column}) > 0"
        )


def _fill(cursor: Any, table_sql: str, column: Column) -> None:
    """Rows older than the column hold its default (attmissingval). Rows that were changed since come later, with the apply."""
    name, default = quoted(column.landed), column.default or ""
    value = f"CAST({literal(default)} AS {column_type(column.type)})"
    if column_type(column.type) == "VARIANT":
        value = f"PARSE_JSON({literal(constant(default, column.type.kind))})"
    if column_type(column.type) == "BINARY":
        value = f"TO_BINARY({literal(default.removeprefix(chr(92) + 'x'))}, 'HEX')"
    where = f"{name} IS NULL"
    if is_special(default, column.type.kind):
        member = orjson.dumps({column.name: default}).decode()
        where += f" AND COALESCE(NOT CONTAINS(_ETL_SPECIAL, {literal(member[1:-1])}), TRUE)"
        name, rest = "_ETL_SPECIAL", literal("," + member[1:])
        value = f"COALESCE(LEFT(_ETL_SPECIAL, LENGTH(_ETL_SPECIAL) - 1) || {rest}, {literal(member)})"
    cursor.execute(f"UPDATE {table_sql} SET {name} = {value} WHERE {where}")


def _told(step: Step) -> str:
    """A step in words."""
    match step:
        case Rename(old=old, new=new):
            return f"column {old} is now {new}"
        case Remark(name=name):
            return f"column {name} is known by another mark"
        case Widen(name=name, type=kind):
            return f"column {name} is now {kind}"
        case Add(column=column):
            return f"column {column.landed} was added"
        case Fill(column=column):
            return f"column {column.landed} got its default in older rows"


def _check_case(cursor: Any, opening: OpenTable, objects: Objects, place: str) -> None:
    """The rows of this table are under names of the same case, or nowhere."""
    table = opening.table
    found = cursor.execute(
        f"SELECT LANDING_TABLE, SHAPE FROM {objects.watermark_sql} WHERE PIPELINE_ID = {opening.pipeline_id}"
        f" AND SOURCE_SCHEMA = {literal(table.name.schema)} AND SOURCE_TABLE = {literal(table.name.name)}"
    ).fetchall()
    for landing, shape in found:
        columns = zip(wire.load(Table, shape).columns if shape else (), table.columns, strict=False)
        if landing != objects.landing or any(there.keeps_case != now.keeps_case for there, now in columns):
            reason = f"its rows are in {landing}, whose names have another case"
            remedy = "set identifier_case of the destination back, or use another destination with a landing schema of its own"
            raise EtlError(Kind.DESTINATION_SETUP, place, reason, remedy)


def _own(cursor: Any, opening: OpenTable, objects: Objects, place: str) -> tuple[Watermark, str, str]:
    """The watermark row, with shape and since when: made if there is none, refused if it is another's, moved on for a new generation.

    A slot that was lost to another cluster goes on with the tables of its former owner, in a new generation.
    """
    table = opening.table.name
    who = (opening.pipeline_id, opening.owner, table.schema, table.name)
    where = f"LANDING_TABLE = {literal(objects.landing)}"
    _check_case(cursor, opening, objects, place)
    # One statement: two opens of the same table at the same moment make one row.
    cursor.execute(
        f"MERGE INTO {objects.watermark_sql} w USING (SELECT {literal(objects.landing)} AS LANDING_TABLE) s"
        " ON w.LANDING_TABLE = s.LANDING_TABLE WHEN NOT MATCHED THEN INSERT (LANDING_TABLE, PIPELINE_ID, PIPELINE, OWNER,"
        " SOURCE_SCHEMA, SOURCE_TABLE, GENERATION, APPLIED, EPOCH, SHAPE, SHAPE_SINCE, POLICY, OFFERED, FENCE, BASE, SHOWN, HISTORY, PURGED,"
        " COMMITTED_AT, UPDATED_AT)"
        " VALUES (s.LANDING_TABLE,"
        f" {opening.pipeline_id}, {literal(opening.pipeline)}, {literal(opening.owner)}, {literal(table.schema)},"
        f" {literal(table.name)}, {opening.generation}, 0, {opening.epoch}, '', '', '', '', 0, 0, 0, 0, 0, NULL,"
        " CURRENT_TIMESTAMP())"
    )
    row = cursor.execute(
        "SELECT PIPELINE_ID, OWNER, SOURCE_SCHEMA, SOURCE_TABLE, PIPELINE, GENERATION, APPLIED, EPOCH, SHAPE, SHAPE_SINCE, SHOWN"
        f" FROM {objects.watermark_sql} WHERE {where}"
    ).fetchone()
    ours = row[1] == opening.owner
    if (int(row[0]), opening.owner if row[1] == opening.former else row[1], row[2], row[3]) != who:
        reason = f"{objects.landing} belongs to table {row[2]}.{row[3]} of pipeline {row[4]}"
        raise EtlError(Kind.DESTINATION_SETUP, place, reason, "use another landing schema and schema for this pipeline")
    found = Watermark(int(row[5]), int(row[6]), int(row[7]), int(row[10]))
    if found.generation > opening.generation:
        reason = f"{objects.landing} is in generation {found.generation}, later than ours ({opening.generation})"
        raise EtlError(Kind.DESTINATION_SETUP, place, reason, "check this machine's clock, then copy the source again")
    if found.generation < opening.generation or not ours:
        cursor.execute(
            f"UPDATE {objects.watermark_sql} SET GENERATION = {opening.generation}, APPLIED = 0, FENCE = 0, HISTORY = 0,"
            f" OWNER = {literal(opening.owner)}, EPOCH = {opening.epoch}"
            f" WHERE {where} AND GENERATION = {found.generation} AND EPOCH <= {opening.epoch}"
        )
        found = Watermark(opening.generation, 0, opening.epoch, found.shown)
    return found, row[8], row[9]
