"""PostgreSQL's text -> typed Arrow arrays, by Arrow's kernels and numpy; the stream and the copy share it.

`convert` gives the typed array and, if there are any, the flags of the values that the type can't hold (numeric NaN, dates that are infinite,
BC or after the year 9999, the JSON value null): they are NULL in the array and go as text into `_etl_special`.

The sessions run with timezone UTC, datestyle ISO, bytea_output hex (see `stream.SESSION_OPTIONS`).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import numpy.typing as npt
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

SLICE_PAIRS = 1 << 18  # of hexadecimal digits turned at once: what that needs on the way fits into the cache
_PREFIX, _NO_PAIR = 256, 257
_HEXADECIMAL = {digit: int(digit, 16) for digit in "0123456789abcdefABCDEF"}
_PAIRS = np.full(1 << 16, _NO_PAIR, dtype=np.uint16)  # two characters, as a number -> the octet that they write
for _high, _low in product(_HEXADECIMAL, repeat=2):
    _PAIRS[int.from_bytes((_high + _low).encode(), "little")] = 16 * _HEXADECIMAL[_high] + _HEXADECIMAL[_low]
_PAIRS[int.from_bytes(b"\\x", "little")] = _PREFIX


def _bytes(text: pa.Array) -> pa.Array:
    r"""`\x0aff…` -> bytes. Lengths are even, so pairs of characters never cross values; values may be long, so slices of pairs are turned."""
    lengths = pc.fill_null(pc.binary_length(text), 0).to_numpy().astype(np.int64)
    valid = text.is_valid().to_numpy(zero_copy_only=False)
    first = ((np.cumsum(lengths) - lengths) // 2)[valid]  # the pair with which each value begins
    if np.any(lengths[valid] < 2) or np.any(lengths % 2):
        raise _not_bytea("does not begin with \\x")
    offsets = np.zeros(len(text) + 1, dtype=np.int32)
    np.cumsum(np.where(valid, lengths // 2 - 1, 0), out=offsets[1:])
    octets = _octets(_pairs_of(text), first, int(offsets[-1]))
    validity = None if valid.all() else pa.py_buffer(np.packbits(valid, bitorder="little"))
    buffers = [validity, pa.py_buffer(offsets), pa.py_buffer(octets)]
    return pa.Array.from_buffers(pa.binary(), len(text), buffers, int(len(text) - valid.sum()))


def _octets(pairs: npt.NDArray[np.uint16], first: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.uint8]:
    """The octets that pairs of digits write, without the values' prefixes, which stand at `first`."""
    octets = np.empty(count, dtype=np.uint8)
    filled = 0
    for at in range(0, len(pairs), SLICE_PAIRS):
        turned = _PAIRS[pairs[at : at + SLICE_PAIRS]]
        prefixes = first[slice(*np.searchsorted(first, [at, at + SLICE_PAIRS]))] - at
        if np.any(turned[prefixes] != _PREFIX):
            raise _not_bytea("does not begin with \\x")
        digits = turned[turned < _PREFIX]
        if len(digits) + len(prefixes) != len(turned):
            raise _not_bytea("has a digit that is not hexadecimal")
        octets[filled : filled + len(digits)] = digits
        filled += len(digits)
    return octets


def _not_bytea(reason: str) -> EtlError:
    return EtlError(Kind.PROTOCOL, "bytea text", f"a value {reason}", "report it")


def _pairs_of(text: pa.Array) -> npt.NDArray[np.uint16]:
    """The characters of all values on end (NULLs have none), two by two; over the array's own memory."""
    _, offsets, data = text.buffers()
    if data is None or not len(text):
        return np.empty(0, dtype=np.uint16)
    edges = np.frombuffer(offsets, dtype=np.int32)[text.offset : text.offset + len(text) + 1]
    return np.frombuffer(data, dtype="<u2", count=int(edges[-1] - edges[0]) // 2, offset=int(edges[0]))
