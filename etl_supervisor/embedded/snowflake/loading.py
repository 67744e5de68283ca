"""NDJSON into a table, with the rules of Snowpipe Streaming's default pipe: keys match column names exactly, missing keys are NULL, unknown keys are
left out, a row with a value that does not fit is skipped and counted (ON_ERROR=CONTINUE). Set-based: DuckDB reads and casts, no Python per row.

Texts and binary values have the default widths of a Snowflake account before its wider defaults, as DESCRIBE tells them. A test may have rows
refused: {"table": "LANDING_T", "column": "NOTE", "like": "bad%"}.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OBJECT_BYTES_MIN = (
    1 << 20
)  # DuckDB allocates buffers of twice the largest object that it must expect: no more than what came


WIDTHS = {"VARCHAR": ("length", 16 << 20), "BLOB": ("octet_length", 8 << 20)}  # characters, bytes


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of a piece of NDJSON."""

    parsed: int
    inserted: int


def load(
    connection: Any,
    target: str,
    columns: list[tuple[str, str, bool]],
    lines: bytes,
    directory: Path,
    refused: Sequence[dict[str, str]] = (),
) -> Loaded:
    """Insert what fits; runs in the caller's transaction. `target` is the quoted name, `columns` are (name, type, nullable)."""
    with tempfile.NamedTemporaryFile(dir=directory, suffix=".ndjson") as file:
        file.write(lines)
        file.flush()
        wanted = ", ".join(f"{_text(name)}: '{'JSON' if kind == 'JSON' else 'VARCHAR'}'" for name, kind, _ in columns)
        source = (
            f"read_json({_text(file.name)}, format = 'newline_delimited', columns = {{{wanted}}},"
            f" maximum_object_size = {max(OBJECT_BYTES_MIN, len(lines) + 1)})"
        )
        casts = ", ".join(f"{_cast(name, kind)} AS {_name(name)}" for name, kind, _ in columns)
        conditions = [_bad(name, kind, nullable) for name, kind, nullable in columns]
        conditions += [f"coalesce(raw.{_name(rule['column'])} LIKE {_text(rule['like'])}, FALSE)" for rule in refused]
        bad = " OR ".join(filter(None, conditions)) or "FALSE"
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE _arriving AS SELECT {casts}, ({bad}) AS _bad FROM {source} AS raw"
        )
    parsed, fit = connection.execute("SELECT count(*), count(*) FILTER (NOT _bad) FROM _arriving").fetchone()
    if fit:
        names = ", ".join(_name(name) for name, _, _ in columns)
        connection.execute(f"INSERT INTO {target} ({names}) SELECT {names} FROM _arriving WHERE NOT _bad")
    connection.execute("DROP TABLE _arriving")
    return Loaded(int(parsed), int(fit))


def _cast(name: str, kind: str) -> str:
    value = f"raw.{_name(name)}"
    if kind == "JSON":
        return value
    if kind == "BLOB":
        return f"try(from_base64({value}))"
    return f"try_cast({value} AS {kind})"


def _bad(name: str, kind: str, nullable: bool) -> str | None:
    if kind == "JSON" and nullable:
        return None
    missing = f"{_cast(name, kind)} IS NULL"
    if kind in WIDTHS:
        missing = f"({missing} OR {WIDTHS[kind][0]}({_cast(name, kind)}) > {WIDTHS[kind][1]})"
    return f"(raw.{_name(name)} IS NOT NULL AND {missing})" if nullable else missing


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
