"""NDJSON into a table, with the rules of Snowpipe Streaming's default pipe: keys match column names exactly, missing keys are NULL, unknown keys are
left out, a row with a value that does not fit is skipped and counted (ON_ERROR=CONTINUE). Set-based: DuckDB reads and casts, no Python per row. Only
a line too long for its reader (which takes twelve times the line in memory) is taken apart here, and comes as a table of one row.

Texts and binary values have the default widths of a Snowflake account before its wider defaults, as DESCRIBE tells them. A test may have rows
refused: {"table": "LANDING_T", "column": "NOTE", "like": "bad%"}.

One thing is beyond DuckDB: its JSON reader turns decimals into doubles, where VARIANT keeps 38 digits. Documents with a decimal that a double would
round are handed to it as strings with a mark, and stored as the text that they are.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from etl_supervisor.embedded.snowflake.quoting import literal, quoted

OBJECT_BYTES_MIN = (
    1 << 20
)  # DuckDB allocates buffers of twice the largest object that it must expect: no more than what came
LONG_DECIMAL = re.compile(rb"[:,\[\s]-?(?=[0-9.]{17})[0-9]+\.[0-9]+")  # a double keeps 15 digits
MARK = "\x01as written\x01"
Keep = Callable[[str], None]
_DECODER = json.JSONDecoder(parse_int=str, parse_float=str)


PART_BYTES_MAX = 8 << 20  # of what is read at once: a fragment of the SDK can be 70 MB
LINE_BYTES_MAX = 48 << 20  # DuckDB casts and keeps a document in several times its size, within warehouse.MEMORY_LIMIT
ONE_LINE, DOCUMENT = "_line", pa.json_(pa.large_string())  # DuckDB takes this type for JSON without reading it
DOCUMENTS = "SELECT _document FROM _arriving WHERE _bad"
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
    refused: Sequence[dict[str, str]] = (),
    keep: Keep | None = None,
) -> Loaded:
    """Insert what fits; runs in the caller's transaction. `target` is the quoted name, `columns` are (name, type, nullable). `keep` gets a query
    of the documents that do not fit."""
    parsed = inserted = 0
    for part in parts(lines):
        loaded = Loaded(1, 0) if len(part) > LINE_BYTES_MAX else _load(connection, target, columns, part, refused, keep)
        parsed, inserted = parsed + loaded.parsed, inserted + loaded.inserted
    return Loaded(parsed, inserted)


def parts(lines: bytes) -> Iterator[bytes]:
    """Whole lines, at most PART_BYTES_MAX of them at once (a longer line comes alone). Each part ends with a line break: without one, DuckDB reads
    the end of a file of more than 16 MB wrongly: rows go missing there, or are called malformed."""
    at = 0
    while at < len(lines):
        end = lines.rfind(b"\n", at, at + PART_BYTES_MAX) + 1 or lines.find(b"\n", at) + 1 or len(lines)
        if part := lines[at:end].strip(b"\n"):
            yield part + b"\n"
        at = end


def _load(
    connection: Any,
    target: str,
    columns: list[tuple[str, str, bool]],
    lines: bytes,
    refused: Sequence[dict[str, str]],
    keep: Keep | None,
) -> Loaded:
    with (_one_line if len(lines) > PART_BYTES_MAX else _file)(connection, columns, lines) as (source, marked):
        casts = {name: _cast(name, kind, marked=marked) for name, kind, _ in columns}
        conditions = [_bad(name, casts[name], kind, nullable, len(lines)) for name, kind, nullable in columns]
        conditions += [
            f"coalesce(raw.{quoted(rule['column'])} LIKE {literal(rule['like'])}, FALSE)" for rule in refused
        ]
        bad = " OR ".join(filter(None, conditions)) or "FALSE"
        document = f", CASE WHEN {bad} THEN to_json(raw) END AS _document" if keep else ""
        values = ", ".join(f"{cast} AS {quoted(name)}" for name, cast in casts.items())
        arriving = f"SELECT {values}, ({bad}) AS _bad{document} FROM {source} AS raw"
        loaded = insert(connection, target, list(casts), arriving)
    if keep and loaded.inserted < loaded.parsed:
        keep(DOCUMENTS)
    return loaded


@contextmanager
def _file(_: Any, columns: list[tuple[str, str, bool]], lines: bytes) -> Iterator[tuple[str, bool]]:
    """Lines as a file, for DuckDB's reader: what stands behind FROM, and whether long decimals are marked in it."""
    variants, floats = ({name for name, kind, _ in columns if kind == wanted} for wanted in ("JSON", "DOUBLE"))
    marked = bool(variants) and _perhaps_long(lines, floats)
    with tempfile.NamedTemporaryFile(suffix=".ndjson") as file:
        file.write(_marked(lines, variants) if marked else lines)
        file.flush()
        wanted = ", ".join(f"{literal(name)}: '{'JSON' if kind == 'JSON' else 'VARCHAR'}'" for name, kind, _ in columns)
        source = (
            f"read_json({literal(file.name)}, format = 'newline_delimited', columns = {{{wanted}}},"
            f" maximum_object_size = {max(OBJECT_BYTES_MIN, len(lines) + 1)})"
        )
        yield source, marked


@contextmanager
def _one_line(connection: Any, columns: list[tuple[str, str, bool]], line: bytes) -> Iterator[tuple[str, bool]]:
    """The same for a line by itself. ValueError for what is no JSON."""
    members = dict(_members(line.decode().strip()))
    read = {name: _read(members.get(name, "null"), kind) for name, kind, _ in columns}
    connection.register(ONE_LINE, pa.table(read))
    try:
        yield ONE_LINE, False
    finally:
        connection.unregister(ONE_LINE)


