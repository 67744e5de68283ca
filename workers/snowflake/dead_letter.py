"""`_ETL_DEAD_LETTER`: the rows that are not in their landing table, with the reason, the position and what they hold.

    too large for Snowflake (limits)      ─┐
                                           ├─► written here, by MERGE on the position ─► only then may the token pass, or Durable be said
    refused by Snowflake (rejected)       ─┘

A write that comes twice, or that a dead actor left running, finds the row and does nothing.

PAYLOAD is the row as it would have been appended (one line of NDJSON), so that it can be replayed when the cause is gone. Values that make it larger
than PAYLOAD_BYTES_MAX are left out, largest first; LEFT_OUT names them with their length and SHA-256, so that they can be found again in the source.
Nothing is ever cut: a payload that is longer than a statement may be lies in several parts (PART 0, 1, …). The head (part 0) is written last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import structlog
from snowflake.connector.errors import Error, ProgrammingError

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc.messages import OpenTable
from etl_supervisor.model import lsn
from etl_supervisor.model.position import Position
from etl_supervisor.model.table import Table
from etl_supervisor.monitor import metrics
from workers.snowflake.connection import DOES_NOT_EXIST, NO_SUCH_COLUMN, classify
from workers.snowflake.identifiers import Objects, literal, objects_of
from workers.snowflake.limits import Verdict
from workers.snowflake.ndjson import encode

PAYLOAD_BYTES_MAX = 4 << 20  # of a row's values; each MB is several statements
PART_CHARACTERS = 200_000  # Snowflake takes statements of 1 MB; a character is up to 4 bytes
STATEMENT_CHARACTERS = 400_000  # quotes and backslashes are doubled in literals
ROWS_LOGGED = 10  # of one write, each with its line; the rest is counted

_COLUMNS = (
    ("ID", "VARCHAR NOT NULL"),
    ("PART", "NUMBER(10,0) NOT NULL"),
    ("PIPELINE", "VARCHAR NOT NULL"),
    ("LANDING_TABLE", "VARCHAR NOT NULL"),
    ("SOURCE_TABLE", "VARCHAR NOT NULL"),
    ("GENERATION", "NUMBER(10,0) NOT NULL"),
    ("COMMIT_LSN", "NUMBER(20,0) NOT NULL"),
    ("LSN", "NUMBER(20,0) NOT NULL"),
    ("ORDINAL", "NUMBER(10,0) NOT NULL"),
    ("OP", "VARCHAR NOT NULL"),
    ("ROW_KEY", "VARCHAR"),
    ("REASON", "VARCHAR"),
    ("COLUMN_NAME", "VARCHAR"),
    ("BYTES", "NUMBER(20,0)"),
    ("LEFT_OUT", "VARCHAR"),
    ("UNCHANGED", "VARCHAR"),
    ("SPECIAL", "VARCHAR"),
    ("PAYLOAD", "VARCHAR NOT NULL"),
    ("DEAD_AT", "TIMESTAMP_TZ(6) NOT NULL"),
)
_LATER = ("UNCHANGED", "SPECIAL")  # older versions did not make them

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class DeadRow:
    """A row for the dead letter. `key` and `left_out` (column -> bytes, sha256) are JSON; `unchanged` and `special` as in the landing table."""

    position: Position
    op: str
    key: str
    verdict: Verdict
    payload: str
    left_out: str | None
    unchanged: str | None = None
    special: str | None = None


def dead_rows(
    batch: pa.RecordBatch,
    verdicts: dict[int, Verdict],
    table: Table,
    generation: int,
    loaded_at: str,
    *,
    bare: bool = False,
) -> list[DeadRow]:
    """The rows of `verdicts` (row number -> why) as the table keeps them; `bare`: without any text that is not of the key. Copies: nothing of
    the batch is held."""
    rows = batch.take(pa.array(list(verdicts), pa.int64()))
    keys = {column.name for column in table.key}
    whole, left_out = (
        _reduced(rows, [column.name for column in table.columns if column.name not in keys], 0)
        if bare
        else _reduced(rows)
    )
    lines = encode(whole, table, generation, loaded_at).to_pybytes().decode().split("\n")[:-1]
    found = []
    for number, (line, verdict) in enumerate(zip(lines, verdicts.values(), strict=True)):
        members = orjson.loads(line)
        key = {column.name: members.get(column.landed) for column in table.key}
        position = Position(generation, *(rows.column(i)[number].as_py() for i in (1, 2, 3)))
        missing = orjson.dumps(left_out[number]).decode() if number in left_out else None
        state = (members.get("_ETL_UNCHANGED"), members.get("_ETL_SPECIAL"))
        found.append(DeadRow(position, members["_ETL_OP"], orjson.dumps(key).decode(), verdict, line, missing, *state))
    return found


def _reduced(
    rows: pa.RecordBatch, only: Collection[str] | None = None, bytes_max: int = PAYLOAD_BYTES_MAX
) -> tuple[pa.RecordBatch, dict[int, dict[str, dict[str, Any]]]]:
    """The rows without the values (of these columns) that make them too large to keep; and which those are."""
    places = [i for i, item in enumerate(rows.schema) if _sized(item.type) and (only is None or item.name in only)]
    if not places:
        return rows, {}
    lengths = [pc.fill_null(pc.binary_length(rows.column(i)), 0) for i in places]
    sizes = np.stack([length.to_numpy(zero_copy_only=False) for length in lengths]).astype(np.int64)
    left_out: dict[int, dict[str, dict[str, Any]]] = {}
    gone = np.zeros(sizes.shape, dtype=bool)
    for row in np.flatnonzero(sizes.sum(axis=0) > bytes_max).tolist():
        rest = int(sizes[:, row].sum())
        for which in np.argsort(-sizes[:, row]).tolist():
            if rest <= bytes_max:
                break
            size = int(sizes[which, row])
            gone[which, row], rest = True, rest - size
            digest = hashlib.sha256(rows.column(places[which])[row].as_buffer()).hexdigest()
            name = rows.schema.field(places[which]).name
            left_out.setdefault(row, {})[name] = {"bytes": size, "sha256": digest}
    columns = list(rows.columns)
    for which, place in enumerate(places):
        if gone[which].any():
            columns[place] = pc.if_else(pa.array(gone[which]), pa.scalar(None, columns[place].type), columns[place])
    return pa.RecordBatch.from_arrays(columns, schema=rows.schema), left_out


def _sized(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind))


# -- the table


def table(objects: Objects) -> str:
    """CREATE TABLE of the dead letter."""
    columns = ", ".join(f"{name} {kind}" for name, kind in _COLUMNS)
    return f"CREATE TABLE IF NOT EXISTS {objects.dead_letter_sql} ({columns})"


def is_complete(cursor: Any, objects: Objects) -> bool:
    """Whether the dead letter is there, with all of its columns."""
    try:
        cursor.execute(f"SELECT {', '.join(_LATER)} FROM {objects.dead_letter_sql} LIMIT 0")
    except ProgrammingError as error:
        if error.errno == DOES_NOT_EXIST or error.errno in NO_SUCH_COLUMN:
            return False
        raise
    return True


def complete(cursor: Any, objects: Objects) -> None:
    """Make the dead letter, or give it the columns that it lacks."""
    cursor.execute(table(objects))
    for name, kind in _COLUMNS:
        if name in _LATER:
            cursor.execute(f"ALTER TABLE {objects.dead_letter_sql} ADD COLUMN IF NOT EXISTS {name} {kind}")


def write(connection: Any, opening: OpenTable, rows: Sequence[DeadRow]) -> int:
    """Keep these rows; how many were not there yet. EtlError when it can't be done: then they are not to be passed by."""
    objects = objects_of(opening.destination, opening.table)
    place = f"pipeline {opening.pipeline}, table {opening.table.name}"
    try:
        with connection.cursor() as cursor:
            cursor.execute(table(objects))
            tails = [text for row in rows for text in _parts(opening, objects, row)[1:]]
            heads = [_parts(opening, objects, row)[0] for row in rows]
            for values in _statements(tails):
                _merge(cursor, objects, values)
            new = sum(_merge(cursor, objects, values) for values in _statements(heads))
    except Error as error:
        raise classify(error, place, Kind.DESTINATION_SETUP) from None
    _tell(opening, rows, new, place)
    return new


