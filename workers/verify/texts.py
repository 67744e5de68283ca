"""One text for equal values of both sides (pure): SQL of the source, SQL of the target, and what is left to do here.

| kind | text | how |
|---|---|---|
| numbers, text, uuid, date, boolean | PostgreSQL's | both sides in SQL |
| bytes | hexadecimal | both sides in SQL |
| timestamps | microseconds since 1970 | both sides in SQL |
| floats | the bits of the double | PostgreSQL's text is read as a double here |
| json | the document with sorted members and plain numbers | both read here, each distinct document once |
| any, masked by hash | the HMAC | of PostgreSQL's text, here: the secret never goes to the source |

What a column can't hold is a text in `_ETL_SPECIAL`; it is PostgreSQL's own, and the source's SQL leaves such values as they are.

The program's decoder, converters and encoder take no part: a fault in them is to be found, not repeated. Two things are shared, because they are
rules and not work: which documents VARIANT keeps as text (`variants`), and the masks.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Context, Decimal

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from psycopg import sql

from etl_supervisor.model.selection import MaskKind
from etl_supervisor.model.table import Column
from etl_supervisor.model.types import ValueKind
from workers.reader.masks import Masks
from workers.snowflake.variants import unfit
from workers.snowflake.window import name_of

_MOMENTS = (ValueKind.TIMESTAMP, ValueKind.TIMESTAMPTZ)
_FLOATS = (ValueKind.FLOAT32, ValueKind.FLOAT64)
_DOCUMENTS = (ValueKind.JSON, ValueKind.JSON_TEXT)
_NAN_BITS = np.int64(0x7FF8 << 48)  # one of the many
_EXACT = Context(prec=200_000)  # digits; jsonb's numbers have at most 147,456
_NUMBER = "\0"  # before a number of a document, so that it is not the string of its digits


def at_source(column: Column, masks: Masks) -> sql.Composable:
    """The expression of a column in the source; of one that is masked by hash, PostgreSQL's own text."""
    rule = masks.of(column)
    name = sql.Identifier(column.name)
    if rule is not None:
        match rule.kind:
            case MaskKind.CONSTANT:
                return sql.Literal(rule.constant)
            case MaskKind.NULL:
                return sql.SQL("NULL")
            case _:
                return name
    if column.type.kind is ValueKind.BYTES:
        return sql.SQL("upper(encode({}, 'hex'))").format(name)
    if column.type.kind in _MOMENTS:
        return sql.SQL(
            "CASE WHEN isfinite({0}) AND {0} >= '0001-01-01 00:00:00+00' AND {0} < '10000-01-01 00:00:00+00'"
            " THEN (extract(epoch FROM {0}) * 1000000)::bigint::text ELSE {0}::text END"
        ).format(name)
    return name


def at_target(column: Column) -> str:
    """The expression of a column, as the target has it."""
    name = name_of(column)
    match column.type.kind:
        case ValueKind.BOOLEAN:
            return f"CASE WHEN {name} THEN 't' WHEN NOT {name} THEN 'f' END"
        case ValueKind.FLOAT32 | ValueKind.FLOAT64 | ValueKind.TEXT | ValueKind.UUID:
            return name
        case ValueKind.BYTES:
            return f"HEX_ENCODE({name})"
        case ValueKind.DATE:
            return f"TO_CHAR({name}, 'YYYY-MM-DD')"
        case ValueKind.TIMESTAMP | ValueKind.TIMESTAMPTZ:
            return f"DATE_PART(EPOCH_MICROSECOND, {name})::VARCHAR"
        case ValueKind.JSON | ValueKind.JSON_TEXT:
            return f"TO_JSON({name})"
        case _:
            return f"{name}::VARCHAR"


def of_source(column: Column, masks: Masks, values: pa.Array) -> pa.Array:
    """What `at_source` gave -> the text that is compared."""
    rule = masks.of(column)
    if rule is not None:
        return masks.hashed(values) if rule.kind is MaskKind.HASH else values
    if column.type.kind in _FLOATS:
        return _bits(values.cast(pa.float64()))
    if column.type.kind in _DOCUMENTS:
        kept = unfit(values, column.type.kind)
        if kept is not None:
            values = pc.if_else(kept, _distinct(values, _as_string), values)
        return _distinct(values, _document)
    return values


def of_target(column: Column, values: pa.Array, special: pa.Array) -> pa.Array:
    """What `at_target` gave -> the text that is compared; `special` is `_ETL_SPECIAL`."""
    if column.type.kind in _FLOATS:
        return _bits(values.cast(pa.float64()))
    values = values.cast(pa.string())
    if special.null_count < len(special):
        beside = _distinct(special, lambda text: orjson.loads(text).get(column.name))
        values = pc.coalesce(values, beside)  # where both are there, one is too many: what readers see counts
    return _distinct(values, _document) if column.type.kind in _DOCUMENTS else values


def _distinct(values: pa.Array, turned: Callable[[str], str | None]) -> pa.Array:
    found = values.dictionary_encode()
    return pa.array([turned(text) for text in found.dictionary.to_pylist()], pa.string()).take(found.indices)


def _bits(values: pa.Array) -> pa.Array:
    """-0 is not 0; every NaN is one."""
    bits = pc.if_else(pc.is_nan(values), pa.scalar(_NAN_BITS, pa.int64()), values.view(pa.int64()))
    return bits.cast(pa.string())


def _as_string(text: str) -> str:
    return json.dumps(text)


def _document(text: str) -> str:
    return json.dumps(json.loads(text, parse_int=_number, parse_float=_number), sort_keys=True)


def _number(text: str) -> str:
    value = Decimal(text)
    return _NUMBER + ("0" if value == 0 else str(value.normalize(_EXACT)))
