"""A change-log batch -> NDJSON, by Arrow's kernels and numpy: no Python statement runs per row or per value.

    {"_ETL_GENERATION":…,"_ETL_LOADED_AT":"…","_ETL_OP":"I",…,"ID":1,"NAME":"x","DOC":{"a":1}}

Keys are the landing table's column names (not billed); NULL is `null`, a position column that is NULL in all rows is left out, and a column
with one value goes into the text between the others once. Numbers are JSON numbers; decimals, dates, times and floats that JSON has no
form for are strings (Snowflake casts); binary is base64, as the default pipe wants it. JSON columns go in as they are: VARIANT takes the native
object, and nothing is parsed and printed again on the way (what it can't hold goes in as a string, see `variants`). Line breaks in `json` text can
only stand between tokens, so they become spaces.
"""

from __future__ import annotations

import base64

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from etl_supervisor.ipc import jsontext
from etl_supervisor.ipc.arrow import kind_of
from etl_supervisor.model import names
from etl_supervisor.model.table import Table
from etl_supervisor.model.types import ValueKind, is_special
from workers.snowflake import variants

SPECIAL = "_etl_special"
_ALPHABET = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", dtype=np.uint8)


def encode(batch: pa.RecordBatch, table: Table, generation: int, loaded_at: str) -> pa.Buffer:
    """The lines of a change-log batch, each ended by a newline.

    The batch may be of an older shape than `table` (it was sent again by a publisher that is ahead): columns that it does not have yet take their
    default, which is what such rows hold in PostgreSQL.
    """
    line = _Line(batch.num_rows, f'{{"_ETL_GENERATION":{generation},"_ETL_LOADED_AT":"{loaded_at}"')
    later = [column for column in table.columns if column.name not in batch.schema.names]
    special = {c.name: c.default for c in later if c.default is not None and is_special(c.default, c.type.kind)}
    for field, array in zip(batch.schema, batch.columns, strict=True):
        if special and field.name == SPECIAL:
            array = with_members(array, orjson.dumps(special).decode())
        line.add(table.landed(field.name), array, kind_of(field))
    for column in later:
        if column.default is not None and column.name not in special:
            line.add_constant(column.landed, constant(column.default, column.type.kind))
    return line.end()


def names_bytes(batch: pa.RecordBatch, table: Table) -> int:
    """How much of each line of `encode` is no value: names, braces, commas, colons, the newline."""
    there = [table.landed(field.name) for field in batch.schema if not _left_out(field.name, batch.column(field.name))]
    later = [c for c in table.columns if c.name not in batch.schema.names and c.default is not None]
    plain = [c.landed for c in later if not is_special(c.default or "", c.type.kind)]
    members = ["_ETL_GENERATION", "_ETL_LOADED_AT", *there, *plain]
    return sum(len(orjson.dumps(name)) + len(":,") for name in members) - len(",") + len("{}\n")


def _left_out(name: str, array: pa.Array) -> bool:
    return array.null_count == len(array) and name.upper().startswith(names.META_PREFIX)


def with_members(objects: pa.Array, members: str) -> pa.Array:
    """JSON objects (NULL: none) with the members of another one after their own."""
    longer = pc.binary_join_element_wise(pc.utf8_slice_codeunits(objects, 0, -1), members[1:], ",")
    return pc.coalesce(longer, members)


def constant(text: str, kind: ValueKind) -> str:
    """A default (PostgreSQL's text of it) as JSON."""
    if kind is ValueKind.BOOLEAN:
        return "true" if text in ("t", "true") else "false"
    if kind in (ValueKind.JSON, ValueKind.JSON_TEXT):
        return str(documents(pa.array([text]), kind)[0])
    if kind is ValueKind.BYTES:
        return orjson.dumps(base64.b64encode(bytes.fromhex(text.removeprefix("\\x"))).decode()).decode()
    return orjson.dumps(text).decode()


class _Line:
    """The pieces of which all lines are joined: literals and arrays in turn."""

    def __init__(self, rows: int, head: str) -> None:
        self._rows = rows
        self._literal = head
        self._pieces: list[pa.Array | str] = []

    def add(self, name: str, array: pa.Array, kind: ValueKind) -> None:
        """One member of the object."""
        if _left_out(name, array):
            return
        nothing = array.null_count == len(array)
        self._literal += f",{orjson.dumps(name).decode()}:"
        if nothing:
            self._literal += "null"
            return
        if _one_value(array):
            text, before, after = _text(array.slice(0, 1), kind)
            self._literal += f"{before}{text[0]}{after}"
            return
        text, before, after = _text(array, kind)
        if (before or after) and array.null_count:
            text, before, after = pc.binary_join_element_wise(before, text, after, ""), "", ""
        self._pieces += [self._literal + before, text]
        self._literal = after

    def add_constant(self, name: str, value: str) -> None:
        """The same member in every line; `value` is JSON."""
        self._literal += f",{orjson.dumps(name).decode()}:{value}"

    def end(self) -> pa.Buffer:
        """The bytes of all lines."""
        if not self._pieces:
            return pa.py_buffer((self._literal + "}\n").encode() * self._rows)
        lines = pc.binary_join_element_wise(
            *self._pieces, self._literal + "}\n", "", null_handling="replace", null_replacement="null"
        )
        _, offsets, data = lines.buffers()
        first, last = np.frombuffer(offsets, dtype=np.int32, count=len(lines) + 1)[[0, -1]]
        return data.slice(int(first), int(last - first))


