"""PostgreSQL's binary values -> the same typed Arrow arrays that its text gives, read straight out of the frames.

The form follows from the kind of value and the length: a 4-byte INT64 is an oid, JSON begins with octet 1 (jsonb's version). A source
is read in binary only when every published column has a form that is read here (see `transfer`). Numbers are gathered; only texts are copied.

What a type can't hold (numeric NaN, dates that are infinite, BC or after the year 9999, the JSON value null) is NULL and flagged, and its text is
PostgreSQL's own.

(Manual: "Message Formats"; the forms themselves: the `*_send` functions of PostgreSQL's source, `numeric_send` and `jsonb_send` above all.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from etl_supervisor.ipc.arrow import arrow_type
from etl_supervisor.model.table import Column
from etl_supervisor.model.types import ValueKind
from workers.reader.columns import convert as convert_text
from workers.reader.frame import Fields, Flags, Integers, broken
from workers.reader.values import BINARY, ColumnValues, bytes_array

Values = npt.NDArray[Any]
Converted = tuple[pa.Array, pa.Array | None, pa.Array | None]  # values, flags of the special ones, their texts

_DAYS_1970_2000 = 10_957
_DAY_US = 86_400_000_000
_DATE_FIRST, _DATE_END = -719_162, 2_932_897  # 0001-01-01 and 10000-01-01, in days since 1970
_INFINITY = {4: np.iinfo(np.int32).max, 8: np.iinfo(np.int64).max}
_NUMBERS = {
    (ValueKind.INT16, 2): ">i2",
    (ValueKind.INT32, 4): ">i4",
    (ValueKind.INT64, 8): ">i8",
    (ValueKind.INT64, 4): ">u4",  # oid
    (ValueKind.FLOAT32, 4): ">f4",
    (ValueKind.FLOAT64, 8): ">f8",
}


def convert(data: Fields, column: ColumnValues, definition: Column, place: str) -> Converted:
    """The values of one column. EtlError(PROTOCOL) for a value that is not of its form; never with the value."""
    present = column.kind == BINARY
    return _READERS.get(definition.type.kind, _number)(data, column, present, definition, place)


def texts(data: Fields, column: ColumnValues, definition: Column, place: str) -> pa.Array:
    """The values as text, as PostgreSQL would print them (floats may differ in how an exponent is written)."""
    values, _, special = convert(data, column, definition, place)
    kind = definition.type.kind
    if kind is ValueKind.BOOLEAN:
        plain = pc.if_else(values, "t", "f")
    elif kind in (ValueKind.TIMESTAMP, ValueKind.TIMESTAMPTZ):
        plain = pc.replace_substring_regex(values.cast(pa.timestamp("us")).cast(pa.string()), r"\.?0*$", "")
        if kind is ValueKind.TIMESTAMPTZ:
            plain = pc.binary_join_element_wise(plain, "+00", "")
    else:
        plain = values.cast(pa.string())
    return plain if special is None else pc.coalesce(plain, special)


def _array(values: Values, present: Flags, to: pa.DataType) -> pa.Array:
    """Numbers in the machine's order as an Arrow array over their own memory."""
    whole = bool(present.all())
    validity = None if whole else pa.py_buffer(np.packbits(present, bitorder="little"))
    return pa.Array.from_buffers(to, len(present), [validity, pa.py_buffer(np.ascontiguousarray(values))])


def _gather(data: Fields, column: ColumnValues, present: Flags, form: str, definition: Column) -> Values:
    """The number at each value's place; anything where there is none."""
    size = np.dtype(form).itemsize
    if bool((column.end - column.begin != size)[present].any()):
        raise broken("tuple", f"length of column {definition.name}")
    found = data.view(form)[column.begin if present.all() else np.where(present, column.begin, 0)]
    return found.astype(found.dtype.newbyteorder("="))


def _number(data: Fields, column: ColumnValues, present: Flags, definition: Column, _: str) -> Converted:
    sizes = (column.end - column.begin)[present]
    size = int(sizes[0]) if len(sizes) else 0
    if not len(sizes):
        return pa.nulls(len(present), arrow_type(definition.type)), None, None
    form = _NUMBERS.get((definition.type.kind, size))
    if form is None:
        raise broken("tuple", f"length of column {definition.name}")
    values = _gather(data, column, present, form, definition)
    if form == ">u4":
        values = values.astype(np.int64)
    return _array(values, present, arrow_type(definition.type)), None, None


def _boolean(data: Fields, column: ColumnValues, present: Flags, definition: Column, _: str) -> Converted:
    values = _gather(data, column, present, ">u1", definition)
    if bool((values[present] > 1).any()):
        raise broken("tuple", f"value of column {definition.name}")
    return pa.array(values.astype(bool), mask=None if present.all() else ~present), None, None