def count(connection: Any, opening: OpenTable) -> int:
    """How many rows of this table are in the dead letter."""
    objects = objects_of(opening.destination, opening.table)
    try:
        with connection.cursor() as cursor:
            (found,) = cursor.execute(
                f"SELECT COUNT(*) FROM {objects.dead_letter_sql} WHERE PART = 0"
                f" AND LANDING_TABLE = {literal(objects.landing)}"
            ).fetchone()
    except Error as error:
        raise classify(error, f"pipeline {opening.pipeline}", Kind.DESTINATION_SETUP) from None
    return int(found)


def row_id(landing: str, position: Position) -> str:
    """The name of a dead row: the same whenever it is written."""
    return hashlib.sha256(f"{landing} {position.token}".encode()).hexdigest()[:16]


def _parts(opening: OpenTable, objects: Objects, row: DeadRow) -> list[str]:
    """The VALUES of a row, one per part."""
    at = row.position
    head = [
        literal(opening.pipeline),
        literal(objects.landing),
        literal(str(opening.table.name)),
        *map(str, at),
        literal(row.op),
        literal(row.key),
        literal(": ".join(filter(None, (row.verdict.reason, row.verdict.detail)))),
        _literal(row.verdict.column),
        str(row.verdict.bytes),
        *map(_literal, (row.left_out, row.unchanged, row.special)),
    ]
    name = literal(row_id(objects.landing, at))
    cuts = range(0, len(row.payload), PART_CHARACTERS)
    return [
        f"({', '.join([name, str(number), *head, literal(row.payload[cut : cut + PART_CHARACTERS])])})"
        for number, cut in enumerate(cuts)
    ]


