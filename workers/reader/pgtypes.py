"""PostgreSQL types -> `ValueType`. Whatever is not listed travels as text, in PostgreSQL's own form."""

from __future__ import annotations

from etl_supervisor.model.types import ValueKind, ValueType

_KINDS = {  # pg_type.oid of the built-in types never changes
    16: ValueKind.BOOLEAN,
    17: ValueKind.BYTES,
    20: ValueKind.INT64,
    21: ValueKind.INT16,
    23: ValueKind.INT32,
    26: ValueKind.INT64,  # oid is unsigned 32 bit
    114: ValueKind.JSON_TEXT,
    700: ValueKind.FLOAT32,
    701: ValueKind.FLOAT64,
    1082: ValueKind.DATE,
    1114: ValueKind.TIMESTAMP,
    1184: ValueKind.TIMESTAMPTZ,
    2950: ValueKind.UUID,
    3802: ValueKind.JSON,
}
NUMERIC_OID = 1700
PRECISION_MAX = 38  # NUMBER's and decimal128's
SCALE_MAX = 37
_TYPMOD_HEADER = 4  # VARHDRSZ


def value_type(type_oid: int, typmod: int) -> ValueType:
    """The value type of a column; for a domain pass its base type."""
    if type_oid == NUMERIC_OID:
        return _numeric(typmod)
    return ValueType(_KINDS.get(type_oid, ValueKind.TEXT))


def _numeric(typmod: int) -> ValueType:
    """numeric(p,s) that NUMBER can hold; unbounded, negative or larger scales stay text, which loses nothing."""
    if typmod >= _TYPMOD_HEADER:
        packed = typmod - _TYPMOD_HEADER
        precision, scale = packed >> 16, (packed & 0x7FF ^ 0x400) - 0x400
        if 1 <= precision <= PRECISION_MAX and 0 <= scale <= min(precision, SCALE_MAX):
            return ValueType(ValueKind.NUMERIC, precision, scale)
    return ValueType(ValueKind.TEXT)
