"""Source against target, row by row, by two readers that are not ours: psql's text and the connector's values.

Nothing of the program's own type code takes part: each psql text is read as the Python type that the connector gave for the same cell.

Rows are counted by key on both sides, so a row that the target has once too often is found. The rows of a table without a key are compared so, too,
if all its columns are given as the key.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
from collections import Counter
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from psycopg import conninfo

from etl_supervisor.model.naming import IdentifierCase
from etl_supervisor.model.pipeline import Destination
from etl_supervisor.model.table import TableName

FIELD, RECORD, NULL = "\x1f<field>\x1f", "\x1f<record>\x1f", "\x1f<null>\x1f"  # no text holds them
VARIANT = 5  # the connector's type code
SAMPLES_MAX = 3

Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """One table's verdict: rows on both sides, keys that differ (never values). `doubled` rows are there more often than in the source, whose key is
    there as well; `landed_twice` counts positions of the change log."""

    table: str
    source_rows: int
    target_rows: int
    missing: int
    extra: int
    unequal: int
    doubled: int
    landed_twice: int
    samples: tuple[str, ...]

    @property
    def total(self) -> int:
        """How many rows are not as they should be."""
        return self.missing + self.extra + self.unequal + self.doubled + self.landed_twice


def compare_table(
    psql: Path, url: str, session: Any, table: TableName, key: tuple[str, ...], there: Destination
) -> Difference:
    """Compare a table with what the destination has of it."""
    columns, source, expected = _source(psql, url, table, key)
    naming, database = there.naming, there.database.upper()
    schema = naming.target_schema(table, there.schema)
    name = _quoted(database, schema, naming.target_table(table))
    target, found = _target(session, name, naming.case, columns, key)
    landing = _quoted(database, there.landing_schema.upper(), naming.landing_table(table))
    position = "_ETL_GENERATION, _ETL_COMMIT_LSN, _ETL_LSN, _ETL_INDEX"
    with session.cursor() as cursor:
        twice = f"SELECT COUNT(*) FROM (SELECT 1 AS x FROM {landing} GROUP BY {position} HAVING COUNT(*) > 1) q"
        landed_twice = int(cursor.execute(twice).fetchone()[0])
    missing, surplus = expected - found, found - expected
    extra = Counter({k: rows for k, rows in surplus.items() if k not in expected})
    doubled = surplus - extra
    unequal = [k for k in source.keys() & target.keys() if not _equal(source[k], target[k])]
    samples = [
        f"{word} {'/'.join(k)}"
        for word, keys in (("missing", missing), ("extra", extra), ("doubled", doubled))
        for k in sorted(keys)
    ]
    samples += [f"unequal {'/'.join(k)}: column {_first(columns, source[k], target[k])}" for k in sorted(unequal)]
    return Difference(
        str(table),
        expected.total(),
        found.total(),
        missing.total(),
        extra.total(),
        len(unequal),
        doubled.total(),
        landed_twice,
        tuple(samples[:SAMPLES_MAX]),
    )


def _quoted(*parts: str) -> str:
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def _source(
    psql: Path, url: str, table: TableName, key: tuple[str, ...]
) -> tuple[list[str], dict[Key, list[str | None]], Counter[Key]]:
    command = [
        str(psql),
        "-XAqw",
        "-v",
        "ON_ERROR_STOP=1",
        "-F",
        FIELD,
        "-R",
        RECORD,
        "-P",
        f"null={NULL}",
        "-P",
        "footer=off",
    ]
    settings = "SET timezone = 'UTC'; SET extra_float_digits = 3; SET bytea_output = hex;"
    query = f"{settings} SELECT * FROM {_quoted(table.schema, table.name)}"
    place = conninfo.conninfo_to_dict(url)
    password = {"PGPASSWORD": str(place.pop("password", ""))}  # an argument would show in `ps`
    done = subprocess.run(
        [*command, "-d", conninfo.make_conninfo("", **place), "-c", query],
        env=os.environ | password,
        capture_output=True,  # as bytes: text mode would change \r\n
        check=True,
    )
    head, *records = done.stdout.decode().removesuffix("\n").split(RECORD)
    columns = head.split(FIELD)
    places = [columns.index(name) for name in key]
    rows: dict[Key, list[str | None]] = {}
    counts: Counter[Key] = Counter()
    for record in records:
        cells = [None if cell == NULL else cell for cell in record.split(FIELD)]
        found = tuple(str(cells[place]) for place in places)
        rows[found] = cells
        counts[found] += 1
    return columns, rows, counts


def _target(
    session: Any, table: str, case: IdentifierCase, columns: list[str], key: tuple[str, ...]
) -> tuple[dict[Key, list[Any]], Counter[Key]]:
    wanted = ", ".join(_quoted(name if case is IdentifierCase.KEEP else name.upper()) for name in columns)
    places = [columns.index(name) for name in key]
    rows: dict[Key, list[Any]] = {}
    counts: Counter[Key] = Counter()
    with session.cursor() as cursor:
        cursor.execute(f"SELECT {wanted}, _ETL_SPECIAL FROM {table}")
        variants = [item.type_code == VARIANT for item in cursor.description]
        for row in cursor:
            special = json.loads(row[-1]) if row[-1] else {}
            cells = [
                _Text(special[name]) if name in special else _Json(value) if variant and value is not None else value
                for name, value, variant in zip(columns, row[:-1], variants[:-1], strict=True)
            ]
            found = tuple(str(cells[place]) for place in places)
            rows[found] = cells
            counts[found] += 1
    return rows, counts


class _Text(str):
    """A value that is kept as text beside its column."""

    __slots__ = ()


class _Json(str):
    """A VARIANT."""

    __slots__ = ()


def _equal(source: list[str | None], target: list[Any]) -> bool:
    return all(_same(text, value) for text, value in zip(source, target, strict=True))


def _first(columns: list[str], source: list[str | None], target: list[Any]) -> str:
    cells = zip(columns, source, target, strict=True)
    return next(name for name, text, value in cells if not _same(text, value))


def _same(text: str | None, value: Any) -> bool:
    if text is None or value is None:
        return text is None and value is None
    match value:
        case _Json():
            return bool(_document(text) == _document(value)) or bool(
                json.loads(value) == text
            )  # text: VARIANT can't hold it
        case str():
            return text == value
        case bool():
            return text == ("t" if value else "f")
        case int() | Decimal():
            return Decimal(text) == value
        case float():
            return repr(float(text)) == repr(value)  # NaN is NaN, and -0 is not 0
        case bytes() | bytearray():
            return text == "\\x" + bytes(value).hex()
        case dt.datetime():
            return dt.datetime.fromisoformat(text) == value
        case dt.date():
            return dt.date.fromisoformat(text) == value
    return False


def _document(text: str) -> Any:
    """A JSON document with its numbers as they are, and the key that was written last."""
    return json.loads(text, parse_int=Decimal, parse_float=Decimal)
