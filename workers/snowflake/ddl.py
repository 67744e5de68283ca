"""Makes a table's objects what they have to be: schemas, landing table, target, watermark; brings them to a table's shape.

One look (DESCRIBE of both tables), then only what `reshape.plan` says. Every step is idempotent, so it may run twice or be cut off anywhere: the
next open goes on. A column added with a default gets it in every row that is there at that moment, landed or applied (the actor calls this only when
everything sent under the older shape is durable).

The watermark row is the owner mark: (pipeline, source cluster and slot, table). Another owner is refused, and so is a table whose rows are under
names of another case (`identifier_case` was changed). It also keeps the shape and the token from
which it holds: a shape of an earlier place (a stream that begins again, or the catalog at a reader's start) changes nothing, and what
the caller works with is the shape that is there.
An actor opens a table for one caller at a time; where two actors do, what they leave between two shapes is mended by the next open.

Neither table has constraints: keys are dropped and become nullable in the source, and Snowflake would refuse rows for an old one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, assert_never

import orjson
import structlog
from snowflake.connector.errors import Error, ProgrammingError

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc import wire
from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model.table import Column, Table
from etl_supervisor.model.types import is_special
from workers.snowflake import fresh, marks, offers, owner
from workers.snowflake.connection import DOES_NOT_EXIST, NO_SUCH_COLUMN, classify
from workers.snowflake.identifiers import Objects, check_columns, literal, objects_of, quoted
from workers.snowflake.inventory import Inventory, Stock
from workers.snowflake.ndjson import constant
from workers.snowflake.owner import Row, Watermark
from workers.snowflake.reshape import Add, Fill, Mark, Present, Remark, Rename, Step, Widen, plan
from workers.snowflake.sftypes import HISTORY_META, KEYLESS_META, LANDING_META, SOFT_META, TARGET_META, column_type

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Ensured:
    """What an open found or made: the watermark, the shape that the tables have, and (name, type as Snowflake describes it) of the change log's
    columns."""

    watermark: Watermark
    table: Table
    columns: list[tuple[str, str]]


def ensure(connection: Any, opening: OpenTable, inventory: Inventory | None = None) -> Ensured:
    """Create or alter what is needed. EtlError(SCHEMA, DESTINATION_SETUP, …) when it can't be."""
    place = f"pipeline {opening.pipeline}, table {opening.table.name}"
    check_columns(opening.table)
    objects = objects_of(opening.destination, opening.table)
    try:
        with connection.cursor() as cursor:
            stock = (inventory or Inventory()).stock(cursor, opening.destination, objects)
            with stock.alone(objects.landing):
                found = _made(cursor, opening, objects, stock) if fresh.is_simple(opening) else None
                if found is None:
                    found = _ensure(cursor, opening, objects, place)
                    stock.found(objects.landing)
            if found.watermark.epoch < opening.epoch:
                take_over = partial(owner.take_over, cursor, opening, objects)
                stock.shut_out(opening.pipeline_id, opening.epoch, take_over)
            return found
    except Error as error:
        raise classify(error, place, Kind.DESTINATION_SETUP) from None


def confirm(connection: Any, opening: OpenTable) -> bool:
    """Note that the tables still have this shape at the place `since`; False when it is another one by now, or of a later place."""
    place = f"pipeline {opening.pipeline}, table {opening.table.name}"
    try:
        with connection.cursor() as cursor:
            return _confirm(cursor, opening, objects_of(opening.destination, opening.table))
    except Error as error:
        raise classify(error, place, Kind.DESTINATION_SETUP) from None


def _confirm(cursor: Any, opening: OpenTable, objects: Objects) -> bool:
    cursor.execute(
        f"UPDATE {objects.watermark_sql} SET SHAPE_SINCE = {literal(opening.since)} WHERE LANDING_TABLE = {literal(objects.landing)}"
        f" AND SHAPE = {literal(owner.shape_text(opening.table))} AND SHAPE_SINCE <= {literal(opening.since)} AND OFFERED <> ''"
    )
    return bool(cursor.rowcount)


def _made(cursor: Any, opening: OpenTable, objects: Objects, stock: Stock) -> Ensured | None:
    """The table made anew; None when something of it is there."""
    if stock.has(objects.landing):
        return None
    try:
        made = fresh.make(cursor, opening, objects)
    except ProgrammingError as error:
        log.info("table_looked_at", table=objects.landing, code=error.errno)
        made = False
    if not made:
        stock.forget()
        return None
    stock.found(objects.landing)
    log.info("EnsureTableInitialized", pipeline=opening.pipeline, landing=objects.landing, target=objects.target)
    asked = fresh.columns_of(opening.table)
    columns = stock.spelled(asked)
    if columns is None:
        columns = _types(_columns(cursor, objects.landing_sql) or [])
        stock.learn(asked, columns)
    return Ensured(Watermark(opening.generation, 0, opening.epoch), opening.table, columns)


