"""`ValueType` -> Snowflake column types."""

from __future__ import annotations

from etl_supervisor.model.types import ValueKind, ValueType

_TYPES = {
    ValueKind.BOOLEAN: "BOOLEAN",
    ValueKind.INT16: "NUMBER(5,0)",
    ValueKind.INT32: "NUMBER(10,0)",
    ValueKind.INT64: "NUMBER(19,0)",
    ValueKind.FLOAT32: "FLOAT",
    ValueKind.FLOAT64: "FLOAT",
    ValueKind.TEXT: "VARCHAR",
    ValueKind.BYTES: "BINARY",
    ValueKind.DATE: "DATE",
    ValueKind.TIMESTAMP: "TIMESTAMP_NTZ(6)",
    ValueKind.TIMESTAMPTZ: "TIMESTAMP_TZ(6)",
    ValueKind.UUID: "VARCHAR",
    ValueKind.JSON: "VARIANT",
    ValueKind.JSON_TEXT: "VARIANT",
}

NEUTRAL = {  # kinds with values that live in _ETL_SPECIAL, and what stands for their NULL where keys are compared
    ValueKind.NUMERIC: "0",
    ValueKind.DATE: "'0001-01-01'::DATE",
    ValueKind.TIMESTAMP: "'0001-01-01'::TIMESTAMP_NTZ(6)",
    ValueKind.TIMESTAMPTZ: "'0001-01-01 00:00:00 +00:00'::TIMESTAMP_TZ(6)",
    ValueKind.JSON: "PARSE_JSON('0')",
}

LANDING_META = (
    ("_ETL_OP", "VARCHAR(1)"),
    ("_ETL_GENERATION", "NUMBER(10,0)"),
    ("_ETL_COMMIT_LSN", "NUMBER(20,0)"),
    ("_ETL_LSN", "NUMBER(20,0)"),
    ("_ETL_INDEX", "NUMBER(10,0)"),
    ("_ETL_COMMIT_TS", "TIMESTAMP_TZ(6)"),
    ("_ETL_XID", "NUMBER(10,0)"),
    ("_ETL_LOADED_AT", "TIMESTAMP_TZ(6)"),
    ("_ETL_UNCHANGED", "VARCHAR"),
    ("_ETL_OLD_KEY", "VARCHAR"),
    ("_ETL_SPECIAL", "VARCHAR"),
)
TARGET_META = (("_ETL_SPECIAL", "VARCHAR"), ("_ETL_COMMIT_LSN", "NUMBER(20,0)"), ("_ETL_COMMIT_TS", "TIMESTAMP_TZ(6)"))
SOFT_META = (("_ETL_DELETED", "BOOLEAN"), ("_ETL_DELETED_AT", "TIMESTAMP_TZ(6)"))  # of a target that keeps deleted rows
COPY = "_ETL_COPY"  # which of several equal rows, from 1; in the target of a table without a key
KEYLESS_META = ((COPY, "NUMBER(19,0)"),)
HISTORY_META = (
    ("_ETL_SPECIAL", "VARCHAR"),
    ("_ETL_VALID_FROM", "TIMESTAMP_TZ(6)"),
    ("_ETL_VALID_TO", "TIMESTAMP_TZ(6)"),
    ("_ETL_FROM_LSN", "NUMBER(20,0)"),
    ("_ETL_TO_LSN", "NUMBER(20,0)"),
)


def column_type(value: ValueType) -> str:
    """The type of a column; wide enough for every value of the kind."""
    if value.kind is ValueKind.NUMERIC:
        return f"NUMBER({value.precision},{value.scale})"
    return _TYPES[value.kind]


def follows(old: str, new: str) -> bool | None:
    """Can a column of type `old` take values of `new`? True: as it is. False: after widening it. None: not at all.

    Types are in the spelling of `column_type`. Widening is what ALTER … SET DATA TYPE can do: more digits before the point.
    """
    old, new = (text if text.startswith("NUMBER") else text.partition("(")[0] for text in (old, new))
    if old == new or old == "VARCHAR":
        return True
    narrow, wide = _number(old), _number(new)
    if narrow is None or wide is None or narrow[1] != wide[1]:
        return None
    return wide[0] <= narrow[0]


def _number(text: str) -> tuple[int, int] | None:
    if not text.startswith("NUMBER("):
        return None
    precision, scale = text[7:-1].split(",")
    return int(precision), int(scale)
