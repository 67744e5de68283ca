"""PostgreSQL's text -> typed Arrow arrays, by Arrow's kernels and numpy; the stream and the copy share it.

`convert` gives the typed array and, if there are any, the flags of the values that the type can't hold (numeric NaN, dates that are infinite,
BC or after the year 9999, the JSON value null): they are NULL in the array and go as text into `_etl_special`.

The sessions run with timezone UTC, datestyle ISO, bytea_output hex (see `stream.SESSION_OPTIONS`).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from etl_supervisor.errors import EtlError, Kind
from etl_supervisor.ipc.arrow import arrow_type
from etl_supervisor.model.table import Column
from etl_supervisor.model.types import ValueKind

Converted = tuple[pa.Array, pa.Array | None]


def convert(text: pa.Array, column: Column, place: str) -> Converted:
    """A binary array of PostgreSQL texts -> (array of the column's type, flags of special values or None).

    EtlError(SCHEMA) for text that is not UTF-8, EtlError(PROTOCOL) for text that is not of the type; never with a value.
    """
    try:
        if column.type.kind is ValueKind.BYTES:
            return _bytes(text), None
        strings = text.cast(pa.string())
    except pa.ArrowInvalid:
        reason = f"column {column.name} holds text that is not UTF-8"
        raise EtlError(Kind.SCHEMA, place, reason, "use a database with server_encoding UTF8") from None
    try:
        return _TYPED.get(column.type.kind, _cast)(strings, arrow_type(column.type))
    except (pa.ArrowInvalid, ValueError):
        reason = f"column {column.name} holds text that is no {column.type.kind}"
        raise EtlError(Kind.PROTOCOL, place, reason, "report it with the column's type") from None


def _cast(text: pa.Array, to: pa.DataType) -> Converted:
    return text.cast(to), None


def _boolean(text: pa.Array, _: pa.DataType) -> Converted:
    true = pc.equal(text, "t")
    if not pc.all(pc.or_(true, pc.equal(text, "f"))).as_py() and text.null_count < len(text):
        raise ValueError
    return true, None


def _numeric(text: pa.Array, to: pa.DataType) -> Converted:
    return _without(text, pc.equal(text, "NaN"), to)


def _json(text: pa.Array, to: pa.DataType) -> Converted:
    """The JSON value null: in Snowflake it could not be told from no value at all."""
    return _without(text, pc.equal(pc.utf8_trim_whitespace(text), "null"), to)


def _moment(text: pa.Array, to: pa.DataType) -> Converted:
    """Ordinary dates have a dash after four digits and no era; the rest (infinity, 44 BC, the year 10000) is special."""
    odd = pc.or_(
        pc.not_equal(pc.utf8_slice_codeunits(text, 4, 5), "-"),
        pc.or_(pc.ends_with(text, "BC"), pc.starts_with(text, "-")),
    )
    return _without(text, odd, to)


def _without(text: pa.Array, special: pa.Array, to: pa.DataType) -> Converted:
    """Cast what is not special; the special ones are NULL."""
    if not pc.any(special).as_py():
        return text.cast(to), None
    ordinary = pc.if_else(special, pa.scalar(None, pa.string()), text)
    return ordinary.cast(to), special


_TYPED: dict[ValueKind, Callable[[pa.Array, pa.DataType], Converted]] = {
    ValueKind.BOOLEAN: _boolean,
    ValueKind.NUMERIC: _numeric,
    ValueKind.DATE: _moment,
    ValueKind.TIMESTAMP: _moment,
    ValueKind.TIMESTAMPTZ: _moment,
    ValueKind.JSON: _json,
    ValueKind.JSON_TEXT: _json,
}

_NIBBLE = np.full(256, 255, dtype=np.uint8)
for _digit, _value in zip(b"0123456789abcdefABCDEF", [*range(16), *range(10, 16)], strict=True):
    _NIBBLE[_digit] = _value


def _bytes(text: pa.Array) -> pa.Array:
    r"""`\x0aff…` -> bytes. All digits of all values are turned at once; lengths are even, so pairs never cross values."""
    text = text.cast(pa.binary())
    lengths = pc.fill_null(pc.binary_length(text), 0).to_numpy().astype(np.int64)
    valid = text.is_valid().to_numpy(zero_copy_only=False)
    data = np.frombuffer(b"".join([_data_of(text)]), dtype=np.uint8)
    starts = np.cumsum(lengths) - lengths
    prefixes = starts[valid]
    if np.any(lengths[valid] < 2) or np.any(lengths % 2) or not _prefixed(data, prefixes):
        raise EtlError(Kind.PROTOCOL, "bytea text", "a value does not begin with \\x", "report it")
    digits = np.ones(len(data), dtype=bool)
    digits[prefixes] = digits[prefixes + 1] = False
    nibbles = _NIBBLE[data[digits]]
    if np.any(nibbles == 255):
        raise EtlError(Kind.PROTOCOL, "bytea text", "a value has a digit that is not hexadecimal", "report it")
    octets = (nibbles[0::2] << 4) | nibbles[1::2]
    sizes = np.where(valid, (lengths - 2) // 2, 0)
    offsets = np.zeros(len(text) + 1, dtype=np.int32)
    np.cumsum(sizes, out=offsets[1:])
    validity = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(octets)]
    return pa.Array.from_buffers(pa.binary(), len(text), buffers, int(len(text) - valid.sum()))


def _prefixed(data: np.ndarray, at: np.ndarray) -> bool:
    return bool(np.all(data[at] == ord("\\")) and np.all(data[at + 1] == ord("x")))


def _data_of(text: pa.Array) -> bytes:
    """The bytes of all values on end (NULLs have none)."""
    if not len(text):
        return b""
    _, offsets, data = text.buffers()
    edges = np.frombuffer(offsets, dtype=np.int32)[text.offset : text.offset + len(text) + 1]
    if data is None:
        return b""
    return memoryview(data)[int(edges[0]) : int(edges[-1])].tobytes()