def _ensure(cursor: Any, opening: OpenTable, objects: Objects, place: str) -> Ensured:
    described = _columns(cursor, objects.landing_sql)
    landing = None if described is None else _present(described)
    if landing is None:
        marks.create_schemas(cursor, objects)
    try:
        watermark, row = owner.own(cursor, opening, objects, place)
    except ProgrammingError as error:
        if error.errno not in NO_SUCH_COLUMN:
            raise
        marks.complete(cursor, objects)
        watermark, row = owner.own(cursor, opening, objects, place)
    applied, alone = offers.leave(cursor, opening, objects, row, watermark.applied, place)
    watermark = replace(watermark, applied=applied)
    aims = opening.policy.mode.has_target
    if landing is None and aims:
        offers.make_way(cursor, objects, place)
    target = _described(cursor, objects.target_sql) if aims else []
    if watermark.applied and (landing is None or target is None):
        watermark = _begin_again(cursor, objects, watermark, row, place, log_is_there=landing is not None)
    if landing is None or target is None:
        _create(cursor, opening, objects)
        described = None
        log.info("EnsureTableInitialized", pipeline=opening.pipeline, landing=objects.landing, target=objects.target)
        landing = landing or _described(cursor, objects.landing_sql) or []
        target = target or (aims and _described(cursor, objects.target_sql)) or []
    known = bool(row.shape) and opening.since <= row.since
    table = replace(wire.load(Table, row.shape), version=opening.table.version) if known else opening.table
    # A target that was left alone has an older shape than the log. And who was cut off, or crossed another open, leaves a shape between two.
    stands = not alone and (known or row.shape == owner.shape_text(table)) and _stands(table, row, landing, target)
    if stands and not known:
        stands = known = _confirm(cursor, opening, objects)
    if not stands:
        row = offers.withdraw(cursor, objects, row)
        for table_sql, present, landed in _shaped(cursor, opening, objects, landing, target):
            for step in plan(present, table):
                described = None
                _take(cursor, table_sql, step, landed=landed)
                log.info("table_altered", place=place, table=table_sql, step=_told(step))
    if not known:
        _keep_shape(cursor, opening, objects)
    offers.ensure(cursor, replace(opening, table=table), objects, row, watermark.applied)
    return Ensured(watermark, table, _types(described or _columns(cursor, objects.landing_sql) or []))


def _create(cursor: Any, opening: OpenTable, objects: Objects) -> None:
    cursor.execute(fresh.create_landing(opening.table, objects, once="IF NOT EXISTS"))
    if opening.policy.mode.has_target:
        marks.create_schema(cursor, objects, objects.schema)
        cursor.execute(fresh.create_target(opening, objects, once="IF NOT EXISTS"))


def _begin_again(
    cursor: Any, objects: Objects, watermark: Watermark, row: Row, place: str, *, log_is_there: bool
) -> Watermark:
    """A table that somebody has dropped. The target is made again of the whole change log; EtlError(DESTINATION_SETUP) when that is not there."""
    if not log_is_there or row.purged == watermark.generation:
        reason = f"{objects.target} is gone, and rows have left {objects.landing}"
        if not log_is_there:
            reason = f"{objects.landing} is gone, with changes that may not be applied"
        raise EtlError(Kind.DESTINATION_SETUP, place, reason, "undrop it, or have the table copied again")
    cursor.execute(
        f"UPDATE {objects.watermark_sql} SET APPLIED = 0, FENCE = 0 WHERE LANDING_TABLE = {literal(objects.landing)}"
    )
    log.warning("target_made_again", place=place, target=objects.target)
    return replace(watermark, applied=0)


def _stands(table: Table, row: Row, landing: list[Present], target: list[Present]) -> bool:
    """Whether the tables have this shape, and something is offered for it."""
    tables = [landing, target] if target else [landing]
    return bool(row.offered) and not any(plan(found, table) for found in tables)


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
        f"UPDATE {objects.watermark_sql} SET SHAPE = {literal(owner.shape_text(opening.table))},"
        f" SHAPE_SINCE = {literal(opening.since)} WHERE LANDING_TABLE = {literal(objects.landing)}"
        f" AND SHAPE_SINCE <= {literal(opening.since)}"
    )


def _described(cursor: Any, table: str) -> list[Present] | None:
    """The columns that are not the system's own; None when there is no such table."""
    found = _columns(cursor, table)
    return None if found is None else _present(found)


def _columns(cursor: Any, table: str) -> list[tuple[str, str, str]] | None:
    """(name, type, comment) of all columns; None when there is no such table."""
    try:
        cursor.execute(f"DESCRIBE TABLE {table}")
    except ProgrammingError as error:
        if error.errno == DOES_NOT_EXIST:
            return None
        raise
    titles = [item[0].lower() for item in cursor.description]
    name, kind, comment = (titles.index(title) for title in ("name", "type", "comment"))
    return [(row[name], row[kind], row[comment] or "") for row in cursor.fetchall()]


def _present(columns: list[tuple[str, str, str]]) -> list[Present]:
    own = {title for title, _ in (*LANDING_META, *TARGET_META, *SOFT_META, *KEYLESS_META, *HISTORY_META)}
    return [Present(name, _spelled(kind), Mark.read(comment)) for name, kind, comment in columns if name not in own]


def _types(columns: list[tuple[str, str, str]]) -> list[tuple[str, str]]:
    return [(name, kind) for name, kind, _ in columns]


def _spelled(described: str) -> str:
    """A described type in the spelling of `sftypes.column_type`: sizes of text and time types are all alike to us."""
    kind, _, _ = described.partition("(")
    return described if kind == "NUMBER" else kind


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
            cursor.execute(f"{alter} ADD COLUMN IF NOT EXISTS {fresh.definition(column, mark)}")
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
