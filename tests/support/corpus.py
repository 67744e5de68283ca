"""The corpus of types (tests/corpus/*.sql), and what psql prints of it: a reader that is not ours.

`printed` says how a value of Arrow would be printed by PostgreSQL, by Python's own types; nothing of the program's type code takes part.
"""

from __future__ import annotations

import datetime as dt
import struct
import subprocess
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support.fix_postgres import Database

FOLDER = Path(__file__).parents[1] / "corpus"
SERVER_MIN = {"numbers_15": 150_000, "moments_17": 170_000, "extensions": 180_000}  # families that need a newer server
FIELD, RECORD, NULL = "\x1f<field>\x1f", "\x1f<record>\x1f", "\x1f<null>\x1f"  # no text of the corpus holds them
WITHOUT = "requires the server to be built with"
SESSION = "set timezone = 'UTC'; set extra_float_digits = 3; set bytea_output = hex; set datestyle = ISO; set intervalstyle = postgres;"


def families(server_version: int) -> list[str]:
    """The files that a server of this version can load."""
    return sorted(path.stem for path in FOLDER.glob("*.sql") if SERVER_MIN.get(path.stem, 0) <= server_version)


def load(database: Database, family: str) -> list[str]:
    """Load a file with psql; its tables."""
    command = [str(database.server.psql_path), "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", database.url]
    done = subprocess.run([*command, "-f", FOLDER / f"{family}.sql"], capture_output=True, text=True, check=False)
    if WITHOUT in done.stderr:
        pytest.skip(f"the server is built without what {family} needs")
    assert done.returncode == 0, done.stderr
    found = database.execute(
        "select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
    )
    return sorted(name for (name,) in found)


def psql_rows(database: Database, table: str) -> tuple[list[str], dict[int, list[str | None]]]:
    """Column names, and id -> the cells as psql prints them (None: NULL)."""
    options = ["-F", FIELD, "-R", RECORD, "-P", f"null={NULL}", "-P", "footer=off"]
    command = [str(database.server.psql_path), "-XAq", "-v", "ON_ERROR_STOP=1", *options, "-d", database.url]
    query = f'{SESSION} select * from public."{table}"'
    done = subprocess.run([*command, "-c", query], capture_output=True, check=True)
    head, *records = done.stdout.decode().removesuffix("\n").split(RECORD)
    columns = head.split(FIELD)
    cells = ([None if cell == NULL else cell for cell in record.split(FIELD)] for record in records)
    return columns, {int(str(row[columns.index("id")])): row for row in cells}


def cells(rows: pa.Table, columns: list[str]) -> Iterator[tuple[int, str, Any, pa.DataType]]:
    """(id, column, value, Arrow type) of every cell."""
    ids = rows["id"].to_pylist()
    for name in columns:
        for number, value in zip(ids, rows[name].to_pylist(), strict=True):
            yield number, name, value, rows.schema.field(name).type


def printed(value: Any, kind: pa.DataType, like: str) -> str:
    """What PostgreSQL prints for a value. Floats: `like` itself if it reads back as the same bits."""
    match value:
        case bool():
            return "t" if value else "f"
        case float():
            code = "f" if pa.types.is_float32(kind) else "d"
            return like if struct.pack(code, value) == _bits(like, code) else repr(value)
        case Decimal():
            return f"{value:f}"
        case bytes():
            return "\\x" + value.hex()
        case dt.datetime():
            text = f"{value:%H:%M:%S}" + (f".{value.microsecond:06}".rstrip("0") if value.microsecond else "")
            return f"{value.date().isoformat()} {text}" + ("+00" if value.tzinfo else "")
        case dt.date():
            return value.isoformat()
    return str(value)


def _bits(text: str, code: str) -> bytes:
    """The bits that C's own reader gives: a float32 is not read by way of a float64."""
    import numpy as np

    return struct.pack(code, np.float32(text) if code == "f" else float(text))
