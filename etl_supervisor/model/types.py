"""What a column's values are, independent of PostgreSQL, Arrow and Snowflake.

The reader maps PostgreSQL types to a `ValueType` (workers/reader/pgtypes.py) and decodes into the Arrow form; an actor maps a
`ValueType` to a Snowflake type and its NDJSON form (workers/snowflake/sftypes.py). Neither knows the other's types.

| kind        | Arrow form              | note |
|-------------|-------------------------|------|
| BOOLEAN     | bool                    | |
| INT16/32/64 | int16/int32/int64       | oid is INT64 |
| FLOAT32/64  | float32/float64         | NaN and infinities are values |
| NUMERIC     | decimal128(p, s)        | p <= 38 and 0 <= s <= 37; any other numeric is TEXT |
| TEXT        | string                  | every type without a kind of its own, in PostgreSQL's text form |
| BYTES       | binary                  | |
| DATE        | date32                  | |
| TIMESTAMP   | timestamp[us]           | |
| TIMESTAMPTZ | timestamp[us, UTC]      | |
| UUID        | string                  | 36 characters |
| JSON        | string                  | jsonb: JSON text in PostgreSQL's own form |
| JSON_TEXT   | string                  | json: JSON text as it was written |

A value that the typed form can't hold (numeric NaN, infinite or out-of-range dates, JSON null) is NULL in its column and kept as text in
`_etl_special`, a JSON object column name -> text; it is never lost silently.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ValueKind(StrEnum):
    """The kinds of values; see the table above."""

    BOOLEAN = "boolean"
    INT16 = "int16"
    INT32 = "int32"
    INT64 = "int64"
    FLOAT32 = "float32"
    FLOAT64 = "float64"
    NUMERIC = "numeric"
    TEXT = "text"
    BYTES = "bytes"
    DATE = "date"
    TIMESTAMP = "timestamp"
    TIMESTAMPTZ = "timestamptz"
    UUID = "uuid"
    JSON = "json"
    JSON_TEXT = "json_text"


def is_special(text: str, kind: ValueKind) -> bool:
    """Must a value of this kind, given as PostgreSQL's text, be kept in `_etl_special`? For single values, such as a column's default."""
    match kind:
        case ValueKind.NUMERIC:
            return text == "NaN"
        case ValueKind.DATE | ValueKind.TIMESTAMP | ValueKind.TIMESTAMPTZ:
            return text[4:5] != "-" or text.startswith("-") or text.endswith("BC")
        case ValueKind.JSON | ValueKind.JSON_TEXT:
            return text.strip() == "null"
        case _:
            return False


@dataclass(frozen=True, slots=True)
class ValueType:
    """A kind, with precision and scale for NUMERIC."""

    kind: ValueKind
    precision: int = 0
    scale: int = 0

    def __post_init__(self) -> None:
        if self.kind is not ValueKind.NUMERIC:
            return
        if not (1 <= self.precision <= 38 and 0 <= self.scale <= min(self.precision, 37)):
            raise ValueError(f"NUMERIC({self.precision}, {self.scale}) is text, not a number")