def _one_value(array: pa.Array) -> bool:
    """Whether all rows hold the same (and not NULL). The last row tells apart what varies; floats have two zeros."""
    if array.null_count or pa.types.is_floating(array.type) or array[0] != array[-1]:
        return False
    return bool(pc.all(pc.equal(array, array[0])).as_py())


def _text(array: pa.Array, kind: ValueKind) -> tuple[pa.Array, str, str]:
    """The text of the values, and what stands before and after each."""
    if pa.types.is_boolean(array.type):
        return pc.if_else(array, "true", "false"), "", ""
    if pa.types.is_floating(array.type):
        return _floats(array), "", ""
    if pa.types.is_binary(array.type):
        return _base64(array), '"', '"'
    if pa.types.is_timestamp(array.type):
        zone = "+00:00" if array.type.tz else ""
        return array.cast(pa.timestamp("us")).cast(pa.string()), '"', f'{zone}"'
    if pa.types.is_decimal(array.type) or pa.types.is_date(array.type):
        return array.cast(pa.string()), '"', '"'
    if pa.types.is_string(array.type):
        if kind in (ValueKind.JSON, ValueKind.JSON_TEXT):
            return documents(array, kind), "", ""
        if kind is ValueKind.UUID:
            return array, '"', '"'
        return jsontext.escaped(array), '"', '"'
    return array.cast(pa.string()), "", ""


def _floats(array: pa.Array) -> pa.Array:
    """Shortest text that reads back as the same number; NaN, infinities and -0 (a number in JSON has no such sign) as strings."""
    text = array.cast(pa.string())
    odd = pc.or_(pc.invert(pc.is_finite(array)), pc.equal(text, "-0"))
    if not pc.any(odd).as_py():
        return text
    names = [pc.is_nan(array), pc.equal(array, 0), pc.greater(array, 0)]
    return pc.if_else(odd, pc.case_when(pc.make_struct(*names), '"NaN"', '"-0"', '"inf"', '"-inf"'), text)


def documents(array: pa.Array, kind: ValueKind) -> pa.Array:
    """The documents themselves; what VARIANT can't hold as a string of its text."""
    unfit = variants.unfit(array, kind)
    if unfit is not None:
        array = pc.if_else(unfit, pc.binary_join_element_wise('"', jsontext.escaped(array), '"', ""), array)
    data = jsontext.octets(array)
    for char in ("\n", "\r"):
        if (data == ord(char)).any():
            array = pc.replace_substring(array, char, " ")
    return array


def _base64(array: pa.Array) -> pa.Array:
    """All values at once: each padded to whole triples, triples to quadruples, the padding marked. A large value comes alone."""
    if len(array) == 1 and array.null_count == 0:
        return pa.array([base64.b64encode(array[0].as_buffer())]).cast(pa.string())
    lengths = pc.fill_null(pc.binary_length(array), 0).to_numpy().astype(np.int64)
    offsets = np.frombuffer(array.buffers()[1], dtype=np.int32, count=array.offset + len(array) + 1)[array.offset :]
    source = np.frombuffer(array.buffers()[2] or b"", dtype=np.uint8)
    triples = (lengths + 2) // 3
    starts = np.cumsum(triples) - triples
    total = int(triples.sum())
    padded = np.zeros(total * 3, dtype=np.uint8)
    within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    padded[np.repeat(starts * 3, lengths) + within] = source[np.repeat(offsets[:-1].astype(np.int64), lengths) + within]
    one, two, three = (padded[i::3].astype(np.uint32) for i in range(3))
    word = (one << 16) | (two << 8) | three
    out = np.empty((total, 4), dtype=np.uint8)
    for i, shift in enumerate((18, 12, 6, 0)):
        out[:, i] = _ALPHABET[(word >> shift) & 63]
    flat = out.reshape(-1)
    ends = (starts + triples) * 4
    flat[ends[(lengths % 3 > 0)] - 1] = ord("=")
    flat[ends[(lengths % 3 == 1)] - 2] = ord("=")
    edges = np.zeros(len(array) + 1, dtype=np.int32)
    np.cumsum(triples * 4, out=edges[1:])
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    mask = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    return pa.Array.from_buffers(
        pa.string(), len(array), [mask, pa.py_buffer(edges), pa.py_buffer(flat)], array.null_count
    )