def _text(data: Fields, column: ColumnValues, present: Flags, definition: Column, place: str) -> Converted:
    """Texts are sent as they are; text that is not UTF-8 is refused where text is read."""
    if definition.type.kind is ValueKind.BYTES:
        return bytes_array(data, column, present), None, None
    text = bytes_array(data, column, present)
    array, odd = convert_text(text, definition, place)
    return array, odd, None if odd is None else text.cast(pa.string())


def _json(data: Fields, column: ColumnValues, present: Flags, definition: Column, place: str) -> Converted:
    """jsonb has a version before its text."""
    versioned = present & (column.end > column.begin)
    versioned &= data.byte(np.minimum(column.begin, data.limit)) == 1
    bare = ColumnValues(column.kind, column.begin + versioned, column.end)
    return _text(data, bare, present, definition, place)


def _uuid(data: Fields, column: ColumnValues, present: Flags, definition: Column, _: str) -> Converted:
    if bool((column.end - column.begin != 16)[present].any()):
        raise broken("tuple", f"length of column {definition.name}")
    places = column.begin[present]
    octets = data.view("V16")[places].view(np.uint8)
    digits = _HEX_PAIRS[octets].view(np.uint8).reshape(-1, 32)
    out = np.full((len(places), 36), ord("-"), dtype=np.uint8)
    for first, last, at in _UUID_GROUPS:
        out[:, at : at + last - first] = digits[:, first:last]
    edges = np.zeros(len(present) + 1, dtype=np.int32)
    np.cumsum(present * 36, out=edges[1:])
    validity = None if present.all() else pa.py_buffer(np.packbits(present, bitorder="little"))
    buffers = [validity, pa.py_buffer(edges), pa.py_buffer(out)]
    return pa.Array.from_buffers(pa.string(), len(present), buffers), None, None


def _date(data: Fields, column: ColumnValues, present: Flags, definition: Column, _: str) -> Converted:
    """int4: days since 2000."""
    raw = _gather(data, column, present, ">i4", definition)
    days = raw.astype(np.int64) + _DAYS_1970_2000
    array, odd, special = _moment(raw, days, np.zeros_like(days), present, definition.type.kind)
    return _array(days.astype(np.int32), present & ~odd, array), *special


def _timestamp(data: Fields, column: ColumnValues, present: Flags, definition: Column, _: str) -> Converted:
    """int8: microseconds since 2000."""
    raw = _gather(data, column, present, ">i8", definition).astype(np.int64)
    days, within = np.divmod(raw, _DAY_US)
    array, odd, special = _moment(raw, days + _DAYS_1970_2000, within, present, definition.type.kind)
    return _array(raw + _DAYS_1970_2000 * _DAY_US, present & ~odd, array), *special


def _moment(
    raw: Values, days: Integers, within: Integers, present: Flags, kind: ValueKind
) -> tuple[pa.DataType, Flags, tuple[pa.Array | None, pa.Array | None]]:
    """Which moments are special, and their texts: written once for each distinct one."""
    to = {ValueKind.DATE: pa.date32(), ValueKind.TIMESTAMP: pa.timestamp("us")}.get(kind, pa.timestamp("us", "UTC"))
    odd = present & ((days < _DATE_FIRST) | (days >= _DATE_END))
    if not bool(odd.any()):
        return to, odd, (None, None)
    first, inverse = np.unique(raw[odd], return_index=True, return_inverse=True)[1:]
    words = [
        _words(int(value), raw.dtype.itemsize, int(day), int(us), kind)
        for value, day, us in zip(raw[odd][first], days[odd][first], within[odd][first], strict=True)
    ]
    index = np.zeros(len(odd), dtype=np.int64)
    index[odd] = inverse.reshape(-1)
    special = pa.array(words, pa.string()).take(pa.array(index, mask=~odd))
    return to, odd, (pa.array(odd), special)


def _words(value: int, size: int, day: int, within: int, kind: ValueKind) -> str:
    """One special moment as PostgreSQL prints it."""
    if value == _INFINITY[size]:
        return "infinity"
    if value == -_INFINITY[size] - 1:
        return "-infinity"
    whole = str(np.datetime64(day, "D"))  # years before 1 are counted from 0 downwards
    sign = -1 if whole.startswith("-") else 1
    year, month, of_month = whole.lstrip("-").split("-")
    number = sign * int(year)
    text = f"{number if number > 0 else 1 - number:04}-{month}-{of_month}"
    if kind is not ValueKind.DATE:
        seconds, micros = divmod(within, 1_000_000)
        text += f" {seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        text += f".{micros:06}".rstrip("0") if micros else ""
        text += "+00" if kind is ValueKind.TIMESTAMPTZ else ""
    return text if number > 0 else text + " BC"