def _read(value: str, kind: str) -> pa.Array:
    """A member's value as DuckDB's reader gives it: documents in their shortest form, texts without their quotes."""
    if kind == "JSON":
        return pa.array([None if value == "null" else _shortest(value)], pa.large_string()).cast(DOCUMENT)
    return pa.array([json.loads(value) if value[0] in 'n"' else value], pa.large_string())


def _shortest(document: str) -> str:
    if LONG_DECIMAL.search(b":" + document.encode()):
        return document
    return json.dumps(json.loads(document), ensure_ascii=False, separators=(",", ":"))


def insert(connection: Any, target: str, columns: Sequence[str], arriving: str) -> Loaded:
    """Insert what fits of a query that gives these columns and `_bad`; `DOCUMENTS` reads the `_document` of the others, if it gives that."""
    ((parsed,),) = connection.execute(f"CREATE OR REPLACE TEMP TABLE _arriving AS {arriving}").fetchall()
    names = ", ".join(map(quoted, columns))
    ((fit,),) = connection.execute(
        f"INSERT INTO {target} ({names}) SELECT {names} FROM _arriving WHERE NOT _bad"
    ).fetchall()
    return Loaded(int(parsed), int(fit))


def _perhaps_long(lines: bytes, floats: set[str]) -> bool:
    """Whether a document may hold a long decimal. Columns of floats are full of them: where each line has such a member once, it is no document's."""
    data = np.frombuffer(lines, dtype=np.uint8)
    starts = _long_runs(data)
    if not len(starts):
        return False
    rows = lines.count(b"\n{") + lines.startswith(b"{")
    names = (f",{json.dumps(name, ensure_ascii=False)}:".encode() for name in floats)
    members = [member for member in names if lines.count(member) == rows]
    for member in members:
        starts = starts[~_stand_behind(data, starts, member)]
    if not len(starts):
        return False
    for member in members:
        lines = re.sub(re.escape(member) + rb"-?[0-9.]+", b"", lines)
    return LONG_DECIMAL.search(lines) is not None


def _long_runs(data: np.ndarray[Any, np.dtype[np.uint8]]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Where 17 digits and points begin to stand together. Far cheaper than the expression: runs of 2, 4, 8, 16 and 17 from shorter ones."""
    run = (data - ord(".") < 12) & (data != ord("/"))  # unsigned: what is below a point is far above
    for more in (1, 2, 4, 8, 1):
        run = run[:-more] & run[more:]
    run[1:] &= ~run[:-1]
    return np.flatnonzero(run)


def _stand_behind(
    data: np.ndarray[Any, np.dtype[np.uint8]], starts: np.ndarray[Any, np.dtype[np.int64]], member: bytes
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which of these places stand just behind the member's name and colon, or behind the minus that follows."""
    ends = starts - (data[starts - 1] == ord("-"))
    found: np.ndarray[Any, np.dtype[np.bool_]] = ends >= len(member)
    for back, char in enumerate(reversed(member), 1):
        found &= data[ends - back] == char
    return found


def _marked(lines: bytes, variants: set[str]) -> bytes:
    """The same lines; documents with long decimals as marked strings."""
    return b"\n".join(
        _marked_line(line, variants) if LONG_DECIMAL.search(line) else line for line in lines.split(b"\n")
    )


def _marked_line(line: bytes, variants: set[str]) -> bytes:
    members = []
    for name, value in _members(line.decode()):
        long = name in variants and LONG_DECIMAL.search(b":" + value.encode())
        members.append(f"{json.dumps(name, ensure_ascii=False)}:{json.dumps(MARK + value) if long else value}")
    return ("{" + ",".join(members) + "}").encode()


def _members(line: str) -> Iterator[tuple[str, str]]:
    """The members of one line and their values as they are written; the actor writes no space between the tokens of the row itself."""
    at = 1
    while at < len(line) - 1:
        name, colon = _DECODER.raw_decode(line, at)
        _, end = _DECODER.raw_decode(line, colon + 1)
        yield name, line[colon + 1 : end]
        at = end + 1


def _cast(name: str, kind: str, *, marked: bool) -> str:
    value = f"raw.{quoted(name)}"
    if kind == "JSON" and marked:
        text = f"({value} ->> '$')"
        mark = f"json_type({value}) = 'VARCHAR' AND starts_with({text}, {literal(MARK)})"
        return f"CASE WHEN {mark} THEN CAST(substr({text}, {len(MARK) + 1}) AS JSON) ELSE {value} END"
    if kind == "JSON":
        return value
    if kind == "BLOB":
        return f"try(from_base64({value}))"
    return f"try_cast({value} AS {kind})"


def _bad(name: str, value: str, kind: str, nullable: bool, size: int) -> str:
    """When a value is refused; "": never. What can't be, in lines of this size, is left out: most of a small load's time goes into planning it."""
    wide = f"{WIDTHS[kind][0]}({value}) > {WIDTHS[kind][1]}" if kind in WIDTHS and size > WIDTHS[kind][1] else ""
    always = nullable and kind in ("JSON", "VARCHAR")  # whatever it is, it is one of these
    bad = " OR ".join(filter(None, ["" if always else f"{value} IS NULL", wide]))
    return f"(raw.{quoted(name)} IS NOT NULL AND ({bad}))" if bad and nullable else bad