def _literal(text: str | None) -> str:
    return "NULL" if text is None else literal(text)


def _statements(values: Sequence[str]) -> Iterator[list[str]]:
    """As many as fit into one statement."""
    some: list[str] = []
    for text in values:
        if some and sum(map(len, some)) + len(text) > STATEMENT_CHARACTERS:
            yield some
            some = []
        some.append(text)
    if some:
        yield some


def _merge(cursor: Any, objects: Objects, values: list[str]) -> int:
    given = [name for name, _ in _COLUMNS[:-1]]
    cursor.execute(
        f"MERGE INTO {objects.dead_letter_sql} d USING (SELECT * FROM (VALUES {', '.join(values)}) v ({', '.join(given)})) s"
        " ON d.ID = s.ID AND d.PART = s.PART"
        f" WHEN NOT MATCHED THEN INSERT ({', '.join(given)}, DEAD_AT)"
        f" VALUES ({', '.join(f's.{name}' for name in given)}, CURRENT_TIMESTAMP())"
    )
    return int(cursor.fetchone()[0])


def _tell(opening: OpenTable, rows: Sequence[DeadRow], new: int, place: str) -> None:
    metrics.DEAD_LETTER_ROWS.labels(opening.pipeline, metrics.table_label(opening.table.name)).inc(new)
    for row in rows[: min(new, ROWS_LOGGED)]:
        error = EtlError(Kind.ROWS_REJECTED, place, row.verdict.reason, "etl-supervisor dead-letter list")
        log.error(
            "row_dead_lettered",
            kind=error.kind,
            place=error.place,
            reason=error.reason,
            remedy=error.remedy,
            lsn=lsn.text(row.position.commit_lsn),
            column=row.verdict.column,
            bytes=row.verdict.bytes,
        )
    if new > ROWS_LOGGED:
        log.error("rows_dead_lettered", place=place, rows=new)