# -- numeric: count(2) weight(2) sign(2) scale(2), then digits of base 10,000, the first one times 10,000 ** weight

_SPECIAL_SIGNS = {0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}
_LIMB = 12  # decimal digits of one of three int64 sums; with a group of four more there is room
_HEADER = 8
_INT64_PRECISION = 18


def _numeric(data: Fields, column: ColumnValues, present: Flags, definition: Column, _: str) -> Converted:
    field = f"value of column {definition.name}"
    begin = np.where(present, column.begin, 0)
    count, sign = data.uint16(begin), data.uint16(begin + 4)
    weight = data.uint16(begin + 2)
    weight -= (weight & 0x8000) << 1
    sizes = column.end - column.begin
    if bool((sizes[present] != (_HEADER + 2 * count)[present]).any()):
        raise broken("tuple", field)
    odd = present & (sign > 0x4000)
    ordinary = present & ~odd
    value = _decimal(data, begin, count * ordinary, weight, sign == 0x4000, definition)
    array = _array(value, ordinary, arrow_type(definition.type))
    if not bool(odd.any()):
        return array, None, None
    if not set(np.unique(sign[odd]).tolist()) <= set(_SPECIAL_SIGNS):
        raise broken("tuple", field)
    special = pa.nulls(len(odd), pa.string())
    for code, word in _SPECIAL_SIGNS.items():
        special = pc.if_else(pa.array(odd & (sign == code)), word, special)
    return array, pa.array(odd), special


def _decimal(
    data: Fields, begin: Integers, count: Integers, weight: Integers, negative: Flags, definition: Column
) -> Values:
    """The unscaled values as 128-bit integers, two 64-bit words each."""
    precision, scale = definition.type.precision, definition.type.scale
    narrow = precision <= _INT64_PRECISION
    limbs = [np.zeros(len(begin), dtype=np.int64) for _ in range(1 if narrow else 3)]
    for number in range(int(count.max(initial=0))):
        digit = data.uint16(np.minimum(begin + _HEADER + 2 * number, data.limit)) * (number < count)
        exponent = 4 * (weight - number) + scale
        room = _POWERS[np.clip(precision - exponent, 0, _INT64_PRECISION)]
        if bool(((digit > 9999) | (digit >= room) | ((exponent < -3) & (digit > 0))).any()):
            raise broken("tuple", f"value of column {definition.name}")
        exponent = np.clip(exponent, -3, precision)
        limb = np.zeros_like(exponent) if narrow else np.clip(exponent // _LIMB, 0, 2)
        within = exponent - _LIMB * limb
        shifted = digit * _POWERS[np.maximum(within, 0)] // _POWERS[np.maximum(-within, 0)]
        for place, total in enumerate(limbs):
            total += shifted if narrow else np.where(limb == place, shifted, 0)
    if narrow:
        low = np.where(negative, -limbs[0], limbs[0])
        return np.stack([low, low >> 63], axis=1)
    return _wide(limbs, negative)


def _wide(limbs: list[Integers], negative: Flags) -> Values:
    """limbs[0] + limbs[1] * 10**12 + limbs[2] * 10**24, by Arrow."""
    limb = pa.decimal256(19, 0)  # what an int64 may hold
    total = pa.array(limbs[0]).cast(limb)
    for place in (1, 2):
        factor = pa.scalar(10 ** (_LIMB * place), pa.decimal256(25, 0))
        total = pc.add(total, pc.multiply(pa.array(limbs[place]).cast(limb), factor))
    total = pc.if_else(pa.array(negative), pc.negate(total), total).cast(pa.decimal128(38, 0))
    words: Values = np.frombuffer(total.buffers()[1], dtype=np.int64)[: 2 * len(total)].reshape(-1, 2)
    return words


_POWERS = np.array([10**n for n in range(_INT64_PRECISION + 1)], dtype=np.int64)
_HEX_PAIRS = np.frombuffer(bytes(range(256)).hex().encode(), dtype=np.uint16)
_UUID_GROUPS = ((0, 8, 0), (8, 12, 9), (12, 16, 14), (16, 20, 19), (20, 32, 24))  # digits from, to; place in the text
_READERS: dict[ValueKind, Callable[[Fields, ColumnValues, Flags, Column, str], Converted]] = {
    ValueKind.BOOLEAN: _boolean,
    ValueKind.NUMERIC: _numeric,
    ValueKind.TEXT: _text,
    ValueKind.BYTES: _text,
    ValueKind.DATE: _date,
    ValueKind.TIMESTAMP: _timestamp,
    ValueKind.TIMESTAMPTZ: _timestamp,
    ValueKind.UUID: _uuid,
    ValueKind.JSON: _json,
    ValueKind.JSON_TEXT: _text,
}
